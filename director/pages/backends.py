"""Read model of the page of backends: status, jobs and found ComfyUIs, problems first."""

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

from django.db.models import CharField, Count, OuterRef, Subquery
from django.db.models.functions import Coalesce

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

MAX_LANES: Final = 12  #: More backends are shown as a table.
_DAY: Final = dt.timedelta(days=1)


#: Titles of the table's columns.
_COLUMNS: Final = (
    *("Name", "Status", "Jobs", "Queued", "External", "GPU", "Version"),
    *("Completed in a day", "Failed in a day"),
)


def backend_list_page() -> dict[str, Any]:
    """Return every backend, problems first."""
    line, loads, ends = waiting_line(), backend_loads(), _results_of_day()
    work, movable, cannot_run = _work(), _movable(), _exclusions()
    rows = []
    for backend in backend_list():
        load = loads.get(backend.id, backends.NO_LOAD)
        shown = backends.serialize_backend(backend, load)
        status, since = BackendState(shown["status"]), shown["status_since"]
        age = None if since is None else now() - dt.datetime.fromisoformat(since)
        gpu, vram = _device(backend.devices)
        done, jobs = ends[backend.id], work[backend.id]
        rows.append(
            {
                "backend": backend,
                "id": backend.id,
                "name": backend.name or backend.id,
                "status": status.value,
                "reason": shown["status_reason"] or "",
                "since": "" if age is None else duration(age.total_seconds()),
                "since_at": since or "",
                # Why it is unreachable, if its status shows something else.
                "offline_reason": _offline_reason(backend, status),
                # The user who set the status; empty if it was observed or no name was given.
                "changed_by": shown["status_by"] or "",
                # Time until a quarantined backend is probed; empty: until a user releases it.
                "probed_in": _until(backend.quarantine_until),
                "gpu": gpu,
                "vram": vram,
                "tags": [str(tag) for tag in backend.tags],
                "limitations": shown["limitations"],
                # Whether its children are sent now; whether more may be submitted for it: on a paused one they wait.
                "is_online": status in (BackendState.ONLINE, BackendState.BUSY),
                "takes_children": status in TAKES_CHILDREN,
                "is_quarantined": status == BackendState.QUARANTINED,
                # Whether discovery registered it, no user has changed it, and it is offline.
                "can_be_removed": backend.adopted_at is not None and status == BackendState.OFFLINE,
                "work": jobs,
                "running_count": sum(one["is_running"] and not one["is_stopping"] for one in jobs),
                "pending_count": sum(not one["is_running"] and not one["is_stopping"] for one in jobs),
                "waiting": load.waiting,
                # Queued children whose group allows another backend.
                "movable": movable.get(backend.id, 0),
                # Jobs of the pool that wait for any of several backends, of which this is one.
                "in_pool": line.unsent_for(backend.id),
                "completed_day": done[ChildStatus.COMPLETED],
                "failed_day": done[ChildStatus.FAILED] + done[ChildStatus.TIMEOUT],
                "cannot_run": cannot_run[backend.id],
            }
        )
    rows.sort(key=lambda one: (ATTENTION_ORDER.index(BackendState(one["status"])), one["id"]))
    counted = Counter(one["status"] for one in rows)
    return {
        "columns": _COLUMNS,
        "rows": rows,
        "online": [one for one in rows if one["is_online"]],
        # ``(status, count)``, problems first.
        "counts": [(one.value, counted[one]) for one in ATTENTION_ORDER if counted[one]],
        "has_lanes": len(rows) <= MAX_LANES,
        "found": found_servers(),
    }


def found_servers() -> list[dict[str, Any]]:
    """Return the ComfyUIs that discovery found and that are not registered, ignored ones last."""
    found = []
    for row in found_list():
        gpu, vram = _device(row.devices)
        found.append(
            {
                "url": row.url,
                "address": row.url.split("://", 1)[1],
                "version": row.comfyui_version,
                "gpu": gpu,
                "vram": vram,
                "ignored": row.ignored_at is not None,
            }
        )
    return sorted(found, key=lambda one: (one["ignored"], one["url"]))


def _work() -> dict[str, list[dict[str, Any]]]:
    rows = Attempt.objects.filter(ended_at__isnull=True).select_related("child__group")
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in rows.defer("child__group__workflow_json").order_by("backend_id", "id"):
        child, group = one.child, one.child.group
        runs = one.state == AttemptState.RUNNING
        found[one.backend_id].append(
            {
                "group_id": group.id,
                "job_id": child.id,
                "name": group_name(group.id, json.loads(group.metadata_json)),
                "is_running": runs,
                "is_stopping": one.stop_requested_at is not None,
                "progress": child.progress if runs else 0.0,
                "step": child.current_step or "",
            }
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


def _exclusions() -> dict[str, list[dict[str, Any]]]:
    """Return the workflows that each backend cannot run, each with its newest group, if there is one."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
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
        found[one.backend_id].append(
            {
                "id": one.id,
                "reason": reason_of(one),
                "ends_in": _until(ends_at(one)),
                "group_id": one.group_id or "",
                "group_name": names.get(one.group_id, ""),
            }
        )
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
