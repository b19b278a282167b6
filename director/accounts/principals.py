"""The principal of a request, by its token or session: read once, and kept for a few seconds."""

import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core import signing
from django.db.models import Q
from django.utils.crypto import constant_time_compare

from director.accounts.models import Token
from director.accounts.people import role_of
from director.accounts.tokens import digest_of, valid_tokens
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import (
    OVERSEERS,
    ROLE_RIGHTS,
    SCOPE_RIGHTS,
    Principal,
    Scope,
    is_account_token,
)
from jobgroups.domain.clock import now
from jobgroups.domain.newest import Newest

SESSION_SECONDS: Final = 30 * 86_400
#: A revoked token and a disabled account are valid for so long in a process that has just read
#: them.
KEPT_SECONDS: Final = 3.0
_MAX_KEPT: Final = 10_000
_USE_INTERVAL: Final = timedelta(hours=1)
_SALT: Final = "director.accounts.session"


#: The token and the session of a request.
Credentials: TypeAlias = tuple[str | None, str | None]


#: Principals by the digests of their credentials; None in it: they are invalid.
kept: Final = Newest[str, tuple[Principal | None]](_MAX_KEPT, KEPT_SECONDS)


def new_session(user: User) -> str:
    """Return the value of a session's cookie. It ends with a change of the password."""
    # Signatures have whole seconds; a sign-out ends one of several sign-ins of a second.
    unique = secrets.token_hex(8)
    return signing.dumps([user.pk, user.get_session_auth_hash(), unique], salt=_SALT)


@retried_transaction
def session_end(value: str) -> None:
    """End a session before its time: its cookie may have been copied.

    The row is one of Django's sessions, without data, so that expired ones are deleted with those.
    """
    until = now() + timedelta(seconds=SESSION_SECONDS)
    Session.objects.get_or_create(pk=_ended_key(value), defaults={"expire_date": until})
    kept.put(_key(None, value), (None,))


def _ended_key(value: str) -> str:
    return f"ended:{digest_of(value)}"[:40]


def principal_of(token: str | None, session: str | None) -> Principal | None:
    """Return the principal of a token, or without one that of a session; None: it is invalid.

    Reads the database unless the result is kept.
    """
    if (result := kept_result(token, session)) is not None:
        return result[0]
    return _read(token, session)


def refreshed(credentials: Iterable[Credentials]) -> dict[Credentials, Principal | None]:
    """Return the principals of tokens and sessions as the database has them now."""
    return {sent: _read(*sent) for sent in credentials}


def _read(token: str | None, session: str | None) -> Principal | None:
    principal = _by_token(token) if token is not None else _by_session(session or "")
    kept.put(_key(token, session), (principal,))
    return principal


def kept_result(token: str | None, session: str | None) -> tuple[Principal | None] | None:
    """Return what ``principal_of`` returns without the database, in a tuple; None if it needs it."""
    is_empty = not (session if token is None else token)
    return (None,) if is_empty else kept.get(_key(token, session))


def _key(token: str | None, session: str | None) -> str:
    return f"session:{digest_of(session or '')}" if token is None else f"token:{digest_of(token)}"


def _by_token(text: str) -> Principal | None:
    if not is_account_token(text):
        return None
    token = valid_tokens().filter(digest=digest_of(text)).select_related("owner").first()
    if token is None:
        return None
    unused = Q(used_at__isnull=True) | Q(used_at__lt=now() - _USE_INTERVAL)
    if token.used_at is None or token.used_at < now() - _USE_INTERVAL:
        Token.objects.filter(unused, pk=token.pk).update(used_at=now())
    principal = _of(token.owner)
    if principal is None:
        return None
    scope = Scope(token.scope)
    right = min(principal.right, SCOPE_RIGHTS[scope])
    return replace(principal, right=right, token_id=token.pk, scope=scope)


def _by_session(value: str) -> Principal | None:
    try:
        user_id, session_hash, *_ = signing.loads(value, salt=_SALT, max_age=SESSION_SECONDS)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or not constant_time_compare(session_hash, user.get_session_auth_hash()):
        return None
    return None if Session.objects.filter(pk=_ended_key(value)).exists() else _of(user)


def _of(user: User) -> Principal | None:
    role = role_of(user)
    if role is None:
        return None
    sees_all = not settings.DIRECTOR_PRIVATE or role in OVERSEERS
    return Principal(ROLE_RIGHTS[role], user.pk, user.username, role, sees_all=sees_all)
