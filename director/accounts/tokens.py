"""Tokens: create, list, revoke."""

import datetime as dt
import hashlib
import secrets
from typing import Final

from django.contrib.auth.models import User
from django.db.models import Q, QuerySet

from backends.errors import FieldInvalid
from director.accounts.models import Token
from director.accounts.people import role_of
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import ROLE_RIGHTS, SCOPE_RIGHTS, Scope
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.errors import TokenNotFound
from jobgroups.services.audit import record

_MAX_NAME: Final = 100
_MAX_TOKENS: Final = 200  #: Valid tokens of one account.


def digest_of(text: str) -> str:
    """Return what is stored of a token: it has 256 random bits, which no dictionary finds."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def valid_tokens() -> QuerySet[Token]:
    """Return the tokens that have not expired, of accounts that are not disabled."""
    return Token.objects.filter(
        Q(expires_at__isnull=True) | Q(expires_at__gt=now()), owner__is_active=True
    )


@retried_transaction
def token_create(
    owner: User,
    *,
    name: str,
    scope: Scope,
    expires_at: dt.datetime | None = None,
    parent_id: str = "",
) -> tuple[Token, str]:
    """Store a token, and return it with its text, which is shown this once.

    Args:
        parent_id: the token that makes it, whose scope and expiry are its limits; empty: none does.

    Raises ``FieldInvalid`` if a value is not permitted.
    """
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
        raise FieldInvalid("name", f"Must have 1 to {_MAX_NAME} printable characters.")
    role = role_of(owner)
    if role is None or SCOPE_RIGHTS[scope] > ROLE_RIGHTS[role]:
        raise FieldInvalid("scope", f"The role {role or 'none'} does not permit the scope {scope}.")
    if expires_at is not None and expires_at <= now():
        raise FieldInvalid("expires_at", "Must be in the future.")
    parent = None
    if parent_id:
        parent = valid_tokens().filter(pk=parent_id, owner=owner).first()
        if parent is None:
            # It was revoked since the request began: a token without it would outlive it.
            raise TokenNotFound("The token of this request was revoked.")
        if not Scope(parent.scope).includes(scope):
            raise FieldInvalid(
                "scope", f"A token with the scope {parent.scope} makes none with {scope}."
            )
        if parent.expires_at is not None and (expires_at is None or expires_at > parent.expires_at):
            expires_at = parent.expires_at
    if valid_tokens().filter(owner=owner).count() >= _MAX_TOKENS:
        raise FieldInvalid(
            "name", f"An account has at most {_MAX_TOKENS} tokens. Revoke one first."
        )
    text = f"dt_{secrets.token_urlsafe(32)}"
    token = Token.objects.create(
        id=f"tok_{secrets.token_hex(6)}",
        owner=owner,
        name=name,
        scope=scope.value,
        digest=digest_of(text),
        created_at=now(),
        expires_at=expires_at,
        parent=parent,
    )
    record(Action.TOKEN_CREATED, token.pk, name=name, scope=scope.value, owner=owner.username)
    return token, text


def tokens_of(user_id: int) -> QuerySet[Token]:
    """Return the valid tokens of an account, newest first."""
    return valid_tokens().filter(owner_id=user_id).select_related("owner")


@retried_transaction
def token_revoke(token_id: str, *, owner_id: int | None, by_token: str = "") -> None:
    """Delete a token and those that it made.

    Args:
        owner_id: whose it must be; None: anybody's.
        by_token: the token of the request, which revokes itself and what it made; empty: any.

    Raises ``TokenNotFound``.
    """
    tokens = Token.objects.filter(pk=token_id)
    if owner_id is not None:
        tokens = tokens.filter(owner_id=owner_id)
    if by_token:
        tokens = tokens.filter(Q(pk=by_token) | Q(parent=by_token))
    token = tokens.select_related("owner").first()
    if token is None:
        raise TokenNotFound("There is no such token.")
    token.delete()
    record(Action.TOKEN_REVOKED, token_id, name=token.name, owner=token.owner.username)
