"""Holds of backends: pause, drain, resume, quarantine, release. Each request may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from backends.states import Hold
from jobgroups.api.requests import path_params, payloads
from jobgroups.api.requests.body import optional_json_body
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.api.views import backends
from jobgroups.api.views.base import ApiView
from jobgroups.services import holds


class _HoldView(ApiView):
    """A request about the hold of one backend; its fields are the arguments of one service."""

    fields: ClassVar[type[RequestSerializer]] = payloads.ByRequest
    service: ClassVar[Callable[..., object]]

    def post(self, request: Request, backend_id: str, **more: Any) -> Response:
        """Store the request and return the backend."""
        known = path_params.backend_id(backend_id)
        values = self.fields.read(optional_json_body(request))
        type(self).service(backend_id=known, **values, **more)
        return Response(backends.backend_json(known))


class BackendHoldView(_HoldView):
    """``/api/backends/{id}/pause`` and ``…/drain``: after the running prompt, or now."""

    fields = payloads.HoldRequest

    @staticmethod
    def service(*, hold: str, now: bool, **values: Any) -> None:
        """Store the hold that the path names."""
        holds.backend_hold(hold=Hold(hold), at_once=now, **values)


class BackendResumeView(_HoldView):
    """``/api/backends/{id}/resume``: end a pause or drain."""

    service = holds.backend_resume


class BackendQuarantineView(_HoldView):
    """``/api/backends/{id}/quarantine``: for some minutes, or until it is released."""

    fields = payloads.QuarantineRequest
    service = holds.backend_quarantine


class BackendReleaseView(_HoldView):
    """``/api/backends/{id}/release``: end a quarantine; probation follows."""

    service = holds.backend_release
