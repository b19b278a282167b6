"""The pages *Account* and *People*."""

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from director.accounts.people import people, person_named
from director.accounts.tokens import tokens_of
from director.accounts.views import person_fields, token_fields
from jobgroups.api.permissions import principal_of
from jobgroups.domain.access import ROLE_RIGHTS, SCOPE_RIGHTS, Role, Scope


def _is_administrator(request: HttpRequest) -> bool:
    return principal_of(request).role is Role.ADMINISTRATOR


@require_safe
@never_cache
def account(request: HttpRequest) -> HttpResponse:
    """``/account``: who is signed in, and the tokens of that account."""
    if not settings.DIRECTOR_ACCOUNTS:
        raise Http404
    principal = principal_of(request)
    role = principal.role or Role.VIEWER
    shown = {
        "version": settings.DIRECTOR_VERSION,
        "person": person_fields(person_named(principal.name)),
        "tokens": [token_fields(one) for one in tokens_of(principal.user_id or 0)],
        "scopes": [scope for scope in Scope if SCOPE_RIGHTS[scope] <= ROLE_RIGHTS[role]],
        "is_administrator": _is_administrator(request),
    }
    return render(request, "director/account.html", shown)


@require_safe
@never_cache
def people_page(request: HttpRequest) -> HttpResponse:
    """``/people``: all accounts, for administrators."""
    if not settings.DIRECTOR_ACCOUNTS:
        raise Http404
    shown = {
        "version": settings.DIRECTOR_VERSION,
        "people": [person_fields(one) for one in people()],
        "roles": list(Role),
    }
    return render(request, "director/people.html", shown)
