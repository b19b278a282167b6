"""Read model of the list of groups: one row for each group, with its bar."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.db.models import Count, F

from director.pages import filters, text
from director.pages.outputs import outputs_of
from jobgroups.domain.access import Principal
from jobgroups.domain.states import CHILD_FINAL, ChildStatus, GroupStatus
from jobgroups.domain.text import duration
from jobgroups.errors import GroupNotFound
from jobgroups.models import LONG, Attempt, ChildJob, JobGroup
from jobgroups.queries import etas
from jobgroups.queries.visibility import visible

_THUMBNAILS: Final = 8  #: Thumbnails in a row.
_RECENT: Final = 6  #: Recent workflows.
_RECENT_GROUPS: Final = 100  #: The newest groups, of which they are found.
MAX_SEGMENTS: Final = 50  #: Above this many children a segment stands for a status.
_ORDER: Final = ("completed", "failed", "timeout", "cancelled", "running", "queued")

#: Columns of a child that its group's row shows.
_CHILD: Final = ("group_id", "id", "status", "progress", "attempt_count", "stopped_by", "starred")


def group_list(chosen: filters.Filters, principal: Principal) -> dict[str, Any]:
    """Return a page of groups, newest first, and the query of the next one; empty on the last."""
    page = filters.filtered_page(chosen, principal)
    older = chosen.query(before=page.next_cursor) if page.next_cursor else ""
    has_groups = bool(page.results) or JobGroup.objects.filter(visible(principal)).exists()
    return {"rows": rows_of(page.results), "older": older, "has_groups": has_groups}


def group_row(group_id: str) -> dict[str, Any]:
    """Return one group's row, or raise ``GroupNotFound``."""
    group = JobGroup.objects.filter(pk=group_id).first()
    if group is None:
        raise GroupNotFound(group_id)
    return rows_of([group])[0]


def recent_workflows(principal: Principal) -> list[dict[str, Any]]:
    """Return the rows of the newest groups with a completed job, one for each workflow, newest first;
    with accounts those of the principal.
    """
    rows = JobGroup.objects.filter(completed_count__gt=0, archived_at__isnull=True)
    if principal.user_id is not None:
        rows = rows.filter(owner_id=principal.user_id)
    newest = rows.order_by("-created_at").values_list("workflow_digest", "id")[:_RECENT_GROUPS]
    # Of a workflow the first is the newest.
    ids = list(dict(reversed(newest)).values())
    groups = JobGroup.objects.filter(pk__in=ids).defer(*LONG).order_by("-created_at")
    return rows_of(list(groups[:_RECENT]))


def submitters(principal: Principal) -> list[str]:
    rows = JobGroup.objects.filter(visible(principal)).exclude(submitter="").order_by("submitter")
    return list(rows.values_list("submitter", flat=True).distinct()[:200])


def rows_of(groups: Sequence[JobGroup]) -> list[dict[str, Any]]:
    """Return the rows of groups. The number of queries does not depend on the number of groups."""
    children = _children([group.id for group in groups])
    pictures = _images(children)
    tries = attempts_needed(
        child.id
        for members in children.values()
        for child in members
        if child.status == ChildStatus.COMPLETED and child.attempt_count > 1
    )
    ends = etas.group_etas([group.id for group in groups if group.completed_at is None])
    rows = []
    for group in groups:
        members = children[group.id]
        counted = Counter(child.status for child in members)
        later = Counter(tries[child.id] for child in members if child.id in tries)
        done = [100.0 if member.status in CHILD_FINAL else member.progress for member in members]
        stopped = sum(bool(member.stopped_by) for member in members)
        cancelled, all_cancelled = (
            group.cancelled_count - stopped,
            group.status == GroupStatus.CANCELLED,
        )
        left = ends.get(group.id)
        ended = group.completed_at is not None
        rows.append(
            {
                "group": group,
                "id": group.id,
                "name": group.title,
                "status": group.status,
                "label": text.status_label(group.status, ended=ended),
                "ended": ended,
                "completed": group.completed_count,
                # Number of completed children, retried ones counted separately.
                "result_label": text.result_label(group.completed_count, group.total_count, later),
                "failed": group.failed_count,
                "running": counted[ChildStatus.RUNNING],
                "queued": counted[ChildStatus.QUEUED],
                # Without the jobs that ``stop_when`` stopped.
                "cancelled": cancelled,
                "stopped": stopped,
                # Number of jobs that a retry would run, as ``services.retries`` selects them.
                "to_retry": (group.failed_count + (cancelled if all_cancelled else 0))
                if ended
                else 0,
                "percent": round(sum(done) / max(len(members), 1)),
                "bar": bar_of(members),
                "estimate": "" if left is None else f"about {duration(left)} left",
                "thumbnails": pictures.get(group.id, []),
            }
        )
    return rows


def _children(group_ids: Sequence[str]) -> dict[str, list[Any]]:
    rows = ChildJob.objects.filter(group_id__in=group_ids).order_by("group_id", "position")
    members_by_group: dict[str, list[Any]] = defaultdict(list)
    for row in rows.values_list(*_CHILD, named=True):
        members_by_group[row.group_id].append(row)
    return members_by_group


def attempts_needed(job_ids: Iterable[str]) -> dict[str, int]:
    """Return the number of the attempt that completed each child; children without failures are
    omitted.

    Requeued attempts are not counted.
    """
    before = Attempt.objects.filter(number__lt=F("child__current_attempt__number"))
    failed = before.filter(child_id__in=list(job_ids)).exclude(failure_class="")
    counted = failed.order_by().values_list("child_id").annotate(Count("id"))
    return {job_id: count + 1 for job_id, count in counted}


def _images(children: Mapping[str, Sequence[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the pictures of each group: of its starred jobs, then of its first ones, so that a
    picture stays in its place.
    """
    wanted = {
        child.id: group_id
        for group_id, jobs in children.items()
        for child in sorted(
            jobs, key=lambda member: (member.status != ChildStatus.COMPLETED, not member.starred)
        )[:_THUMBNAILS]
        if child.status == ChildStatus.COMPLETED
    }
    rows = ChildJob.objects.filter(pk__in=wanted).order_by("completed_at", "position")
    pictures_by_group: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.only("backend_id", "seed", "outputs_json"):
        child = {
            "job_id": row.id,
            "backend_id": row.backend_id,
            "seed": row.seed,
            "outputs": json.loads(row.outputs_json or "null"),
        }
        made = outputs_of(wanted[row.id], child)
        pictures_by_group[wanted[row.id]] += [
            output for output in made if output["thumbnail"] and not output["missing"]
        ][:1]
    return pictures_by_group


def bar_of(children: Sequence[Any]) -> dict[str, Any]:
    """Return a group's bar: a segment for each child, or of many children a block for each status.

    A block starts after, and is as long as, so many children.
    """
    counted = Counter(child.status for child in children)
    counts = Counter("not needed" if child.stopped_by else child.status for child in children)
    label = ", ".join(f"{counts[name]} {name}" for name in (*_ORDER, "not needed") if counts[name])
    blocks, start = [], 0
    for status in _ORDER:
        if counted[status] and len(children) > MAX_SEGMENTS:
            blocks.append({"status": status, "start": start, "length": counted[status]})
        start += counted[status]
    return {
        "segments": [] if blocks else children,
        "blocks": blocks,
        "total": len(children) or 1,
        # For screen readers.
        "label": label or "no jobs",
    }
