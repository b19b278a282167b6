"""People and services: add, change the role, disable, and one-time links for passwords."""

import re
from collections.abc import Iterable
from typing import Final

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.contrib.auth.tokens import default_token_generator
from django.db.models import QuerySet
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode

from backends.errors import FieldInvalid
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import Role
from jobgroups.domain.audit import Action
from jobgroups.errors import AccountExists, AccountNotFound, Conflict, LastAdministrator
from jobgroups.services.audit import record, record_alone

#: A slash parts a service from whom it acts for; ``@`` is in the names that command lines send.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_ROLES: Final = {role.value: role for role in Role}


def role_of(user: User) -> Role | None:
    """Return the role of an account; None: it has none, and may do nothing."""
    return next((_ROLES[group.name] for group in user.groups.all() if group.name in _ROLES), None)


def person_named(name: str) -> User:
    """Return an account. Raises ``AccountNotFound``."""
    user = User.objects.filter(username=name).prefetch_related("groups").first()
    if user is None:
        raise AccountNotFound(f"There is no account {name[:60]!r}.")
    return user


def people() -> Iterable[User]:
    """Return all accounts that have a role, by name."""
    return (
        User.objects.filter(groups__name__in=_ROLES).prefetch_related("groups").order_by("username")
    )


@retried_transaction
def person_add(name: str, role: Role) -> User:
    """Store an account without a password.

    Raises:
        FieldInvalid: the name has other characters.
        AccountExists: an account has this name, perhaps in other letters.
    """
    if not _NAME.fullmatch(name):
        raise FieldInvalid(
            "name", "Use 1 to 60 letters, digits and ._- and begin with a letter or digit."
        )
    if User.objects.filter(username__iexact=name).exists():
        raise AccountExists(f"There is an account {name} already.")
    user = User.objects.create_user(name)
    _set_role(user, role)
    record(Action.PERSON_ADDED, name, role=role.value)
    return user


@retried_transaction
def person_change(name: str, *, role: Role | None = None, is_active: bool | None = None) -> User:
    """Change the role of an account, or disable or enable it.

    Raises:
        AccountNotFound: there is no such account.
        LastAdministrator: it is the last one.
    """
    user = person_named(name)
    # All at once: two administrators who disable each other at the same moment wait for each other
    # here.
    administrators = list(_administrators().select_for_update().order_by("pk"))
    stays = role in (None, Role.ADMINISTRATOR) and is_active is not False
    if administrators == [user] and not stays:
        raise LastAdministrator(f"{name} is the last administrator. Make another one first.")
    if role is not None:
        _set_role(user, role)
    if is_active is not None:
        user.is_active = is_active
        user.save(update_fields=["is_active"])
    record(Action.PERSON_CHANGED, name, role=role and role.value, is_active=is_active)
    return person_named(name)


def _administrators() -> QuerySet[User]:
    return User.objects.filter(is_active=True, groups__name=Role.ADMINISTRATOR.value)


def has_administrator() -> bool:
    """Return whether an active account has the role of an administrator."""
    return _administrators().exists()


def _set_role(user: User, role: Role) -> None:
    group, _ = Group.objects.get_or_create(name=role.value)
    user.groups.set([*user.groups.exclude(name__in=_ROLES), group])
    is_administrator = role is Role.ADMINISTRATOR
    user.is_staff = user.is_superuser = is_administrator  # the admin site
    user.save(update_fields=["is_staff", "is_superuser"])


def password_link(user: User, base: str = "") -> str:
    """Return a link by which an account gets a new password, once and within three days.

    Raises ``Conflict`` for a service, which has no password.
    """
    if role_of(user) is Role.SERVICE:
        raise Conflict("A service cannot sign in; make a token for it.")
    record_alone(Action.PASSWORD_LINK_MADE, user.username)
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return f"{base or address()}/sign-in/password/{uid}/{default_token_generator.make_token(user)}"


def person_of_link(uid: str, code: str) -> User | None:
    """Return the account of a link; None: it is not valid, or no longer."""
    try:
        user = User.objects.prefetch_related("groups").get(
            pk=int(urlsafe_base64_decode(uid)), is_active=True
        )
    except (ValueError, OverflowError, User.DoesNotExist):
        return None
    return user if default_token_generator.check_token(user, code) else None


@retried_transaction
def password_set(user: User, password: str) -> None:
    """Store a new password, which ends the sessions and the link of the account."""
    user.set_password(password)
    user.save(update_fields=["password"])
    record(Action.PASSWORD_SET, user.username, by=user.username)


def first_code() -> str:
    """Return the code by which the first administrator is made. It is valid while there is none."""
    return salted_hmac("director.accounts.first", "administrator", algorithm="sha256").hexdigest()[
        :32
    ]


def is_first_code(code: str) -> bool:
    """Return whether this is the code, and no administrator exists."""
    return constant_time_compare(code, first_code()) and not has_administrator()


def address() -> str:
    """Return the public address of the pages."""
    return str(settings.DIRECTOR_PUBLIC_URL or "http://localhost:9820")
