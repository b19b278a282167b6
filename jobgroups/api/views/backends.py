"""Backends: list, register, change, remove, hold, quarantine; their exclusions; found and probed
ComfyUIs.

A backend's JSON counts its jobs, which ``backends`` cannot read. Requests for holds may be
repeated. ``test``, ``find`` and ``found`` are among the paths of backends: ``found`` is a reserved
id, a backend with one of the others is served there too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpResponse
from rest_framework.request import Request

from backends import discovery, probes, queries as backend_queries
from backends.comfyui.address import check_headers, normalise_url
from backends.comfyui.answers import SystemStats
from backends.comfyui.destinations import check_url
from backends.comfyui.probe import attempt, attempt_all
from backends.errors import FieldInvalid
from backends.models import Backend, FoundBackend
from backends.states import Hold
from jobgroups.api.permissions import principal_of, signed
from jobgroups.api.requests.body import json_body, optional_json_body
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.api.requests.path_params import number
from jobgroups.api.requests.payloads import (
    AddressRequest,
    BackendRequest,
    ByRequest,
    HoldRequest,
    NewBackendRequest,
    QuarantineRequest,
)
from jobgroups.api.views.base import ApiView, json_response, no_content
from jobgroups.database.pools import probe_threads
from jobgroups.domain.figures import Figures
from jobgroups.domain.shapes.backends import FoundAddress
from jobgroups.queries import backends
from jobgroups.queries.exclusions import exclusions_json
from jobgroups.queries.figures import current_figures
from jobgroups.serializers import shape
from jobgroups.services import holds
from jobgroups.services.backends import (
    backend_create,
    backend_delete,
    backend_update,
    backends_probed,
    found_add,
    found_ignore,
)
from jobgroups.services.exclusions import exclusions_lift


class BackendListView(ApiView):
    changes_in = probe_threads

    def get(self, request: Request) -> HttpResponse:
        """Return every backend."""
        loads = backends.backend_loads()
        done = current_figures()
        rows = backend_queries.backend_list()
        listed = [
            backends.serialize_backend(
                row, loads.get(row.id, backends.NO_LOAD), done.get(row.id, backends.NO_FIGURES)
            )
            for row in rows
        ]
        return json_response({"backends": listed})

    def post(self, request: Request) -> HttpResponse:
        """Register a backend and probe it."""
        values = NewBackendRequest.read(json_body(request))
        probes.check_address(values["url"], values["headers"])
        row = backend_create(**values)
        probe_if_new(row)
        return json_response(backend_json(row.id), status=201)


class BackendView(ApiView):
    def get(self, request: Request, backend_id: str) -> HttpResponse:
        """Return one backend."""
        return json_response(backend_json(backend_id))

    def patch(self, request: Request, backend_id: str) -> HttpResponse:
        """Change the fields in the body; the address only while no prompt of ours may be there."""
        known = backends.backend_get(backend_id)
        values = BackendRequest.read(json_body(request))
        if values.pop("backend_id") not in (None, known.id):
            raise FieldInvalid("backend_id", "Cannot be changed: jobs refer to it.")
        if values["url"] is not None:
            probes.check_address(values["url"], values["headers"], known.id)
        row = backend_update(backend_id=known.id, **values)
        probe_if_new(row)
        return json_response(backend_json(row.id))

    def delete(self, request: Request, backend_id: str) -> HttpResponse:
        """Remove a backend without queued jobs, on which no prompt of ours may run."""
        backend_delete(backend_id=backend_id)
        return no_content()


class BackendStatusView(ApiView):
    def get(self, request: Request, backend_id: str) -> HttpResponse:
        """Return the fields of a backend that change without a request."""
        return json_response(backends.serialize_backend_status(*_with_load(backend_id)))


def backend_json(backend_id: str) -> dict[str, object]:
    return backends.serialize_backend(*_with_load(backend_id))


def _with_load(backend_id: str) -> tuple[Backend, backends.BackendLoad, Figures]:
    row = backends.backend_get(backend_id)
    load = backends.backend_loads([row.id]).get(row.id, backends.NO_LOAD)
    return row, load, current_figures().get(row.id, backends.NO_FIGURES)


def probe_if_new(row: Backend) -> None:
    """Probe a backend without any response so far, for its status in the response."""
    if row.enabled and row.last_seen_at is None:
        probes.probe_backends([row], backends_probed)


#: The last word of the path to the fields of the request, which are the arguments of the service.
_ACTIONS: Final[dict[str, tuple[type[RequestSerializer], Callable[..., None]]]] = {
    "pause": (HoldRequest, partial(holds.backend_hold, hold=Hold.PAUSE)),
    "drain": (HoldRequest, partial(holds.backend_hold, hold=Hold.DRAIN)),
    "resume": (ByRequest, holds.backend_resume),
    "quarantine": (QuarantineRequest, holds.backend_quarantine),
    "release": (ByRequest, holds.backend_release),
}


class HoldView(ApiView):
    def post(self, request: Request, backend_id: str, *, action: str) -> HttpResponse:
        """Store the request and return the backend."""
        fields, service = _ACTIONS[action]
        service(backend_id=backend_id, **signed(request, fields.read(optional_json_body(request))))
        return json_response(backend_json(backend_id))


class ExclusionsView(ApiView):
    def get(self, request: Request, backend_id: str) -> HttpResponse:
        """Return the active exclusions of a backend."""
        row = backends.backend_get(backend_id)
        return json_response({"exclusions": exclusions_json(row.id, principal_of(request))})

    def delete(self, request: Request, backend_id: str) -> HttpResponse:
        """Lift all exclusions of a backend."""
        exclusions_lift(backend_id=backend_id)
        return no_content()


class ExclusionView(ApiView):
    def delete(self, request: Request, backend_id: str, exclusion_id: str) -> HttpResponse:
        """Lift one exclusion."""
        exclusions_lift(backend_id=backend_id, exclusion_id=number(exclusion_id))
        return no_content()


class FoundListView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the ComfyUIs that are offered or ignored."""
        return json_response({"found": [_found_json(row) for row in discovery.found_list()]})


class FoundAddView(ApiView):
    def post(self, request: Request) -> HttpResponse:
        """Register a ComfyUI that was found."""
        url = AddressRequest.read(json_body(request))["url"]
        probes.check_address(url, None)
        row = found_add(url=url)
        probe_if_new(row)
        return json_response(backend_json(row.id), status=201)


class FoundIgnoreView(ApiView):
    def post(self, request: Request, *, ignored: bool) -> HttpResponse:
        """Stop or resume offering a ComfyUI."""
        url = AddressRequest.read(json_body(request))["url"]
        row = found_ignore(url=url, ignored=ignored)
        return json_response(_found_json(row))


def _found_json(row: FoundBackend) -> dict[str, Any]:
    return shape(FoundAddress, row, ignored=row.ignored_at is not None)


#: Seconds for one address, which may be far away, and for the ports of this machine.
_TEST_SECONDS: Final = 5.0
_FIND_SECONDS: Final = 1.5


class BackendTestView(BackendView):
    changes_in = probe_threads

    def post(self, request: Request, backend_id: str) -> HttpResponse:
        """Return whether a ComfyUI answers at an address, or what is wrong."""
        values = NewBackendRequest.read(json_body(request))
        url = _checked_url(values["url"], values["headers"])
        answer = async_to_sync(attempt)(
            values["url"], headers=values["headers"], timeout=_TEST_SECONDS
        )
        failed = isinstance(answer, str)
        return json_response({"ok": not failed, **_probe_json(url, answer, _registered_ids())})


class BackendFindView(BackendView):
    changes_in = probe_threads

    def post(self, request: Request, backend_id: str) -> HttpResponse:
        """Return the ComfyUIs that answer on this machine's usual ports."""
        urls = [f"http://localhost:{port}" for port in settings.DIRECTOR_DISCOVER_PORTS]
        answers = async_to_sync(attempt_all)(urls, timeout=_FIND_SECONDS)
        known = _registered_ids()
        results = [
            _probe_json(url, answer, known)
            for url, answer in answers.items()
            if isinstance(answer, SystemStats)
        ]
        return json_response({"found": results})


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
    return {row["url"]: row["id"] for row in backend_queries.desired_backends()}


def _probe_json(url: str, answer: SystemStats | str, known: Mapping[str, str]) -> dict[str, Any]:
    report = None if isinstance(answer, str) else answer
    return {
        "url": url,
        "backend_id": known.get(url),
        "comfyui_version": report.version if report else None,
        "devices": [device.to_json() for device in report.devices] if report else [],
        "reason": answer if isinstance(answer, str) else None,
    }
