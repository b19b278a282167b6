"""Read model of the table of backends: status, jobs and found ComfyUIs, problems first.

The number of queries does not depend on the number of backends.
"""

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from django.db.models import CharField, Count, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from backends.discovery import found_list
from backends.models import Backend, Reachability
from backends.queries import backend_list
from backends.states import ATTENTION_ORDER, TAKES_CHILDREN, BackendState, Hold
from director.pages import text
from jobgroups.domain.access import Owned, Principal, sees
from jobgroups.domain.pool import PoolSnapshot
from jobgroups.domain.states import AttemptState, ChildStatus, RetryScope
from jobgroups.domain.text import duration
from jobgroups.models import TITLE, Attempt, ChildJob, JobGroup, Variant
from jobgroups.queries import backends
from jobgroups.queries.backends import backend_loads
from jobgroups.queries.etas import current_etas
from jobgroups.queries.exclusions import ends_at, reason_of, visible_exclusions
from jobgroups.queries.figures import current_figures
from jobgroups.queries.pool import open_variants, pool_backends
from jobgroups.queries.visibility import visible

_WORK: Final = (
    *("backend_id", "state", "stop_requested_at", "child__progress", "child__current_step"),
    *(f"child__group__{name}" for name in (*TITLE, "owner_id", "shared_at")),
)
_SORTS: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]]] = {
    "name": ("Backend", lambda row: _natural(row["name"])),
    "status": ("Status", lambda row: ATTENTION_ORDER.index(row["status"])),
    "job": ("Current job", lambda row: row["work"][0]["name"].lower() if row["work"] else "\uffff"),
    "queued": ("Queued", lambda row: row["waiting"] + row["pending_count"]),
    "seconds": ("Seconds/job", lambda row: row["seconds_per_job"] or 0.0),
    "gpu": ("GPU", lambda row: _natural(row["gpu"])),
    "memory": ("Memory free", lambda row: row["free_bytes"]),
    "completed": ("Completed", lambda row: row["completed_day"]),
    "failed": ("Failed", lambda row: row["failed_day"]),
    "version": ("ComfyUI", lambda row: _natural(row["backend"].comfyui_version)),
    "tags": ("Tags", lambda row: row["tags"]),
}
#: Columns of numbers: the first sort has the highest first.
_HIGHEST_FIRST: Final = frozenset({"queued", "seconds", "memory", "completed", "failed"})
#: What a column says of its time.
_HINTS: Final = {
    "seconds": "Mean of the jobs of the last hour",
    "completed": "Jobs completed in the last 24 hours",
    "failed": "Attempts that failed in the last 24 hours, also of jobs that were retried elsewhere",
}
#: Marks of a backend beside its status; the filters have them, too.
MARKS: Final = ("slow", "flaky")
_MARK_LENGTH: Final = 5
#: The text of an age, which the page keeps current.
_AGE: Final = re.compile(r"(<time [^>]*>)[^<]*")


def backend_list_page(
    principal: Principal, sort: str = "", had: str | None = None
) -> dict[str, Any]:
    """Return every backend, problems first, or by a column; ``-`` before the column's name reverses
    the order. Of the work of others, which the principal may not see, only where it is.

    ``had``: the marks of the rows that the page has, one after the other. A row that has not
    changed is a reference to it. None: the rows are not shown as a table.
    """
    rows = backend_rows(backend_list(), principal)
    rows.sort(key=lambda row: (_attention(row), _natural(row["id"])))
    key = sort.removeprefix("-")
    if key in _SORTS:
        rows.sort(key=_SORTS[key][1], reverse=sort != key)
    if had is not None:
        marks = {had[at : at + _MARK_LENGTH] for at in range(0, len(had), _MARK_LENGTH)}
        for row in rows:
            row["html"] = _row_html(row, marks)
    counted = Counter(row["status"] for row in rows)
    counted.update(mark for row in rows for mark in MARKS if row[mark])
    tags = Counter(tag for row in rows for tag in row["tags"])
    return {
        "columns": [_column(name, title, sort) for name, (title, _) in _SORTS.items()],
        "query": f"?sort={sort}" if key in _SORTS else "",
        "rows": rows,
        "online": [row for row in rows if row["is_online"]],
        # ``(status, count)``, problems first. A filter may name a status that no backend has.
        "counts": [
            (name, counted[name])
            for name in (*(status.value for status in ATTENTION_ORDER), *MARKS)
        ],
        "tags": sorted(tags.items()),
        "found": found_servers(),
    }


def _column(name: str, title: str, sort: str) -> dict[str, str]:
    first = f"-{name}" if name in _HIGHEST_FIRST else name
    other = name if first != name else f"-{name}"
    order = {name: "ascending", f"-{name}": "descending"}.get(sort, "none")
    following = other if sort == first else first
    hint = _HINTS.get(name, "")
    return {"name": name, "title": title, "order": order, "next": following, "hint": hint}


def _attention(row: Mapping[str, Any]) -> float:
    """Return the place of a row among the others: a slow or flaky backend comes before those that
    work as they should.
    """
    place = ATTENTION_ORDER.index(row["status"])
    works = ATTENTION_ORDER.index(BackendState.BUSY)
    return works - 0.5 if place >= works and (row["slow"] or row["flaky"]) else place


def _row_html(row: Mapping[str, Any], marks: Collection[str]) -> SafeString:
    """Return a row with the mark of its content, or the reference to the one that the page has."""
    html = render_to_string("director/parts/backend_row.html", {"one": row})
    digest = hashlib.blake2b(_AGE.sub(r"\1", html).encode(), digest_size=6).digest()
    mark = base64.urlsafe_b64encode(digest)[:_MARK_LENGTH].decode()
    if mark in marks:
        return mark_safe(f'<tr data-same="b-{row["id"]}"></tr>')  # noqa: S308 an id is a slug
    return mark_safe(html.replace("<tr ", f'<tr data-mark="{mark}" ', 1))  # noqa: S308 rendered above


def _natural(name: str) -> list[str | int]:
    """Return a key that sorts ``gpu-2`` before ``gpu-10``."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]


def backend_rows(shown_backends: Collection[Backend], principal: Principal) -> list[dict[str, Any]]:
    """Return what the pages show of these backends."""
    loads, done = backend_loads(), current_figures()
    snapshot = PoolSnapshot(open_variants(), pool_backends())
    work, movable, cannot_run = _work(principal), _movable(), _exclusions(principal)
    rows = []
    for backend in shown_backends:
        load = loads.get(backend.id, backends.NO_LOAD)
        fields_of_backend = backends.serialize_backend(
            backend, load, done.get(backend.id, backends.NO_FIGURES)
        )
        status = BackendState(fields_of_backend["status"])
        gpu, vram, free_bytes = _device(backend.devices)
        jobs = work[backend.id]
        is_away = backend.reachability == Reachability.OFFLINE and status != BackendState.OFFLINE
        # Whether discovery registered it, no user has changed it, and it is offline.
        can_be_removed = backend.adopted_at is not None and status == BackendState.OFFLINE
        rows.append(
            {
                **fields_of_backend,
                "backend": backend,
                "id": backend.id,
                "name": backend.name or backend.id,
                # Why it is unreachable, if its status shows something else.
                "offline_reason": (backend.status_reason or "no answer") if is_away else "",
                "gpu": gpu,
                "vram": vram,
                "memory": vram.removesuffix(" free").replace(" GB of ", " of "),
                "free_bytes": free_bytes,
                # Whether its children are sent now; whether more may be submitted for it: on a
                # paused one they wait.
                "is_online": status in (BackendState.ONLINE, BackendState.BUSY),
                "takes_children": status in TAKES_CHILDREN,
                "can_be_removed": can_be_removed,
                "actions": _actions(backend, has_work=bool(jobs), can_be_removed=can_be_removed),
                "work": jobs,
                "running_count": sum(job["is_running"] and not job["is_stopping"] for job in jobs),
                "pending_count": sum(
                    not job["is_running"] and not job["is_stopping"] for job in jobs
                ),
                "waiting": load.waiting,
                # Queued children whose group allows another backend.
                "movable": movable.get(backend.id, 0),
                # Jobs of the pool that wait for any of several backends, of which this is one.
                "in_pool": snapshot.unsent_for(backend.id),
                "cannot_run": cannot_run[backend.id],
            }
        )
    return rows


def _actions(backend: Backend, *, has_work: bool, can_be_removed: bool) -> list[str]:
    """Return what a user can do with a backend now; ``text.actions`` has the labels."""
    is_on, is_quarantined = backend.enabled, backend.quarantined_at is not None
    may_evict = has_work and not backend.evict
    applies = {
        "enable": not is_on,
        "release": is_on and is_quarantined,
        "resume": is_on and bool(backend.hold),
        "pause": is_on and (backend.hold != Hold.PAUSE or may_evict),
        "drain": is_on and (backend.hold != Hold.DRAIN or may_evict),
        "quarantine": is_on and not is_quarantined,
        "disable": is_on,
        "allow": is_on and not backend.partner_nodes_allowed,
        "forbid": is_on and backend.partner_nodes_allowed,
        "allow_extensions": is_on and not backend.extensions_allowed,
        "forbid_extensions": is_on and backend.extensions_allowed,
        "remove": not is_on or can_be_removed,
    }
    return [act for act, does_apply in applies.items() if does_apply]


def found_servers() -> list[dict[str, Any]]:
    """Return the ComfyUIs that discovery found and that are not registered, ignored ones last."""
    comfyuis = []
    for row in found_list():
        gpu, vram, _ = _device(row.devices)
        comfyuis.append(
            {
                "url": row.url,
                "address": row.url.split("://", 1)[1],
                "version": row.comfyui_version,
                "gpu": gpu,
                "vram": vram,
                "ignored": row.ignored_at is not None,
            }
        )
    return sorted(comfyuis, key=lambda comfyui: (comfyui["ignored"], comfyui["url"]))


def _work(principal: Principal) -> dict[str, list[dict[str, Any]]]:
    ends = {} if principal.sees_all else current_etas().attempt_ends
    rows = Attempt.objects.filter(ended_at__isnull=True).select_related("child__group").only(*_WORK)
    active_jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    # What runs comes before what is pending.
    for attempt in sorted(rows.order_by("id"), key=lambda row: row.state != AttemptState.RUNNING):
        child, group = attempt.child, attempt.child.group
        runs = attempt.state == AttemptState.RUNNING
        is_seen = sees(
            principal, Owned(frozenset({group.owner_id or 0}), group.shared_at is not None)
        )
        left = None if is_seen else ends.get(attempt.id)
        active_jobs[attempt.backend_id].append(
            {
                "group_id": group.id if is_seen else "",
                "job_id": child.id if is_seen else "",
                "name": group.title if is_seen else "A job of another account",
                "estimate": "" if left is None else f"about {duration(left)} left",
                "is_running": runs,
                "is_stopping": attempt.stop_requested_at is not None,
                "progress": child.progress if runs else 0.0,
                "step": (child.current_step or "") if is_seen else "",
            }
        )
    return active_jobs


def _movable() -> dict[str, int]:
    waits = ChildJob.objects.filter(
        status=ChildStatus.QUEUED, current_attempt__isnull=True, backend_id__gt=""
    )
    may_go = waits.exclude(group__retry_elsewhere=RetryScope.NEVER).order_by()
    counted = may_go.values_list("backend_id").annotate(Count("id"))
    return {backend_id or "": number for backend_id, number in counted}


def _exclusions(principal: Principal) -> dict[str, list[dict[str, Any]]]:
    """Return the workflows that each backend cannot run, each with its newest group, if there is
    one.
    """
    exclusions_by_backend: dict[str, list[dict[str, Any]]] = defaultdict(list)
    variants = Variant.objects.filter(pk=OuterRef("variant_id"))
    groups = JobGroup.objects.filter(
        visible(principal), workflow_digest=OuterRef("workflow_digest"), workflow_digest__gt=""
    )
    newest = Coalesce(
        Subquery(variants.values("group_id")[:1]),
        Subquery(groups.order_by("-created_at").values("id")[:1]),
        output_field=CharField(),
    )
    rows = list(visible_exclusions(principal).annotate(group_id=newest))
    named = JobGroup.objects.filter(pk__in={row.group_id for row in rows}).only(*TITLE)
    names = {group.id: group.title for group in named}
    for exclusion in rows:
        exclusions_by_backend[exclusion.backend_id].append(
            {
                "id": exclusion.id,
                "reason": reason_of(exclusion),
                "ends_at": ends_at(exclusion),
                "group_id": exclusion.group_id or "",
                "group_name": names.get(exclusion.group_id, ""),
            }
        )
    return exclusions_by_backend


def _device(devices: Any) -> tuple[str, str, int]:
    """Return the name of the first device without CUDA's additions, and its free memory as text and
    in bytes.
    """
    if not isinstance(devices, list) or not devices or not isinstance(devices[0], Mapping):
        return "", "", 0
    gpu, vram = device_texts(devices[0])
    free = devices[0].get("vram_free")
    return gpu, vram, free if isinstance(free, int) else 0


def device_texts(device: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a device without CUDA's additions, and its memory: ``3 GB of 24 GB free``."""
    name = re.sub(r"^cuda:\d+ ", "", str(device.get("name", "")).split(" : ")[0])
    free, total = text.memory(device.get("vram_free")), text.memory(device.get("vram_total"))
    return name, f"{free or '0 GB'} of {total} free" if total else ""
