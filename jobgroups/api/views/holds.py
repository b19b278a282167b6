"""Backends held back over HTTP: paused, drained, resumed, set aside, released. Each may be repeated."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.request import Request
from rest_framework.response import Response

from backends.states import Hold
from jobgroups.api.requests import path_params
from jobgroups.api.requests.body import optional_json_body
from jobgroups.api.requests.fields import Fields
from jobgroups.api.views import backends
from jobgroups.api.views.base import ApiView
from jobgroups.events.hub import hub
from jobgroups.services import holds

_MAX_REASON: Final = 500
_MAX_BY: Final = 150
#: A week: longer than that is "until somebody releases it".
_MAX_MINUTES: Final = 10_080


class BackendHoldView(ApiView):
    """``/api/backends/{id}/pause`` and ``…/drain``"""

    def post(self, request: Request, backend_id: str, hold: str) -> Response:
        """Hold a backend back: after what runs there now, or at once."""
        known = path_params.backend_id(backend_id)
        fields = Fields(optional_json_body(request))
        said = {"at_once": fields.flag("now") or False, **_reason(fields), **_by(fields)}
        _finish(fields)
        holds.backend_hold(backend_id=known, hold=Hold(hold), **said)
        return _answer(known)


class BackendResumeView(ApiView):
    """``/api/backends/{id}/resume``"""

    def post(self, request: Request, backend_id: str) -> Response:
        """End a pause or drain."""
        known = path_params.backend_id(backend_id)
        fields = Fields(optional_json_body(request))
        said = _by(fields)
        _finish(fields)
        holds.backend_resume(backend_id=known, **said)
        return _answer(known)


class BackendQuarantineView(ApiView):
    """``/api/backends/{id}/quarantine``"""

    def post(self, request: Request, backend_id: str) -> Response:
        """Set a backend aside, for some minutes or until somebody releases it."""
        known = path_params.backend_id(backend_id)
        fields = Fields(optional_json_body(request))
        minutes = fields.integer("minutes", low=1, high=_MAX_MINUTES)
        said = {**_reason(fields), **_by(fields)}
        _finish(fields)
        holds.backend_quarantine(backend_id=known, minutes=minutes, **said)
        return _answer(known)


class BackendReleaseView(ApiView):
    """``/api/backends/{id}/release``"""

    def post(self, request: Request, backend_id: str) -> Response:
        """Let a backend out of quarantine, on probation."""
        known = path_params.backend_id(backend_id)
        fields = Fields(optional_json_body(request))
        said = _by(fields)
        _finish(fields)
        holds.backend_release(backend_id=known, **said)
        return _answer(known)


def _reason(fields: Fields) -> dict[str, Any]:
    return {"reason": fields.line("reason", longest=_MAX_REASON) or ""}


def _by(fields: Fields) -> dict[str, Any]:
    return {"by": fields.line("by", longest=_MAX_BY) or ""}


def _finish(fields: Fields) -> None:
    for name in fields.unknown():
        fields.note(name, "Is not a field of this.")
    fields.finish()


def _answer(backend_id: str) -> Response:
    # The runner carries it out, and looks for what may be sent again.
    hub.notify_runners()
    return Response(backends.shown(backend_id))
