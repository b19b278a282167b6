"""``/api/whoami``, ``/api/tokens`` and ``/api/people``: what accounts have of the API."""

from typing import Any, ClassVar

from django.contrib.auth.models import User
from django.http import HttpResponse
from rest_framework.request import Request

from director.accounts import people, tokens
from director.accounts.models import Token
from director.accounts.principals import kept
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import PersonChange, PersonRequest, TokenRequest
from jobgroups.api.urls import with_optional_slash
from jobgroups.api.views.base import ApiView, json_response, no_content
from jobgroups.domain.access import Principal, Right, Role, may
from jobgroups.domain.shapes import accounts as shapes
from jobgroups.errors import NotAllowed


def _account(request: Request) -> Principal:
    """Return the principal. Raises ``NotAllowed`` if the Director has no accounts."""
    principal = principal_of(request)
    if principal.user_id is None:
        raise NotAllowed(
            "This Director has no accounts; its operator can start it with DIRECTOR_ACCOUNTS=1."
        )
    return principal


def token_fields(token: Token) -> dict[str, Any]:
    """Return the fields of a token's shape."""
    names = ("id", "name", "scope", "created_at", "expires_at", "used_at")
    return {name: getattr(token, name) for name in names} | {"owner": token.owner.username}


def person_fields(user: User) -> dict[str, Any]:
    """Return the fields of an account's shape."""
    role = people.role_of(user)
    return {
        "name": user.username,
        "role": role and role.value,
        "is_active": user.is_active,
        "has_password": user.has_usable_password(),
        "signed_in_at": user.last_login,
    }


class WhoamiView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the account of the request, and what it may do."""
        principal = principal_of(request)
        return json_response(
            shapes.Identity(
                name=principal.name or None,
                role=principal.role and principal.role.value,
                right=principal.right.name.lower(),
                token_id=principal.token_id or None,
                scope=principal.scope and principal.scope.value,
            )
        )


class TokenListView(ApiView):
    changes: ClassVar[Right] = Right.SEE

    def get(self, request: Request) -> HttpResponse:
        """List the valid tokens of the account, newest first."""
        rows = tokens.tokens_of(_account(request).user_id or 0)
        return json_response({"tokens": [shapes.Token(**token_fields(row)) for row in rows]})

    def post(self, request: Request) -> HttpResponse:
        """Make a token of the account. Its text is in this answer alone."""
        principal, values = _account(request), TokenRequest.read(json_body(request))
        owner = people.person_named(principal.name)
        token, text = tokens.token_create(owner, parent_id=principal.token_id, **values)
        return json_response(shapes.NewToken(**token_fields(token), token=text), status=201)


class TokenView(ApiView):
    changes: ClassVar[Right] = Right.SEE

    def delete(self, request: Request, token_id: str) -> HttpResponse:
        """Revoke a token of the account, and those that it made. An administrator revokes
        everybody's.
        """
        principal = _account(request)
        if may(principal, Right.ADMINISTER):
            tokens.token_revoke(token_id, owner_id=None)
        else:
            tokens.token_revoke(token_id, owner_id=principal.user_id, by_token=principal.token_id)
        kept.clear()
        return no_content()


class PeopleView(ApiView):
    reads: ClassVar[Right] = Right.ADMINISTER
    changes: ClassVar[Right] = Right.ADMINISTER

    def get(self, request: Request) -> HttpResponse:
        """List the accounts by name."""
        _account(request)
        return json_response(
            {"people": [shapes.Person(**person_fields(person)) for person in people.people()]}
        )

    def post(self, request: Request) -> HttpResponse:
        """Add an account; return the link for its password."""
        _account(request)
        user = people.person_add(**PersonRequest.read(json_body(request)))
        answer = shapes.NewPerson(**person_fields(user), password_link=_link(request, user))
        return json_response(answer, status=201)


class PersonView(ApiView):
    changes: ClassVar[Right] = Right.ADMINISTER

    def patch(self, request: Request, account: str) -> HttpResponse:
        """Change the role of an account, disable or enable it."""
        _account(request)
        user = people.person_change(account, **PersonChange.read(json_body(request)))
        kept.clear()
        return json_response(shapes.Person(**person_fields(user)))


class PasswordLinkView(ApiView):
    changes: ClassVar[Right] = Right.ADMINISTER

    def post(self, request: Request, account: str) -> HttpResponse:
        """Make a link by which an account gets a new password."""
        _account(request)
        user = people.person_named(account)
        return json_response({"password_link": _link(request, user)}, status=201)


def _link(request: Request, user: User) -> str | None:
    is_service = people.role_of(user) is Role.SERVICE
    return (
        None
        if is_service
        else people.password_link(user, request.build_absolute_uri("/").rstrip("/"))
    )


urlpatterns = with_optional_slash(
    {
        "api/whoami": WhoamiView,
        "api/tokens": TokenListView,
        "api/tokens/<str:token_id>": TokenView,
        "api/people": PeopleView,
        "api/people/<str:account>": PersonView,
        "api/people/<str:account>/password-link": PasswordLinkView,
    }
)
