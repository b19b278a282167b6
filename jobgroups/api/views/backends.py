"""Backends: list, register, change, remove. A backend's JSON counts its jobs, which ``backends`` cannot read."""

from collections.abc import Iterator
from contextlib import contextmanager

from rest_framework.request import Request
from rest_framework.response import Response

from backends import probes, services
from backends import queries as backend_queries
from backends.models import Backend
from jobgroups.api.requests import path_params
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import BackendRequest, NewBackendRequest
from jobgroups.api.views.base import ApiView
from jobgroups.errors import BackendExists, BackendNotFound
from jobgroups.queries import backends
from jobgroups.services.backends import backend_create, backend_delete, backend_update
from jobgroups.workflow import FieldInvalid


class BackendListView(ApiView):
    """``/api/backends``"""

    def get(self, request: Request) -> Response:
        """Return every backend."""
        loads = backends.backend_loads()
        rows = backend_queries.backend_list()
        listed = [backends.serialize_backend(row, loads.get(row.id, backends.NO_LOAD)) for row in rows]
        return Response({"backends": listed})

    def post(self, request: Request) -> Response:
        """Register a backend and probe it."""
        values = NewBackendRequest.read(json_body(request))
        with translated():
            row = backend_create(**values)
        probe_if_new(row)
        return Response(backend_json(row.id), status=201)


class BackendView(ApiView):
    """``/api/backends/{id}``"""

    def get(self, request: Request, backend_id: str) -> Response:
        """Return one backend."""
        return Response(backend_json(path_params.backend_id(backend_id)))

    def patch(self, request: Request, backend_id: str) -> Response:
        """Change the fields in the body; the address only while no prompt of ours may be there."""
        known = _get_backend(path_params.backend_id(backend_id))
        values = BackendRequest.read(json_body(request))
        if values.pop("backend_id") not in (None, known.id):
            raise FieldInvalid("backend_id", "Cannot be changed: jobs refer to it.")
        with translated():
            row = backend_update(backend_id=known.id, **values)
        probe_if_new(row)
        return Response(backend_json(row.id))

    def delete(self, request: Request, backend_id: str) -> Response:
        """Remove a backend without queued jobs, on which no prompt of ours may run."""
        backend_delete(backend_id=path_params.backend_id(backend_id))
        return Response(status=204)


class BackendStatusView(ApiView):
    """``/api/backends/{id}/status``"""

    def get(self, request: Request, backend_id: str) -> Response:
        """Return the fields of a backend that change without a request."""
        row = _get_backend(path_params.backend_id(backend_id))
        load = backends.backend_loads([row.id]).get(row.id, backends.NO_LOAD)
        return Response(backends.serialize_backend_status(row, load))


def _get_backend(backend_id: str) -> Backend:
    row = backend_queries.backend_find(backend_id)
    if row is None:
        raise BackendNotFound(backend_id)
    return row


def backend_json(backend_id: str) -> dict[str, object]:
    """Return a backend as it is stored now, or raise ``BackendNotFound``."""
    row = _get_backend(backend_id)
    load = backends.backend_loads([row.id]).get(row.id, backends.NO_LOAD)
    return backends.serialize_backend(row, load)


def probe_if_new(row: Backend) -> None:
    """Probe a backend without any response so far, for its status in the response."""
    if row.enabled and row.last_seen_at is None:
        probes.probe_backends([row])


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of ``backends.services`` to errors of the API."""
    try:
        yield
    except services.BackendInvalid as error:
        raise FieldInvalid(error.field, error.message) from None
    except services.BackendExists as error:
        raise BackendExists(error.message, error.backend_id) from None
