"""All reads of backends. Synchronous; nothing is written here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

from backends.models import Backend
from backends.states import STALE_AFTER, BackendObservation, BackendStatus, derive_status


def backend_find(backend_id: str) -> Backend | None:
    """Return the backend with an id, None if there is none."""
    return Backend.objects.filter(pk=backend_id).first()


def backend_list() -> list[Backend]:
    """Return every backend, by id."""
    return list(Backend.objects.order_by("id"))


def backends_by_id(backend_ids: Iterable[str]) -> dict[str, Backend]:
    """Return the backends with these ids, by id; ids without a backend are left out."""
    return Backend.objects.in_bulk(set(backend_ids))


#: What users and failures require of a backend; its session applies it.
_DESIRED_STATE: Final = (
    "enabled",
    "hold",
    "evict",
    "changed_by",
    "quarantined_at",
    "quarantine_until",
    "quarantine_by",
    "quarantine_reason",
)


def desired_backends() -> list[dict[str, Any]]:
    """Return ``id``, ``url``, ``headers`` and the columns of the desired state of every backend, by id."""
    rows = Backend.objects.order_by("id").values("id", "url", "headers", *_DESIRED_STATE)
    return [dict(row) for row in rows]


def is_offline(row: Backend, now: dt.datetime) -> bool:
    """Return whether a backend answers no query; one that answers and is unfit is not offline."""
    if row.unreachable_since is None:
        return False
    seen_at = row.last_seen_at
    return seen_at is None or seen_at < max(row.unreachable_since, now - STALE_AFTER)


def backend_status(row: Backend, *, now: dt.datetime, ours: int = 0) -> BackendStatus:
    """Return the status of a loaded row.

    Args:
        row: the backend.
        now: the time at which the status is derived.
        ours: prompts of ours that wait or run there, as stored by the Director.
    """
    return derive_status(
        BackendObservation(
            now=now,
            created_at=row.created_at,
            enabled=row.enabled,
            hold=row.hold,
            changed_reason=row.changed_reason,
            changed_by=row.changed_by,
            changed_at=row.changed_at,
            quarantined_at=row.quarantined_at,
            quarantine_reason=row.quarantine_reason,
            quarantine_by=row.quarantine_by,
            consecutive_quarantines=row.consecutive_quarantines,
            reachability=row.reachability,
            status_reason=row.status_reason,
            status_since=row.status_since,
            last_seen_at=row.last_seen_at,
            is_busy=bool(row.queue_running + row.queue_pending + ours),
        )
    )


def is_on_probation(row: Backend) -> bool:
    """Return whether a backend was released from quarantine and no prompt has succeeded since."""
    return row.quarantined_at is None and row.consecutive_quarantines > 0
