"""ComfyUIs that discovery found on the runner's machine: list, add, ignore. The backend id ``found`` is reserved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from backends import discovery
from backends.models import FoundBackend
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import AddressRequest
from jobgroups.api.views.backends import backend_json, probe_if_new, translated
from jobgroups.api.views.base import ApiView
from jobgroups.domain.clock import iso, iso_or_none
from jobgroups.errors import AddressNotFound
from jobgroups.services.backends import found_add


class FoundListView(ApiView):
    """``/api/backends/found``"""

    def get(self, request: Request) -> Response:
        """Return the ComfyUIs that are offered or ignored."""
        return Response({"found": [_found_json(row) for row in discovery.found_list()]})


class FoundAddView(ApiView):
    """``/api/backends/found/add``"""

    def post(self, request: Request) -> Response:
        """Register a ComfyUI that was found."""
        url = AddressRequest.read(json_body(request))["url"]
        with _listed():
            row = found_add(url=url)
        probe_if_new(row)
        return Response(backend_json(row.id), status=201)


class FoundIgnoreView(ApiView):
    """``/api/backends/found/ignore`` and ``…/unignore``"""

    def post(self, request: Request, *, ignored: bool) -> Response:
        """Stop or resume offering a ComfyUI."""
        url = AddressRequest.read(json_body(request))["url"]
        with _listed():
            row = discovery.found_ignore(url=url, ignored=ignored)
        return Response(_found_json(row))


@contextmanager
def _listed() -> Iterator[None]:
    try:
        with translated():
            yield
    except discovery.NotFound:
        raise AddressNotFound from None


def _found_json(row: FoundBackend) -> dict[str, Any]:
    return {
        "url": row.url,
        "comfyui_version": row.comfyui_version or None,
        "devices": row.devices,
        "first_seen_at": iso(row.first_seen_at),
        "last_seen_at": iso(row.last_seen_at),
        "ignored": row.ignored_at is not None,
        "ignored_at": iso_or_none(row.ignored_at),
    }
