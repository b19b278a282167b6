"""Reads backends, and their load: as the JSON objects of the API, which never include headers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from django.db.models import Count, QuerySet

from backends.eligibility import limitations_of
from backends.hours import opens_at
from backends.models import Backend
from backends.queries import backend_find, backend_status, is_on_probation
from jobgroups.database.statements import PreparedQuery
from jobgroups.domain.clock import iso, iso_or_none, now
from jobgroups.domain.figures import Figures
from jobgroups.domain.shapes import backends as shapes
from jobgroups.domain.states import CHILD_OPEN, AttemptState, ChildStatus
from jobgroups.errors import BackendNotFound
from jobgroups.models import Attempt, ChildJob
from jobgroups.serializers import shape


def backend_get(backend_id: str) -> Backend:
    row = backend_find(backend_id)
    if row is None:
        raise BackendNotFound(backend_id)
    return row


class _Backends:
    """All backends, as the database has them. No caller changes an instance: it is made again only
    if its row changed.
    """

    def __init__(self) -> None:
        self._query = PreparedQuery(lambda: Backend.objects.order_by("id"))
        self._kept: Mapping[str, tuple[tuple[Any, ...], Backend]] = {}

    def read(self) -> dict[str, Backend]:
        rows, place, kept = self._query.raw(), self._query.column("id"), self._kept
        by_id = {}
        for row in rows:
            same = kept.get(row[place])
            by_id[row[place]] = (
                same if same and same[0] == row else (row, self._query.instance(row))
            )
        self._kept = by_id
        return {backend_id: backend for backend_id, (_, backend) in by_id.items()}


#: Returns all backends by id; the instances are shared between threads and must not be changed.
current_backends: Final = _Backends().read


@dataclass(frozen=True, slots=True)
class BackendLoad:
    running: int
    accepted: int
    waiting: int


def backend_loads(backend_ids: Sequence[str] | None = None) -> dict[str, BackendLoad]:
    active = Attempt.objects.filter(ended_at__isnull=True)
    waits = ChildJob.objects.filter(
        status=ChildStatus.QUEUED, current_attempt__isnull=True, backend_id__gt=""
    )
    if backend_ids is not None:
        active = active.filter(backend_id__in=backend_ids)
        waits = waits.filter(backend_id__in=backend_ids)
    counted: dict[str, list[int]] = {}
    for backend_id, state, count in (
        active.order_by().values_list("backend_id", "state").annotate(Count("id"))
    ):
        slot = 0 if state == AttemptState.RUNNING else 1
        counted.setdefault(backend_id, [0, 0, 0])[slot] += count
    for backend, count in waits.order_by().values_list("backend_id").annotate(Count("id")):
        counted.setdefault(backend or "", [0, 0, 0])[2] += count
    return {backend_id: BackendLoad(*numbers) for backend_id, numbers in counted.items()}


def open_children(backend_id: str) -> QuerySet[ChildJob]:
    """Return the children of a backend that are not final."""
    return ChildJob.objects.filter(backend_id=backend_id, status__in=CHILD_OPEN)


def active_attempts(backend_id: str) -> QuerySet[Attempt]:
    """Return the attempts that may still run at a backend."""
    return Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True)


NO_LOAD: Final = BackendLoad(running=0, accepted=0, waiting=0)
NO_FIGURES: Final = Figures()
_SETTINGS: Final = {
    *("name", "url", "tags", "partner_nodes_allowed", "extensions_allowed", "hours", "time_zone"),
    "limitations",
    *("changed_by", "changed_reason", "changed_at", "adopted_at"),
}


def serialize_backend(
    row: Backend, load: BackendLoad = NO_LOAD, done: Figures = NO_FIGURES
) -> dict[str, Any]:
    """Return a backend.

    ``queue_ours`` and ``queue_foreign`` are the pending and running prompts of the Director and of
    other clients, ``running`` the running prompts of all clients. The Director's are exact, the
    others are as of the last probe.
    """
    ours = load.running + load.accepted
    status = backend_status(row, now=now(), ours=ours)
    return shape(
        shapes.Backend,
        row,
        backend_id=row.id,
        status=status.state.value,
        status_reason=status.reason or None,
        status_since=status.since,
        status_by=status.by or None,
        hours=row.hours or None,
        time_zone=row.time_zone or None,
        opens_at=opens_at(row.hours, row.time_zone, now()),
        queue_ours=ours,
        running=max(row.queue_running, load.running),
        quarantine=_quarantine(row),
        on_probation=is_on_probation(row),
        limitations=limitations_of(row),
        **asdict(done),
    )


def serialize_backend_status(
    row: Backend, load: BackendLoad = NO_LOAD, done: Figures = NO_FIGURES
) -> dict[str, Any]:
    """Return the fields of a backend that change without a request."""
    fields = serialize_backend(row, load, done)
    return {name: value for name, value in fields.items() if name not in _SETTINGS}


def _quarantine(row: Backend) -> dict[str, Any] | None:
    if row.quarantined_at is None:
        return None
    return {
        "since": iso(row.quarantined_at),
        "until": iso_or_none(row.quarantine_until),
        "reason": row.quarantine_reason or None,
        "by": row.quarantine_by or None,
    }
