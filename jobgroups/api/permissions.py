"""What the principal of a request may do, and what it stands for."""

from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from rest_framework.request import Request

from jobgroups.domain.access import EVERYBODY, ROLE_RIGHTS, Principal, Right, Role
from jobgroups.errors import NotAllowed

_WHO: Final = {
    Right.SEE: "everybody",
    Right.SUBMIT: "artists, operators and administrators",
    Right.OPERATE: "operators and administrators, and the account whose it is",
    Right.ADMINISTER: "administrators",
}


def principal_of(request: HttpRequest | Request) -> Principal:
    """Return who sent a request, as the sign-in middleware found it."""
    if not settings.DIRECTOR_ACCOUNTS:
        return EVERYBODY
    found: Principal = request.principal  # type: ignore[union-attr]  # the middleware sets it
    return found


def refusal_text(principal: Principal, right: Right) -> str:
    """Return why a principal may not do what needs a right."""
    role = principal.role or Role.VIEWER
    if ROLE_RIGHTS[role] > principal.right:
        return (
            f"The scope of this token does not permit it: use one that may do what {_WHO[right]} "
            "may."
        )
    return f"This is for {_WHO[right]}; {principal.name} has the role {role}."


def identity(request: HttpRequest | Request, sent: object = "") -> dict[str, Any]:
    """Return the fields of a submission that say whose it is: without accounts none.

    ``sent`` is the ``submitter`` of the body. ``USER@HOST``, which the command line sends, is
    ignored.

    Raises ``NotAllowed`` for another name than that of the account.
    """
    principal = principal_of(request)
    if principal.user_id is None:
        return {}
    if sent and sent != principal.name and "@" not in str(sent):
        raise NotAllowed(
            f"submitter must be {principal.name} or left out: the token's account counts."
        )
    return {"submitter": principal.name, "owner_id": principal.user_id}


def signed(request: HttpRequest | Request, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a request with the account's name as ``by``, if there are accounts."""
    name = principal_of(request).name
    return {**values, "by": name} if name else dict(values)
