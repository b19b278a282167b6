"""Backends over HTTP. They live here because they count children, which ``backends`` knows not of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from backends import probes, services
from backends import queries as backend_queries
from backends.models import Backend
from jobgroups.api.requests import path_params
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.payloads import BackendRequest, NewBackendRequest
from jobgroups.api.views.base import ApiView
from jobgroups.errors import BackendExists, BackendInUse, BackendNotFound, InvalidRequest
from jobgroups.events.hub import hub
from jobgroups.models import Lease
from jobgroups.queries import backends
from jobgroups.services.backends import backend_forget


class BackendListView(ApiView):
    """``/api/backends``"""

    def get(self, request: Request) -> Response:
        """Return every backend."""
        loads = backends.backend_loads()
        rows = backend_queries.backend_list()
        listed = [
            backends.serialize_backend(row, loads.get(row.id, backends.NO_LOAD)) for row in rows
        ]
        return Response({"backends": listed})

    def post(self, request: Request) -> Response:
        """Register a backend, and look at once whether it is there."""
        values = NewBackendRequest.read(json_body(request))
        with translated():
            row = services.backend_create(**values)
        probe_if_new(row)
        return Response(backend_json(row.id), status=201)


class BackendView(ApiView):
    """``/api/backends/{id}``"""

    def get(self, request: Request, backend_id: str) -> Response:
        """Return one backend."""
        return Response(backend_json(path_params.backend_id(backend_id)))

    def patch(self, request: Request, backend_id: str) -> Response:
        """Change what is named; its address only while no prompt of ours may stand there."""
        known = _get_backend(path_params.backend_id(backend_id))
        values = BackendRequest.read(json_body(request))
        if values.pop("backend_id") not in (None, known.id):
            _refuse("backend_id", "Cannot be changed: jobs are remembered by it.")
        with translated(), _claims_held_off(known.id):
            if values["url"] is not None and services.is_other_address(known, values["url"]):
                _refuse_while_active(known.id)
            row = services.backend_update(backend_id=known.id, **values)
        if row is None:
            raise BackendNotFound(known.id)
        probe_if_new(row)
        return Response(backend_json(row.id))

    def delete(self, request: Request, backend_id: str) -> Response:
        """Forget a backend for which nothing is waiting and on which nothing of ours may run."""
        backend_forget(backend_id=path_params.backend_id(backend_id))
        hub.notify_runners()
        return Response(status=204)


class BackendStatusView(ApiView):
    """``/api/backends/{id}/status``"""

    def get(self, request: Request, backend_id: str) -> Response:
        """Return what changes of a backend by itself."""
        row = _get_backend(path_params.backend_id(backend_id))
        load = backends.backend_loads([row.id]).get(row.id, backends.NO_LOAD)
        return Response(backends.serialize_backend_status(row, load))


def _get_backend(backend_id: str) -> Backend:
    row = backend_queries.backend_find(backend_id)
    if row is None:
        raise BackendNotFound(backend_id)
    return row


def backend_json(backend_id: str) -> dict[str, object]:
    """Return a backend as it is stored now.

    Raises:
        BackendNotFound: there is none with this id.
    """
    row = _get_backend(backend_id)
    load = backends.backend_loads([row.id]).get(row.id, backends.NO_LOAD)
    return backends.serialize_backend(row, load)


def probe_if_new(row: Backend) -> None:
    """Ask a backend that is new to us, so that its status is true in the answer; wake the runner."""
    if row.enabled and row.last_seen_at is None:
        probes.probe_backends([row])
    hub.notify_runners()


@contextmanager
def _claims_held_off(backend_id: str) -> Iterator[None]:
    """Hold the backend's lease row: every claim holds it too, so none comes between look and write."""
    with transaction.atomic():
        Lease.objects.select_for_update().filter(pk=backend_id).first()
        yield


def _refuse_while_active(backend_id: str) -> None:
    _, attempts = backends.backend_in_use(backend_id)
    if attempts:
        raise BackendInUse(
            f"{_count(attempts, 'prompt')} of ours may still run at the present address; "
            "disable the backend and change it when they have ended."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _refuse(field: str, message: str) -> None:
    raise InvalidRequest(f"{field}: {message}", errors=[{"field": field, "message": message}])


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except services.BackendInvalid as error:
        _refuse(error.field, error.message)
    except services.BackendExists as error:
        raise BackendExists(error.message, error.backend_id) from None
