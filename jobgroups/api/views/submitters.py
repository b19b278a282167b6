"""Submitters: their weights, and what they have used of the farm."""

from typing import ClassVar

from django.http import HttpResponse
from rest_framework.request import Request

from backends.errors import FieldInvalid
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import SubmitterRequest
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.domain.access import Owned, Right, may
from jobgroups.domain.shapes.groups import Submitter
from jobgroups.errors import NotAllowed
from jobgroups.queries.shares import current_shares
from jobgroups.services.shares import submitter_change

MAX_NAME = 150


class SubmitterView(ApiView):
    changes: ClassVar[Right] = Right.OPERATE

    def get(self, request: Request, name: str) -> HttpResponse:
        """Return the weight of a submitter and what it has used; of an unknown one the defaults."""
        name, principal = _checked(name), principal_of(request)
        # The customers of a service are its own, too.
        is_own = name.partition("/")[0] == principal.name
        owned = Owned(frozenset({principal.user_id} if is_own and principal.user_id else ()))
        if not may(principal, Right.SEE, owned):
            raise NotAllowed("Submitters other than your own are for operators and administrators.")
        return _answer(name)

    def put(self, request: Request, name: str) -> HttpResponse:
        """Set the weight of a submitter."""
        values = SubmitterRequest.read(json_body(request))
        submitter_change(name=_checked(name), **values)
        return _answer(_checked(name))


def _checked(name: str) -> str:
    name = name.rstrip("/")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise FieldInvalid("name", f"Must have 1 to {MAX_NAME} printable characters.")
    return name


def _answer(name: str) -> HttpResponse:
    shares = current_shares()
    used, weight = shares.used.get(name, 0.0), shares.weights.get(name, 1.0)
    return json_response(Submitter(name=name, weight=weight, used_seconds=round(used, 1)))
