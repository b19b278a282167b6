"""Probes of ComfyUIs that are not registered: one address, or the usual ports of this machine.

Nothing is stored. The paths are among those of backends. A backend with the id ``test`` or ``find`` is served there
too: it has no POST.
"""

from collections.abc import Mapping
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from backends import queries
from backends.comfyui.address import check_headers, normalise_url
from backends.comfyui.destinations import check_url
from backends.comfyui.probe import BackendReport, attempt, attempt_all
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import NewBackendRequest
from jobgroups.api.views.backends import BackendView
from jobgroups.workflow import FieldInvalid

#: Seconds for one address, which may be far away, and for the ports of this machine.
_TEST_SECONDS: Final = 5.0
_FIND_SECONDS: Final = 1.5


class BackendTestView(BackendView):
    """``/api/backends/test``"""

    def post(self, request: Request, backend_id: str) -> Response:
        """Return whether a ComfyUI answers at an address, or what is wrong."""
        values = NewBackendRequest.read(json_body(request))
        url = _checked_url(values["url"], values["headers"])
        answer = async_to_sync(attempt)(values["url"], headers=values["headers"], timeout=_TEST_SECONDS)
        failed = isinstance(answer, str)
        return Response({"ok": not failed, **_probe_json(url, answer, _registered_ids())})


class BackendFindView(BackendView):
    """``/api/backends/find``"""

    def post(self, request: Request, backend_id: str) -> Response:
        """Return the ComfyUIs that answer on this machine's usual ports."""
        urls = [f"http://localhost:{port}" for port in settings.DIRECTOR_DISCOVER_PORTS]
        answers = async_to_sync(attempt_all)(urls, timeout=_FIND_SECONDS)
        known = _registered_ids()
        found = [
            _probe_json(url, answer, known) for url, answer in answers.items() if isinstance(answer, BackendReport)
        ]
        return Response({"found": found})


def _checked_url(url: str, headers: Mapping[str, str] | None) -> str:
    """Return the canonical address; raise ``FieldInvalid`` if the address or a header is malformed."""
    field = "url"
    try:
        canonical = normalise_url(url).url
        check_url(canonical)
        field = "headers"
        check_headers(headers or {})
    except ValueError as error:
        raise FieldInvalid(field, f"Is not usable: {error}") from None
    return canonical


def _registered_ids() -> dict[str, str]:
    return {row["url"]: row["id"] for row in queries.desired_backends()}


def _probe_json(url: str, answer: BackendReport | str, known: Mapping[str, str]) -> dict[str, Any]:
    report = None if isinstance(answer, str) else answer
    return {
        "url": url,
        "backend_id": known.get(url),
        "comfyui_version": report.version if report else None,
        "devices": [device.to_json() for device in report.devices] if report else [],
        "reason": answer if isinstance(answer, str) else None,
    }
