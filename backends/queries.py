"""Reads registered backends, and their states. Synchronous; nothing is written here."""

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from django.db import connection

from backends.hours import is_open, local_text, opens_at
from backends.models import Backend, Reachability
from backends.states import STALE_AFTER, BackendState, BackendStatus, Hold

#: When this process started: runners that start with it take some seconds for their first probes.
STARTED_AT: Final = dt.datetime.now(dt.UTC)


def release_connection() -> None:
    """Give the database connection of this thread back, before it waits for backends: the pool of
    PostgreSQL has fewer connections than a process has threads. The next query takes one again.
    """
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()


def backend_find(backend_id: str) -> Backend | None:
    return Backend.objects.filter(pk=backend_id).first()


def name_of(backend_id: str) -> str:
    """Return what users call a backend; of one that was removed its id."""
    return (
        Backend.objects.filter(pk=backend_id).values_list("name", flat=True).first() or backend_id
    )


def unique_names() -> dict[str, str]:
    """Return what identifies each backend for users, by its id: the name, with the id if others
    have the name.
    """
    names = dict(Backend.objects.order_by().values_list("id", "name"))
    uses = Counter(names.values())
    return {key: name if uses[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def backend_list() -> list[Backend]:
    return list(Backend.objects.order_by("id"))


def backends_by_id(backend_ids: Iterable[str]) -> dict[str, Backend]:
    return Backend.objects.in_bulk(set(backend_ids))


_QUARANTINE: Final = ("quarantined_at", "quarantine_until", "quarantine_by", "quarantine_reason")
#: What users and failures require of a backend; its session applies it.
_DESIRED_STATE: Final = (
    *("enabled", "hold", "evict", "changed_by", "hours", "time_zone"),
    *_QUARANTINE,
)


def desired_backends() -> list[dict[str, Any]]:
    """Return ``id``, ``name``, ``url``, ``headers`` and the columns of the desired state of every
    backend, by id.
    """
    rows = Backend.objects.order_by("id").values("id", "name", "url", "headers", *_DESIRED_STATE)
    return [dict(row) for row in rows]


def is_offline(row: Backend, now: dt.datetime) -> bool:
    """Return whether a backend answers no query; one that answers and is unfit is not offline."""
    if row.unreachable_since is None:
        return False
    seen_at = row.last_seen_at
    return seen_at is None or seen_at < max(row.unreachable_since, now - STALE_AFTER)


def offline_for(seconds: float, *, now: dt.datetime) -> set[str]:
    """Return the ids of the backends that have answered no query for so many seconds."""
    before = now - dt.timedelta(seconds=seconds)
    rows = Backend.objects.filter(unreachable_since__lte=before).order_by()
    return {row.id for row in rows if is_offline(row, now)}


def backend_status(row: Backend, *, now: dt.datetime, ours: int = 0) -> BackendStatus:
    """Return the first state of ``BackendState`` that applies to a backend, and its cause.

    ``ours`` are prompts of ours that wait or run there, as stored by the Director.
    """
    if not row.enabled:
        since = row.changed_at or row.status_since
        return BackendStatus(BackendState.DISABLED, row.changed_reason, since, row.changed_by)
    if row.quarantined_at is not None:
        return BackendStatus(
            BackendState.QUARANTINED, row.quarantine_reason, row.quarantined_at, row.quarantine_by
        )
    if row.hold:
        state = BackendState.DRAINING if row.hold == Hold.DRAIN else BackendState.PAUSED
        return BackendStatus(state, row.changed_reason, row.changed_at, row.changed_by)
    if not is_open(row.hours, row.time_zone, now):
        at = opens_at(row.hours, row.time_zone, now)
        opens = f"it opens {local_text(at, row.time_zone)}" if at else "its hours never open"
        return BackendStatus(BackendState.PAUSED, f"Outside its hours: {opens}.", is_closed=True)
    return _observed_status(row, now, is_busy=bool(row.queue_running + row.queue_pending + ours))


def _observed_status(row: Backend, now: dt.datetime, *, is_busy: bool) -> BackendStatus:
    """Return the status of a backend that nothing holds back."""
    if row.reachability == Reachability.OFFLINE:
        return BackendStatus(BackendState.OFFLINE, row.status_reason, row.status_since)
    if row.reachability == Reachability.UNKNOWN:
        since = row.status_since or row.created_at
        return BackendStatus(BackendState.UNKNOWN, "No response yet.", since)
    if row.last_seen_at is None or row.last_seen_at < now - STALE_AFTER:
        since = row.last_seen_at or row.created_at
        if since < STARTED_AT <= now < STARTED_AT + STALE_AFTER:
            return BackendStatus(BackendState.UNKNOWN, "Not checked yet since the start.", since)
        moment = f"{since.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
        reason = f"Not probed since {moment}; is a runner alive?"
        return BackendStatus(BackendState.OFFLINE, reason, since)
    reason = row.status_reason
    if not reason and row.consecutive_quarantines:
        reason = "On probation after a quarantine: one prompt at a time until one succeeds."
    state = BackendState.BUSY if is_busy else BackendState.ONLINE
    return BackendStatus(state, reason, row.status_since)


def is_on_probation(row: Backend) -> bool:
    """Return whether a backend was released from quarantine and no prompt has succeeded since."""
    return row.quarantined_at is None and row.consecutive_quarantines > 0
