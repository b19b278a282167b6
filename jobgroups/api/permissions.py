"""What the principal of a request may do, and what it stands for."""

from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from rest_framework.request import Request

from backends.errors import FieldInvalid
from jobgroups.domain.access import EVERYBODY, ROLE_RIGHTS, Principal, Right, Role, Scope, may
from jobgroups.domain.turns import MAX_OWN_PRIORITY
from jobgroups.errors import NotAllowed

#: Characters of ``JobGroup.submitter``.
MAX_SUBMITTER: Final = 150
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
    principal: Principal = request.principal  # type: ignore[union-attr]  # the middleware sets it
    return principal


def refusal_text(principal: Principal, right: Right) -> str:
    """Return why a principal may not do what needs a right."""
    role = principal.role or Role.VIEWER
    if ROLE_RIGHTS[role] > principal.right:
        if right is Right.ADMINISTER:
            return (
                "No token permits it: administrators do it on the pages, or on the Director's host by "
                "director people."
            )
        return (
            f"The scope of this token does not permit it: use one that may do what {_WHO[right]} "
            "may."
        )
    return f"This is for {_WHO[right]}; {principal.name} has the role {role}."


def identity(request: HttpRequest | Request, sent: object = "") -> dict[str, Any]:
    """Return the fields of a submission that say whose it is: without accounts the address of the
    client.

    ``sent`` is the ``submitter`` of the body. A token with the scope ``delegate`` names a customer
    of its account by it: the slash, which no name of an account has, keeps both apart. Of the
    others, ``USER@HOST``, which the command line sends, is ignored.

    Raises:
        NotAllowed: it is another name than that of the account.
        FieldInvalid: the name of the customer is too long.
    """
    principal, name = principal_of(request), str(sent or "").strip()
    address = client_address(request)
    if principal.user_id is None:
        return {"address": address}
    submitter = principal.name
    if name and principal.scope is Scope.DELEGATE:
        submitter = f"{principal.name}/{name}"
        if len(submitter) > MAX_SUBMITTER:
            at_most = MAX_SUBMITTER - len(principal.name) - 1
            raise FieldInvalid("submitter", f"Must have at most {at_most} characters.")
    elif name and name != principal.name and "@" not in name:
        raise NotAllowed(
            f"submitter must be {principal.name} or left out: the account of the request counts. "
            "A token with the scope delegate may name a customer."
        )
    return {"submitter": submitter, "owner_id": principal.user_id, "address": address}


def client_address(request: HttpRequest | Request) -> str:
    """Return the address of the client: behind a trusted proxy, the one that the proxy names.

    Each proxy appends the address of its client to the header.
    """
    peer = str(request.META.get("REMOTE_ADDR") or "")
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
    if forwarded is None or peer not in settings.DIRECTOR_TRUSTED_PROXIES:
        return peer
    return str(forwarded).rpartition(",")[2].strip() or peer


def check_priority(principal: Principal, priority: int | None) -> None:
    """Raise ``FieldInvalid`` for a priority above the highest of the principal's role."""
    may_operate = may(principal, Right.OPERATE)
    if priority is not None and priority > MAX_OWN_PRIORITY and not may_operate:
        message = (
            f"Must be at most {MAX_OWN_PRIORITY}: a higher one is for operators and administrators."
        )
        raise FieldInvalid("priority", message)


def changing_owner(request: HttpRequest | Request) -> int | None:
    """Return the account to whose objects, or whose part of shared content, a request is limited;
    None: it may change those of all.
    """
    principal = principal_of(request)
    return None if may(principal, Right.OPERATE) else principal.user_id


def signed(request: HttpRequest | Request, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a request with the account's name as ``by``, if there are accounts."""
    name = principal_of(request).name
    return {**values, "by": name} if name else dict(values)
