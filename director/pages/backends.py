"""Read model of the page of backends: status, jobs and found ComfyUIs, problems first."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count

from backends.discovery import found_list
from backends.models import Backend, FoundBackend, Reachability
from backends.queries import backend_list
from backends.states import ATTENTION_ORDER, TAKES_CHILDREN, BackendState
from director.pages import text
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState, ChildStatus, RetryScope
from jobgroups.models import Attempt, ChildJob
from jobgroups.queries import backends
from jobgroups.queries.backends import BackendLoad, backend_loads
from jobgroups.queries.leases import runner_alive

#: More backends are shown as a table.
MAX_LANES: Final = 12
_COLUMNS: Final = (
    "Name",
    "Status",
    "Jobs",
    "Queued",
    "External",
    "GPU",
    "Version",
    "Completed in a day",
    "Failed in a day",
)
_DAY: Final = dt.timedelta(days=1)
_STATUS_LABELS: Final = {
    BackendState.UNKNOWN: "Unknown",
    BackendState.ONLINE: "Online",
    BackendState.BUSY: "Busy",
    BackendState.PAUSED: "Paused",
    BackendState.DRAINING: "Draining",
    BackendState.OFFLINE: "Offline",
    BackendState.DISABLED: "Disabled",
    BackendState.QUARANTINED: "Quarantined",
}


@dataclass(frozen=True, slots=True)
class Work:
    """A prompt of the Director at a backend."""

    group_id: str
    job_id: str
    name: str
    is_running: bool
    is_stopping: bool
    progress: float
    step: str


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One backend."""

    id: str
    name: str
    url: str
    enabled: bool
    status: str
    label: str
    reason: str
    since: str
    since_at: str
    #: Why it is unreachable, if its status shows something else.
    offline_reason: str
    is_unresponsive: bool
    #: The user who set the status; empty if it was observed or no name was given.
    changed_by: str
    #: ``pause``, ``drain`` or empty.
    hold: str
    #: Whether its jobs were stopped and queued again.
    evicts: bool
    #: Time until a quarantined backend is probed; empty: until a user releases it.
    probed_in: str
    gpu: str
    vram: str
    version: str
    tags: list[str]
    work: list[Work]
    waiting: int
    #: Queued children whose group allows another backend.
    movable: int
    foreign: int
    completed_day: int
    failed_day: int
    #: Whether discovery registered it and no user has changed it.
    adopted: bool

    @property
    def is_online(self) -> bool:
        """Whether its children are sent now."""
        return self.status in ("online", "busy")

    @property
    def takes_children(self) -> bool:
        """Whether children may be submitted for it; on a paused one they wait."""
        return self.status in TAKES_CHILDREN

    @property
    def can_be_removed(self) -> bool:
        """Whether the page offers its removal: discovery registered it, and it is offline."""
        return self.adopted and self.status == BackendState.OFFLINE

    @property
    def is_quarantined(self) -> bool:
        """Whether it is quarantined."""
        return self.status == BackendState.QUARANTINED

    @property
    def running_count(self) -> int:
        """Running prompts."""
        return sum(one.is_running and not one.is_stopping for one in self.work)

    @property
    def pending_count(self) -> int:
        """Pending prompts in ComfyUI's queue."""
        return sum(not one.is_running and not one.is_stopping for one in self.work)


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A ComfyUI that discovery found and that is not registered."""

    url: str
    address: str
    version: str
    gpu: str
    vram: str
    ignored: bool


@dataclass(frozen=True, slots=True)
class BackendList:
    """The page of backends."""

    rows: list[BackendRow]
    #: ``(status, label, count)``, problems first.
    counts: list[tuple[str, str, int]]
    has_lanes: bool
    runner_alive: bool
    found: list[FoundServer]

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the table's columns."""
        return _COLUMNS

    @property
    def online(self) -> list[BackendRow]:
        """Backends whose children are sent now."""
        return [one for one in self.rows if one.is_online]


def backend_list_page() -> BackendList:
    """Return every backend, problems first."""
    rows = backend_list()
    loads = backend_loads()
    work, ends, movable = _work(), _results_of_day(), _movable()
    machines = [
        _row(row, loads.get(row.id, backends.NO_LOAD), work[row.id], ends[row.id], movable.get(row.id, 0))
        for row in rows
    ]
    machines.sort(key=lambda one: (ATTENTION_ORDER.index(BackendState(one.status)), one.id))
    counted = Counter(one.status for one in machines)
    counts = [(one.value, _STATUS_LABELS[one], counted[one]) for one in ATTENTION_ORDER if counted[one]]
    return BackendList(machines, counts, len(machines) <= MAX_LANES, runner_alive(), found_servers())


def found_servers() -> list[FoundServer]:
    """Return the ComfyUIs that discovery found, ignored ones last."""
    return sorted((_found_server(row) for row in found_list()), key=lambda one: (one.ignored, one.url))


def _found_server(row: FoundBackend) -> FoundServer:
    gpu, vram = _device(row.devices)
    address = row.url.split("://", 1)[1]
    return FoundServer(row.url, address, row.comfyui_version, gpu, vram, row.ignored_at is not None)


def _work() -> dict[str, list[Work]]:
    rows = Attempt.objects.filter(ended_at__isnull=True).select_related("child__group")
    found: dict[str, list[Work]] = defaultdict(list)
    for one in rows.defer("child__group__workflow_json").order_by("backend_id", "id"):
        found[one.backend_id].append(_work_item(one))
    return found


def _movable() -> dict[str, int]:
    """Return the number of queued children of each backend that may move to another one."""
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True)
    may_go = waits.exclude(group__retry_elsewhere=RetryScope.NEVER).order_by()
    counted = may_go.values_list("backend_id").annotate(Count("id"))
    return {backend_id or "": number for backend_id, number in counted}


def _work_item(one: Attempt) -> Work:
    child, group = one.child, one.child.group
    runs = one.state == AttemptState.RUNNING
    return Work(
        group_id=group.id,
        job_id=child.id,
        name=text.group_name(group.id, json.loads(group.metadata_json)),
        is_running=runs,
        is_stopping=one.stop_requested_at is not None,
        progress=child.progress if runs else 0.0,
        step=child.current_step or "",
    )


def _results_of_day() -> dict[str, Counter[str]]:
    """Return the results of the children of the last day, by backend."""
    rows = ChildJob.objects.filter(completed_at__gt=now() - _DAY).order_by()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for backend_id, status, count in rows.values_list("backend_id", "status").annotate(Count("id")):
        found[backend_id or ""][status] = count
    return found


def _row(row: Backend, load: BackendLoad, work: Sequence[Work], ends: Mapping[str, int], movable: int) -> BackendRow:
    shown = backends.serialize_backend(row, load)
    since = shown["status_since"]
    gpu, vram = _device(row.devices)
    return BackendRow(
        id=row.id,
        name=row.name or row.id,
        url=row.url,
        enabled=row.enabled,
        status=shown["status"],
        label=_STATUS_LABELS[BackendState(shown["status"])],
        reason=shown["status_reason"] or "",
        since="" if since is None else _since(since),
        since_at=since or "",
        offline_reason=_offline_reason(row, shown["status"]),
        is_unresponsive=row.reachability != Reachability.ONLINE,
        changed_by=shown["status_by"] or "",
        hold=row.hold,
        evicts=row.evict,
        probed_in=_until(row.quarantine_until),
        gpu=gpu,
        vram=vram,
        version=row.comfyui_version,
        tags=[str(tag) for tag in row.tags],
        work=list(work),
        waiting=load.waiting,
        movable=movable,
        foreign=row.queue_foreign,
        completed_day=ends.get(ChildStatus.COMPLETED, 0),
        failed_day=ends.get(ChildStatus.FAILED, 0) + ends.get(ChildStatus.TIMEOUT, 0),
        adopted=row.adopted_at is not None,
    )


def _since(since: str) -> str:
    return text.duration((now() - text.parse_time(since)).total_seconds())


def _offline_reason(row: Backend, status: str) -> str:
    if row.reachability != Reachability.OFFLINE or status == BackendState.OFFLINE:
        return ""
    return row.status_reason or "no answer"


def _until(moment: dt.datetime | None) -> str:
    if moment is None:
        return ""
    left = (moment - now()).total_seconds()
    return text.duration(left) if left > 0 else "a moment"


def _device(devices: Any) -> tuple[str, str]:
    """Return the name of the first device without CUDA's additions, and its memory as text."""
    if not isinstance(devices, list) or not devices or not isinstance(devices[0], Mapping):
        return "", ""
    first = devices[0]
    name = str(first.get("name", "")).split(" : ")[0]
    free, total = text.memory(first.get("vram_free")), text.memory(first.get("vram_total"))
    return name.removeprefix("cuda:0 "), f"{free or '0 GB'} of {total} free" if total else ""
