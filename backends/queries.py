"""The only readers of backends. Sync; none of them writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

from backends.models import Backend
from backends.states import STALE, Facts


def backend_find(backend_id: str) -> Backend | None:
    """Return one backend, None where there is none with this id."""
    return Backend.objects.filter(pk=backend_id).first()


def backend_list() -> list[Backend]:
    """Return every backend, by id."""
    return list(Backend.objects.order_by("id"))


def backends_by_id(backend_ids: Iterable[str]) -> dict[str, Backend]:
    """Return those of the named backends that exist, by id."""
    return Backend.objects.in_bulk(set(backend_ids))


#: What was said of a backend, as its session carries it out.
_ORDERS: Final = (
    "enabled",
    "hold",
    "evict",
    "changed_by",
    "quarantined_at",
    "quarantine_until",
    "quarantine_by",
    "quarantine_reason",
)


def backend_addresses() -> list[dict[str, Any]]:
    """Return what a runner needs to know of every backend.

    ``id, url, headers``, and what was said of it: ``enabled, hold, evict, changed_by,
    quarantined_at, quarantine_until, quarantine_by, quarantine_reason``.
    """
    rows = Backend.objects.order_by("id").values("id", "url", "headers", *_ORDERS)
    return [dict(row) for row in rows]


def is_offline(row: Backend, now: dt.datetime) -> bool:
    """Return whether a backend answers no query; one that answers and is unfit is not offline."""
    if row.unreachable_since is None:
        return False
    heard_at = row.last_seen_at
    return heard_at is None or heard_at < max(row.unreachable_since, now - STALE)


def backend_facts(row: Backend, *, now: dt.datetime, ours: int = 0) -> Facts:
    """Return what is known of a loaded row at a moment, for :func:`backends.states.backend_state`.

    Args:
        row: the backend.
        now: the moment.
        ours: prompts of ours that stand or run there, as the Director's own rows know them.
    """
    return Facts(
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
        stands=bool(row.queue_running + row.queue_pending + ours),
    )
