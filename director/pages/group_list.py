"""Read model of the list of groups: one row for each group."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import Count, F

from backends.models import Backend, Reachability
from backends.queries import backend_status, backends_by_id
from backends.states import BackendState
from director.pages import filters, text
from director.pages.outputs import Output, outputs_of
from director.pages.status_bar import Bar, Segment, bar_of
from jobgroups.domain.clock import iso, now
from jobgroups.domain.states import CHILD_FINAL, ChildStatus, GroupStatus
from jobgroups.errors import GroupNotFound
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import estimates

#: Thumbnails in a row.
_THUMBNAILS: Final = 4
#: Statuses of backends whose queued children are sent.
_SENDS: Final = frozenset({BackendState.ONLINE, BackendState.BUSY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One group in the list, or at the head of its page."""

    id: str
    name: str
    status: str
    label: str
    ended: bool
    seq: int
    run: int
    total: int
    completed: int
    #: Number of completed children, retried ones counted separately.
    result_label: str
    failed: int
    cancelled: int
    running: int
    queued: int
    percent: int
    bar: Bar
    created_at: str
    age: str
    estimate: str
    submitter: str
    thumbnails: list[Output]

    @property
    def has_name(self) -> bool:
        """Whether its name differs from its id."""
        return self.name != self.id

    @property
    def to_retry(self) -> int:
        """Number of jobs that a retry would run, as ``services.retries`` selects them."""
        if not self.ended:
            return 0
        return self.failed + (self.cancelled if self.status == GroupStatus.CANCELLED else 0)


@dataclass(frozen=True, slots=True)
class GroupList:
    """A page of the list."""

    rows: list[Row]
    #: Query of the next page; empty on the last one.
    older: str
    #: Whether there is any group at all.
    has_groups: bool


def group_list(chosen: filters.Filters) -> GroupList:
    """Return a page of groups, newest first."""
    found = list(filters.filtered_groups(chosen)[: filters.PAGE_SIZE + 1])
    page = found[: filters.PAGE_SIZE]
    more = len(found) > len(page)
    older = chosen.query(before=filters.cursor(page[-1])) if more else ""
    return GroupList(rows_of(page), older, bool(page) or JobGroup.objects.exists())


def group_row(group_id: str) -> Row:
    """Return one group's row.

    Raises:
        GroupNotFound: there is no such group.
    """
    group = JobGroup.objects.filter(pk=group_id).first()
    if group is None:
        raise GroupNotFound(group_id)
    return rows_of([group])[0]


def submitters() -> list[str]:
    """Return the names of all submitters."""
    rows = JobGroup.objects.exclude(submitter="").order_by("submitter")
    return list(rows.values_list("submitter", flat=True).distinct()[:200])


@dataclass(frozen=True, slots=True)
class _Child:
    id: str
    status: str
    progress: float
    backend_id: str
    attempts: int
    #: Whether its prompt is running or pending at its backend.
    was_sent: bool

    @property
    def was_retried(self) -> bool:
        """Whether it is completed after more than one attempt."""
        return self.status == ChildStatus.COMPLETED and self.attempts > 1


def rows_of(groups: Sequence[JobGroup]) -> list[Row]:
    """Return the rows of groups. The number of queries does not depend on the number of groups."""
    children = _children([group.id for group in groups])
    machines = _backends(children)
    pictures = _images(children)
    tries = attempts_needed(child.id for members in children.values() for child in members if child.was_retried)
    usual = estimates.medians(group.workflow_digest for group in groups if group.completed_at is None)
    return [
        _row(
            group,
            children[group.id],
            pictures.get(group.id, []),
            tries,
            estimates.seconds_left(_left(children[group.id], machines), group.workflow_digest, usual),
        )
        for group in groups
    ]


def _children(group_ids: Sequence[str]) -> dict[str, list[_Child]]:
    rows = ChildJob.objects.filter(group_id__in=group_ids).order_by("group_id", "position")
    found: dict[str, list[_Child]] = defaultdict(list)
    for group_id, job_id, status, progress, backend_id, attempts, attempt_id in rows.values_list(
        "group_id", "id", "status", "progress", "backend_id", "attempt_count", "current_attempt_id"
    ):
        was_sent = attempt_id is not None
        found[group_id].append(_Child(job_id, status, progress, backend_id or "", attempts, was_sent))
    return found


def attempts_needed(job_ids: Iterable[str]) -> dict[str, int]:
    """Return the number of the attempt that completed each child; children without failures are omitted.

    Requeued attempts are not counted.
    """
    before = Attempt.objects.filter(number__lt=F("child__current_attempt__number"))
    failed = before.filter(child_id__in=list(job_ids)).exclude(failure_class="")
    counted = failed.order_by().values_list("child_id").annotate(Count("id"))
    return {job_id: count + 1 for job_id, count in counted}


def _images(children: dict[str, list[_Child]]) -> dict[str, list[Output]]:
    wanted = {
        child.id: group_id
        for group_id, members in children.items()
        for child in [one for one in members if one.status == ChildStatus.COMPLETED][-_THUMBNAILS:]
    }
    rows = ChildJob.objects.filter(pk__in=wanted).order_by("position")
    found: dict[str, list[Output]] = defaultdict(list)
    for row in rows.only("backend_id", "seed", "outputs_json"):
        child = {
            "job_id": row.id,
            "backend_id": row.backend_id,
            "seed": row.seed,
            "outputs": json.loads(row.outputs_json or "null"),
        }
        made = outputs_of(wanted[row.id], child)
        found[wanted[row.id]] += [one for one in made if one.is_image and not one.missing][:1]
    return found


def _backends(children: Mapping[str, Sequence[_Child]]) -> dict[str, Backend]:
    """Return the backends of running and queued children, by id."""
    ids = {child.backend_id for members in children.values() for child in members if child.status not in CHILD_FINAL}
    return backends_by_id(ids) if ids else {}


def _left(children: Sequence[_Child], machines: Mapping[str, Backend]) -> list[estimates.Remaining]:
    return [
        estimates.Remaining(
            child.backend_id,
            child.progress / 100,
            is_progressing=_is_progressing(child, machines.get(child.backend_id)),
        )
        for child in children
        if child.status not in CHILD_FINAL
    ]


def _is_progressing(child: _Child, machine: Backend | None) -> bool:
    """Return whether a child will progress: a paused backend finishes its running prompts."""
    if machine is None:
        return False
    if child.was_sent:
        return machine.reachability == Reachability.ONLINE
    return backend_status(machine, now=now()).state in _SENDS


def _row(
    group: JobGroup, children: Sequence[_Child], pictures: list[Output], tries: Mapping[str, int], left: float | None
) -> Row:
    counted = Counter(child.status for child in children)
    later = Counter(tries[child.id] for child in children if child.id in tries)
    ended = group.completed_at is not None
    return Row(
        id=group.id,
        name=text.group_name(group.id, json.loads(group.metadata_json)),
        status=group.status,
        label=text.status_label(group.status, ended=ended),
        ended=ended,
        seq=group.seq,
        run=group.run,
        total=group.total_count,
        completed=group.completed_count,
        result_label=text.result_label(group.completed_count, group.total_count, later),
        failed=group.failed_count,
        cancelled=group.cancelled_count,
        running=counted[ChildStatus.RUNNING],
        queued=counted[ChildStatus.QUEUED],
        percent=round(sum(_share(child) for child in children) / max(len(children), 1)),
        bar=bar_of([Segment(one.id, one.status, one.progress) for one in children]),
        created_at=iso(group.created_at),
        age=text.ago(group.created_at, now()),
        estimate="" if left is None else f"about {text.duration(left)} left",
        submitter=group.submitter,
        thumbnails=pictures,
    )


def _share(child: _Child) -> float:
    return 100.0 if child.status in CHILD_FINAL else child.progress
