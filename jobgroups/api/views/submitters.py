"""Submitters: their weights, limits and pauses, and what they have used of the farm."""

from typing import ClassVar

from django.http import HttpResponse
from rest_framework.request import Request

from backends.errors import FieldInvalid
from jobgroups.api.permissions import principal_of, signed
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import SubmitterRequest
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.domain.access import Owned, Right, may
from jobgroups.domain.pauses import target_of_submitter
from jobgroups.domain.shapes.groups import Submitter
from jobgroups.errors import NotAllowed
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.shares import current_shares, submitter_find
from jobgroups.serializers import serialize_pause, shape
from jobgroups.services.pauses import submitter_pause, submitter_resume
from jobgroups.services.shares import submitter_change

MAX_NAME = 150


class SubmitterView(ApiView):
    changes: ClassVar[Right] = Right.OPERATE

    def get(self, request: Request, name: str) -> HttpResponse:
        """Return the weight and the limits of a submitter, and what it has used; of an unknown one
        the defaults.
        """
        name, principal = _checked(name), principal_of(request)
        # The customers of a service are its own, too.
        is_own = name.partition("/")[0] == principal.name
        owned = Owned(frozenset({principal.user_id} if is_own and principal.user_id else ()))
        if not may(principal, Right.SEE, owned):
            raise NotAllowed("Submitters other than your own are for operators and administrators.")
        return _answer(name)

    def put(self, request: Request, name: str) -> HttpResponse:
        """Set the weight and the limits of a submitter, pause or resume its groups."""
        values, name = SubmitterRequest.read(json_body(request)), _checked(name)
        paused = values.pop("paused", False)
        if values:
            submitter_change(name=name, **values)
        if paused is None:
            submitter_resume(**signed(request, {"name": name}))
        elif paused is not False:
            submitter_pause(**signed(request, {"name": name, **paused}))
        return _answer(name)


def _checked(name: str) -> str:
    name = name.rstrip("/")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise FieldInvalid("name", f"Must have 1 to {MAX_NAME} printable characters.")
    return name


def _answer(name: str) -> HttpResponse:
    shares = current_shares()
    used = round(shares.used.get(name, 0.0), 1)
    pause = current_pauses().by_target.get(target_of_submitter(name))
    row = submitter_find(name)
    return json_response(shape(Submitter, row, used_seconds=used, paused=serialize_pause(pause)))
