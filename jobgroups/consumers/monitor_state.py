"""The state that every page shows: runner, newest group, backends, number of failed jobs.

A process reads it once a second for all pages.
"""

import hashlib
import time
from typing import Final

import msgspec
from django.conf import settings

from backends.discovery import found_list
from backends.queries import backend_list
from jobgroups.consumers.reads import read
from jobgroups.queries import backends, failures, groups, leases
from jobgroups.queries.exclusions import active_exclusions
from jobgroups.services import stored_files

POLL_SECONDS: Final = 1.0  #: Seconds between two reads of a page.
_SHARED_SECONDS: Final = 0.8  #: The maximum age of a shared result.


class MonitorState(msgspec.Struct, frozen=True):
    """The state at one moment."""

    runner: bool  #: Whether a runner is alive.
    newest: str  #: The id of the newest group, or empty.
    backends: str  #: A digest that changes with every visible property of a backend.
    failed: int  #: Jobs that failed in the last day and are failed now, at most ``failures.MAX_COUNT``.
    disk_full: bool  #: Whether outputs are not copied and uploads are refused, since too little of the disk is free.


def _read() -> MonitorState:
    newest = groups.group_list(filters=groups.GroupFilter(), cursor=None, limit=1).results
    return MonitorState(
        runner=leases.runner_alive(),
        newest=newest[0]["job_group_id"] if newest else "",
        backends=_backends(),
        failed=failures.lost_count(),
        disk_full=stored_files.free_bytes() < settings.DIRECTOR_MIN_FREE_BYTES,
    )


def _backends() -> str:
    seen = [
        (
            row.id,
            row.name,
            row.enabled,
            row.reachability,
            row.status_reason,
            (row.hold, row.evict, row.changed_by, row.changed_reason, row.changed_at),
            (row.quarantined_at, row.quarantine_until, row.quarantine_reason),
            row.consecutive_quarantines,
            row.queue_running,
            row.queue_pending,
            row.queue_foreign,
            row.comfyui_version,
        )
        for row in backend_list()
    ]
    loads = [(key, str(load)) for key, load in sorted(backends.backend_loads().items())]
    found = [(row.url, row.ignored_at) for row in found_list()]
    excluded = [(row.id, row.count) for row in active_exclusions()]
    shown = repr((seen, loads, found, excluded))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


class MonitorPoller:
    """The process's newest state. Used from one event loop."""

    def __init__(self) -> None:
        self._newest: tuple[float, MonitorState] | None = None

    async def current(self) -> MonitorState:
        """Return a state that is less than a second old."""
        if self._newest is None or time.monotonic() - self._newest[0] > _SHARED_SECONDS:
            self._newest = (time.monotonic(), await read(_read))
        return self._newest[1]


monitor_poller = MonitorPoller()
