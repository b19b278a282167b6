"""Backends as the JSON objects that clients see. Pure over loaded rows; headers never get here."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from backends.models import Backend, Reachability
from jobgroups.clock import iso, iso_or_none, now
from jobgroups.selectors import BackendLoad

#: An "online" that nobody has renewed for so long is not shown any more: no runner looks there.
#: Runners look every few seconds; a ComfyUI that loads a model may answer late.
STALE: Final = dt.timedelta(seconds=30)
NO_LOAD: Final = BackendLoad(running=0, accepted=0, waiting=0)


def backend(row: Backend, load: BackendLoad = NO_LOAD) -> dict[str, Any]:
    """Return a backend with every field of its schema."""
    changing = status(row, load)
    return {
        "backend_id": row.id,
        "name": row.name,
        "url": row.url,
        "enabled": row.enabled,
        "status": changing["status"],
        "status_reason": changing["status_reason"],
        "status_since": changing["status_since"],
        "queue_ours": changing["queue_ours"],
        "queue_foreign": changing["queue_foreign"],
        "running": changing["running"],
        "tags": row.tags,
        "devices": row.devices,
        "comfyui_version": row.comfyui_version or None,
        "last_seen_at": iso_or_none(row.last_seen_at),
    }


def status(row: Backend, load: BackendLoad = NO_LOAD) -> dict[str, Any]:
    """Return the fields of a backend that change by themselves.

    ``queue_ours`` and ``queue_foreign`` are prompts that wait or execute there, ``running`` those
    that execute, whoever's; all as of the last look, but for ours, which are known.
    """
    word, reason, since = _status(row, load)
    return {
        "backend_id": row.id,
        "enabled": row.enabled,
        "status": word,
        "status_reason": reason or None,
        "status_since": iso_or_none(since),
        "queue_ours": load.running + load.accepted,
        "queue_foreign": row.queue_foreign,
        "running": max(row.queue_running, load.running),
        "devices": row.devices,
        "comfyui_version": row.comfyui_version or None,
        "last_seen_at": iso_or_none(row.last_seen_at),
    }


def _status(row: Backend, load: BackendLoad) -> tuple[str, str, dt.datetime | None]:
    """Return the status with its reason and beginning."""
    if not row.enabled:
        return "disabled", row.status_reason, row.status_since
    if row.reachability == Reachability.UNKNOWN:
        return "offline", "Not heard from yet.", row.status_since or row.created_at
    if row.reachability == Reachability.OFFLINE:
        return "offline", row.status_reason, row.status_since
    if row.last_seen_at is None or row.last_seen_at < now() - STALE:
        since = row.last_seen_at or row.created_at
        return "offline", f"Not looked at since {iso(since)}; is a runner alive?", since
    stands = row.queue_running + row.queue_pending + load.running + load.accepted
    return "busy" if stands else "online", row.status_reason, row.status_since
