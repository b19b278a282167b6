"""Read model of the page of backends: status, jobs and found ComfyUIs, problems first."""

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.db.models import CharField, Count, OuterRef, Subquery
from django.db.models.functions import Coalesce

from backends.comfyui.versions import limitations
from backends.discovery import found_list
from backends.models import Backend, Reachability
from backends.queries import backend_list
from backends.states import ATTENTION_ORDER, TAKES_CHILDREN, BackendState
from director.pages import text
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState, ChildStatus, RetryScope
from jobgroups.domain.text import duration, group_name
from jobgroups.models import Attempt, ChildJob, JobGroup, Variant
from jobgroups.queries import backends
from jobgroups.queries.backends import backend_loads
from jobgroups.queries.exclusions import active_exclusions, ends_at, reason_of
from jobgroups.queries.pool import waiting_line

#: More backends are shown as a table.
MAX_LANES: Final = 12
_DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Work:
    group_id: str
    job_id: str
    name: str
    is_running: bool
    is_stopping: bool
    progress: float
    step: str


@dataclass(frozen=True, slots=True)
class ExclusionItem:
    """A workflow that a backend cannot run."""

    id: int
    reason: str
    #: Time until it ends.
    ends_in: str
    #: The newest group with the workflow; empty if there is none.
    group_id: str
    group_name: str


@dataclass(frozen=True, slots=True)
class BackendRow:
    backend: Backend
    id: str
    name: str
    status: str
    reason: str
    since: str
    since_at: str
    #: Why it is unreachable, if its status shows something else.
    offline_reason: str
    #: The user who set the status; empty if it was observed or no name was given.
    changed_by: str
    #: Time until a quarantined backend is probed; empty: until a user releases it.
    probed_in: str
    gpu: str
    vram: str
    tags: list[str]
    #: What cannot be done with its version of ComfyUI, as sentences.
    limitations: list[str]
    work: list[Work]
    waiting: int
    #: Queued children whose group allows another backend.
    movable: int
    #: Jobs of the pool that wait for any of several backends, of which this is one.
    in_pool: int
    completed_day: int
    failed_day: int
    cannot_run: list[ExclusionItem]

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
        """Whether discovery registered it, no user has changed it, and it is offline."""
        return self.backend.adopted_at is not None and self.status == BackendState.OFFLINE

    @property
    def is_quarantined(self) -> bool:
        return self.status == BackendState.QUARANTINED

    @property
    def running_count(self) -> int:
        return sum(one.is_running and not one.is_stopping for one in self.work)

    @property
    def pending_count(self) -> int:
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
    #: Titles of the table's columns.
    columns: ClassVar = (
        *("Name", "Status", "Jobs", "Queued", "External", "GPU", "Version"),
        *("Completed in a day", "Failed in a day"),
    )
    rows: list[BackendRow]
    #: ``(status, count)``, problems first.
    counts: list[tuple[str, int]]
    has_lanes: bool
    found: list[FoundServer]

    @property
    def online(self) -> list[BackendRow]:
        """Backends whose children are sent now."""
        return [one for one in self.rows if one.is_online]


def backend_list_page() -> BackendList:
    """Return every backend, problems first."""
    line, loads, ends = waiting_line(), backend_loads(), _results_of_day()
    work, movable, cannot_run = _work(), _movable(), _exclusions()
    machines = []
    for row in backend_list():
        load = loads.get(row.id, backends.NO_LOAD)
        shown = backends.serialize_backend(row, load)
        since = shown["status_since"]
        age = None if since is None else now() - dt.datetime.fromisoformat(since)
        gpu, vram = _device(row.devices)
        done = ends[row.id]
        machines.append(
            BackendRow(
                backend=row,
                id=row.id,
                name=row.name or row.id,
                status=shown["status"],
                reason=shown["status_reason"] or "",
                since="" if age is None else duration(age.total_seconds()),
                since_at=since or "",
                offline_reason=_offline_reason(row, shown["status"]),
                changed_by=shown["status_by"] or "",
                probed_in=_until(row.quarantine_until),
                gpu=gpu,
                vram=vram,
                tags=[str(tag) for tag in row.tags],
                limitations=limitations(row.comfyui_version),
                work=work[row.id],
                waiting=load.waiting,
                movable=movable.get(row.id, 0),
                in_pool=line.unsent_for(row.id),
                completed_day=done[ChildStatus.COMPLETED],
                failed_day=done[ChildStatus.FAILED] + done[ChildStatus.TIMEOUT],
                cannot_run=cannot_run[row.id],
            )
        )
    machines.sort(key=lambda one: (ATTENTION_ORDER.index(BackendState(one.status)), one.id))
    counted = Counter(one.status for one in machines)
    counts = [(one.value, counted[one]) for one in ATTENTION_ORDER if counted[one]]
    return BackendList(machines, counts, len(machines) <= MAX_LANES, found_servers())


def found_servers() -> list[FoundServer]:
    """Return the ComfyUIs that discovery found, ignored ones last."""
    found = [
        FoundServer(
            row.url, row.url.split("://", 1)[1], row.comfyui_version, *_device(row.devices), row.ignored_at is not None
        )
        for row in found_list()
    ]
    return sorted(found, key=lambda one: (one.ignored, one.url))


def _work() -> dict[str, list[Work]]:
    rows = Attempt.objects.filter(ended_at__isnull=True).select_related("child__group")
    found: dict[str, list[Work]] = defaultdict(list)
    for one in rows.defer("child__group__workflow_json").order_by("backend_id", "id"):
        child, group = one.child, one.child.group
        runs = one.state == AttemptState.RUNNING
        found[one.backend_id].append(
            Work(
                group_id=group.id,
                job_id=child.id,
                name=group_name(group.id, json.loads(group.metadata_json)),
                is_running=runs,
                is_stopping=one.stop_requested_at is not None,
                progress=child.progress if runs else 0.0,
                step=child.current_step or "",
            )
        )
    return found


def _movable() -> dict[str, int]:
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True, backend_id__gt="")
    may_go = waits.exclude(group__retry_elsewhere=RetryScope.NEVER).order_by()
    counted = may_go.values_list("backend_id").annotate(Count("id"))
    return {backend_id or "": number for backend_id, number in counted}


def _results_of_day() -> dict[str, Counter[str]]:
    rows = ChildJob.objects.filter(completed_at__gt=now() - _DAY).order_by()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for backend_id, status, count in rows.values_list("backend_id", "status").annotate(Count("id")):
        found[backend_id or ""][status] = count
    return found


def _exclusions() -> dict[str, list[ExclusionItem]]:
    found: dict[str, list[ExclusionItem]] = defaultdict(list)
    variants = Variant.objects.filter(pk=OuterRef("variant_id"))
    groups = JobGroup.objects.filter(workflow_digest=OuterRef("workflow_digest"), workflow_digest__gt="")
    newest = Coalesce(
        Subquery(variants.values("group_id")[:1]),
        Subquery(groups.order_by("-created_at").values("id")[:1]),
        output_field=CharField(),
    )
    rows = list(active_exclusions().annotate(group_id=newest))
    named = JobGroup.objects.filter(pk__in={row.group_id for row in rows}).values_list("id", "metadata_json")
    names = {group_id: group_name(group_id, json.loads(metadata)) for group_id, metadata in named}
    for one in rows:
        item = ExclusionItem(
            one.id, reason_of(one), _until(ends_at(one)), one.group_id or "", names.get(one.group_id, "")
        )
        found[one.backend_id].append(item)
    return found


def _offline_reason(row: Backend, status: str) -> str:
    if row.reachability != Reachability.OFFLINE or status == BackendState.OFFLINE:
        return ""
    return row.status_reason or "no answer"


def _until(moment: dt.datetime | None) -> str:
    if moment is None:
        return ""
    left = (moment - now()).total_seconds()
    return duration(left) if left > 0 else "a moment"


def _device(devices: Any) -> tuple[str, str]:
    """Return the name of the first device without CUDA's additions, and its memory as text."""
    if not isinstance(devices, list) or not devices or not isinstance(devices[0], Mapping):
        return "", ""
    first = devices[0]
    name = str(first.get("name", "")).split(" : ")[0]
    free, total = text.memory(first.get("vram_free")), text.memory(first.get("vram_total"))
    return name.removeprefix("cuda:0 "), f"{free or '0 GB'} of {total} free" if total else ""
