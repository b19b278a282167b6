"""Who may do what: the one decision about a request, without a database."""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Right(IntEnum):
    """What a request needs. Each includes the smaller ones."""

    SEE = 1
    SUBMIT = 2  #: Also every change of the principal's own groups, assets and webhooks.
    OPERATE = 3  #: Change all groups, and the machines.
    ADMINISTER = 4  #: People, their tokens, and the admin site.


class Role(StrEnum):
    """Role of a person, from the least to the most, and of a program that acts as an artist."""

    VIEWER = "viewer"
    ARTIST = "artist"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"
    SERVICE = "service"  #: Has tokens and no password.


class Visibility(StrEnum):
    """Who sees a group where people see their own work alone (``DIRECTOR_PRIVATE``)."""

    PRIVATE = "private"  #: Its account, operators and administrators.
    SHARED = "shared"  #: Every account.


class Scope(StrEnum):
    """What a token may do at most. ``includes`` has their order."""

    READ = "read"
    SUBMIT = "submit"
    OPERATE = "operate"
    DELEGATE = "delegate"  #: As ``SUBMIT``, also on behalf of the account's customers.

    def includes(self, other: "Scope") -> bool:
        """Return whether a token of this scope may make one of the other."""
        if other is Scope.DELEGATE:
            return self is Scope.DELEGATE
        return SCOPE_RIGHTS[self] >= SCOPE_RIGHTS[other]


ROLE_RIGHTS: Final = {
    Role.VIEWER: Right.SEE,
    Role.ARTIST: Right.SUBMIT,
    Role.OPERATOR: Right.OPERATE,
    Role.ADMINISTRATOR: Right.ADMINISTER,
    Role.SERVICE: Right.SUBMIT,
}
SCOPE_RIGHTS: Final = {
    Scope.READ: Right.SEE,
    Scope.SUBMIT: Right.SUBMIT,
    Scope.OPERATE: Right.OPERATE,
    Scope.DELEGATE: Right.SUBMIT,
}
_TOKEN: Final = re.compile(r"dt_[A-Za-z0-9_-]{43}")


def is_account_token(text: str | None) -> bool:
    """Return whether a text has the form of an account's token, which the shared secret has not."""
    return text is not None and _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request.

    Attributes:
        right: the most that the principal may do.
        user_id: the account; None without accounts.
        name: the name of the account; empty without accounts.
        token_id: the token of the request; empty: it has a session, or there are no accounts.
        scope: of that token; None: there is none.
        sees_all: whether it sees the work of others. Its role decides, also of its tokens.
    """

    right: Right
    user_id: int | None = None
    name: str = ""
    role: Role | None = None
    token_id: str = ""
    scope: Scope | None = None
    sees_all: bool = True

    # For templates.
    @property
    def can_submit(self) -> bool:
        return self.right >= Right.SUBMIT

    @property
    def can_operate(self) -> bool:
        return self.right >= Right.OPERATE

    @property
    def can_administer(self) -> bool:
        return self.right >= Right.ADMINISTER


@dataclass(frozen=True, slots=True)
class Owned:
    """Whose an object is.

    Attributes:
        owner_ids: the accounts; empty: it was made before there were accounts.
        is_shared: whether every account sees it.
    """

    owner_ids: frozenset[int] = frozenset()
    is_shared: bool = False


#: The key of an ASGI scope that holds the principal of its request, or why it has none.
PRINCIPAL_KEY: Final = "director.principal"

#: Everybody who may use a Director without accounts, where all may do everything.
EVERYBODY: Final = Principal(Right.ADMINISTER)


#: Who sees the work of others where people see their own alone.
OVERSEERS: Final = frozenset({Role.OPERATOR, Role.ADMINISTRATOR})


def sees(principal: Principal, owned: Owned) -> bool:
    """Return whether an object exists for a principal."""
    return principal.sees_all or owned.is_shared or principal.user_id in owned.owner_ids


def may(principal: Principal, right: Right, owned: Owned | None = None) -> bool:
    """Return whether a principal may do something. ``owned``: whose the object is; None: it has no
    owner.
    """
    if owned is None:
        return principal.right >= right
    is_own = principal.user_id in owned.owner_ids
    return sees(principal, owned) and principal.right >= (
        min(right, Right.SUBMIT) if is_own else right
    )
