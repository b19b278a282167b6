"""Holds of backends: pause, drain, resume, quarantine, release. Each request may be repeated."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from rest_framework.request import Request
from rest_framework.response import Response

from backends.states import Hold
from jobgroups.api.requests import path_params, payloads
from jobgroups.api.requests.body import optional_json_body
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.api.views import backends
from jobgroups.api.views.base import ApiView
from jobgroups.services import holds


def _hold(hold: Hold, *, now: bool, **values: Any) -> None:
    holds.backend_hold(hold=hold, at_once=now, **values)


#: The last word of the path to the fields of the request, which are the arguments of the service.
_ACTIONS: Final[dict[str, tuple[type[RequestSerializer], Callable[..., None]]]] = {
    "pause": (payloads.HoldRequest, partial(_hold, Hold.PAUSE)),
    "drain": (payloads.HoldRequest, partial(_hold, Hold.DRAIN)),
    "resume": (payloads.ByRequest, holds.backend_resume),
    "quarantine": (payloads.QuarantineRequest, holds.backend_quarantine),
    "release": (payloads.ByRequest, holds.backend_release),
}


class HoldView(ApiView):
    """``/api/backends/{id}/pause``, ``…/drain``, ``…/resume``, ``…/quarantine`` and ``…/release``"""

    def post(self, request: Request, backend_id: str, *, action: str) -> Response:
        """Store the request and return the backend."""
        known = path_params.backend_id(backend_id)
        fields, service = _ACTIONS[action]
        service(backend_id=known, **fields.read(optional_json_body(request)))
        return Response(backends.backend_json(known))
