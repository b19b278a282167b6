"""What the pages *Account* and *People* show."""

from typing import Any

from django.conf import settings
from django.http import Http404

from director.accounts.people import people, person_named
from director.accounts.tokens import tokens_of
from director.accounts.views import person_fields, token_fields
from jobgroups.domain.access import ROLE_RIGHTS, SCOPE_RIGHTS, Principal, Role, Scope


def account_page(principal: Principal) -> dict[str, Any]:
    """Return an account and its tokens. Raises ``Http404`` without accounts."""
    _require_accounts()
    role = principal.role or Role.VIEWER
    return {
        "person": person_fields(person_named(principal.name)),
        "tokens": [token_fields(token) for token in tokens_of(principal.user_id or 0)],
        "scopes": [scope for scope in Scope if SCOPE_RIGHTS[scope] <= ROLE_RIGHTS[role]],
        "is_administrator": role is Role.ADMINISTRATOR,
    }


def people_page() -> dict[str, Any]:
    """Return all accounts. Raises ``Http404`` without accounts."""
    _require_accounts()
    return {"people": [person_fields(person) for person in people()], "roles": list(Role)}


def _require_accounts() -> None:
    if not settings.DIRECTOR_ACCOUNTS:
        raise Http404
