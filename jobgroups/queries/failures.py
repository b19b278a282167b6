"""Recent failures by cause, backend and workflow, for the API, the pages and the command line.

A failure is a failed attempt, or a child that failed without an attempt (its backend stayed
offline). A child that is failed or timed out now counts once, at its end, with the class of its
last attempt. That attempt may still be open with a pending stop. Each other failed attempt counts
at its end; its child completed in a later attempt or waits for one.
"""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from django.db.models import Case, Count, F, Max, Min, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce

from jobgroups.domain.access import Principal, Right, may
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.backends import FailedGroup, FailureExample, FailureRow, Failures
from jobgroups.domain.states import CHILD_OPEN, ChildStatus
from jobgroups.models import TITLE, Attempt, ChildJob, JobGroup
from jobgroups.queries.owners import owned_by
from jobgroups.queries.visibility import visible
from jobgroups.serializers import truncate

#: The periods of the report, by their name in the URL.
WINDOWS: Final = {
    "1h": dt.timedelta(hours=1),
    "1d": dt.timedelta(days=1),
    "7d": dt.timedelta(days=7),
}
DEFAULT_WINDOW: Final = "1d"
#: Maximum number of failed children, and of other failed attempts, that are read: the newest.
MAX_FAILURES: Final = 20_000
MAX_ROWS: Final = 100  #: Maximum number of rows, those with the most failures.
MAX_JOBS: Final = 2_000  #: Maximum number of children of a row that can be retried at once.
MAX_COUNT: Final = 100  #: From this number on the navigation shows "99+".
#: The columns of a group with failed jobs.
_OF_GROUP: Final = ("placement", "completed_at", "owner_id", "shared_at")
#: What the failures of a row have in common.
_KEY: Final = ("done", "cause", "at_backend", "digest")
_LOST: Final = (ChildStatus.FAILED, ChildStatus.TIMEOUT)
#: The attempt that ended a child which is failed now.
_DECIDED_ITS_CHILD: Final = Q(child__status__in=_LOST, child__current_attempt_id=F("id"))
#: A failed child whose current attempt has a failure class, which is the child's.
_BY_ATTEMPT: Final = Q(current_attempt__failure_class__gt="")


def failure_report(
    principal: Principal, window: str = DEFAULT_WINDOW, backend_id: str = ""
) -> Failures:
    """Return the failures that a principal sees within a period of ``WINDOWS``, of one backend if
    it is named.
    """
    since = now() - WINDOWS[window]
    sources = _sources(principal, since)
    if backend_id:
        sources = [source.filter(at_backend=backend_id) for source in sources]
    parts: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for source in sources:
        for part in _by_group(_newest(source)):
            parts[tuple(part[name] for name in _KEY)].append(part)
    rows = [(key[0], _row(of_key, *key[1:])) for key, of_key in parts.items()]
    # The worst first.
    rows.sort(
        key=lambda pair: (-pair[1].failed_jobs, -pair[1].failures, -pair[1].last_at.timestamp())
    )
    listed = [
        pair
        for done in (False, True)
        for pair in [pair for pair in rows if pair[0] is done][:MAX_ROWS]
    ]
    named = list(zip(listed, _name_rows(listed, sources), strict=True))
    return Failures(
        window=window,
        since=since,
        failed_jobs=sum(row.failed_jobs for _, row in rows),
        results=tuple(row for (done, _), row in named if not done),
        recovered=tuple(row for (done, _), row in named if done),
        left_out=len(rows) - len(listed),
        only_newest=next(
            (
                MAX_FAILURES
                for failures in sources
                if failures[: MAX_FAILURES + 1].count() > MAX_FAILURES
            ),
            None,
        ),
    )


def lost_count(principal: Principal) -> int:
    """Return the number of children that failed within a day and are failed now, as far as a
    principal sees them, at most ``MAX_COUNT``.

    Every page shows this number, which is that of ``Failures.failed_jobs``. The query reads at most
    ``MAX_COUNT`` entries of the index ``child_failed``.
    """
    return _lost(principal, now() - WINDOWS[DEFAULT_WINDOW])[:MAX_COUNT].count()


def _row(
    parts: Collection[Mapping[str, Any]], failure_class: str, backend_id: str, workflow: str
) -> FailureRow:
    return FailureRow(
        failure_class=failure_class,
        backend_id=backend_id or None,
        workflow=workflow,
        groups=len({part["in_group"] for part in parts}),
        failures=sum(part["failures"] for part in parts),
        failed_jobs=sum(part["lost"] for part in parts),
        retrying=sum(part["open"] for part in parts),
        first_at=min(part["first"] for part in parts),
        last_at=max(part["last"] for part in parts),
    )


def _sources(principal: Principal, since: dt.datetime) -> list[QuerySet[Any]]:
    """Return the failed children, and the other failed attempts: those that ended, and those with a
    pending stop.
    """
    stopping = _attempts(principal, "stop_requested_at").filter(
        ended_at__isnull=True, stop_requested_at__gte=since
    )
    ended = _attempts(principal, "ended_at").filter(ended_at__gte=since)
    return [_lost_children(principal, since), ended, stopping]


# Columns of the three sources: cause, at_backend, digest, in_group, job, attempt_number, error, at,
# done, is_lost, is_open.


def _lost(principal: Principal, since: dt.datetime) -> QuerySet[ChildJob]:
    """Return the children that failed since a moment and are failed or timed out now."""
    # exclude: SQLite uses a partial index only if the query has its condition literally.
    rows = ChildJob.objects.exclude(failure_class="").order_by()
    rows = rows.filter(visible(principal, "group"))
    return rows.filter(status__in=_LOST, completed_at__gte=since)


def _lost_children(principal: Principal, since: dt.datetime) -> QuerySet[Any]:
    return _lost(principal, since).annotate(
        cause=Case(
            When(_BY_ATTEMPT, then="current_attempt__failure_class"), default="failure_class"
        ),
        at_backend=Case(
            When(_BY_ATTEMPT, then="current_attempt__backend_id"),
            default=Coalesce("backend_id", Value("")),
        ),
        digest=F("group__workflow_digest"),
        in_group=F("group_id"),
        job=F("id"),
        attempt_number=F("current_attempt__number"),
        error=F("error_message"),
        at=F("completed_at"),
        done=Value(False),
        is_lost=Value(True),
        is_open=Value(False),
    )


def _attempts(principal: Principal, moment: str) -> QuerySet[Any]:
    """Return the failed attempts that did not end a child which is failed now; ``moment`` is the
    column with the time.
    """
    rows = Attempt.objects.exclude(failure_class="").exclude(_DECIDED_ITS_CHILD).order_by()
    rows = rows.filter(visible(principal, "child__group"))
    return rows.annotate(
        cause=F("failure_class"),
        at_backend=F("backend_id"),
        digest=F("child__group__workflow_digest"),
        in_group=F("child__group_id"),
        job=F("child_id"),
        attempt_number=F("number"),
        error=F("error_message"),
        at=F(moment),
        done=Q(child__status=ChildStatus.COMPLETED),
        is_lost=Value(False),
        is_open=Q(child__status__in=CHILD_OPEN),
    )


def _newest(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return the newest rows, so that the cost of a page is bounded."""
    return rows.filter(pk__in=rows.order_by("-at").values("pk")[:MAX_FAILURES])


def _by_group(rows: QuerySet[Any]) -> Iterable[Mapping[str, Any]]:
    parts: Iterable[Mapping[str, Any]] = rows.values(
        "cause", "at_backend", "digest", "in_group", "done"
    ).annotate(
        failures=Count("pk"),
        lost=Count("pk", filter=Q(is_lost=True)),
        open=Count("pk", filter=Q(is_open=True)),
        first=Min("at"),
        last=Max("at"),
    )
    return parts


def _name_rows(
    rows: Sequence[tuple[bool, FailureRow]], sources: Iterable[QuerySet[Any]]
) -> Iterator[FailureRow]:
    """Yield the rows with one of their newest failures each, named after its group and the model of
    the workflow.
    """
    key, moments = (*_KEY, "at"), {row.last_at for _, row in rows}
    examples = {
        tuple(failure[name] for name in key): FailureExample(
            job_group_id=failure["in_group"],
            job_id=failure["job"],
            attempt=failure["attempt_number"],
            message=truncate(failure["error"]) or "",
            at=failure["at"],
        )
        for source in sources
        for failure in source.filter(at__in=moments).values(
            *key, "in_group", "job", "attempt_number", "error"
        )
    }
    groups = JobGroup.objects.only(*TITLE).in_bulk(
        {example.job_group_id for example in examples.values()}
    )
    for done, row in rows:
        example = examples.get(
            (done, row.failure_class, row.backend_id or "", row.workflow, row.last_at)
        )
        group = groups.get(example.job_group_id) if example else None
        yield replace(row, example=example, workflow_name=_name(row, group) if group else "")


def _name(row: FailureRow, group: JobGroup) -> str:
    name, others = group.title, row.groups - 1
    if others:
        name += f" and {others} more group{'' if others == 1 else 's'}"
    # Groups of a release without digests need not share a model.
    model = json.loads(group.summary_json).get("model", "") if row.workflow else ""
    return " · ".join(part for part in (name, model) if part)


def failed_jobs(
    principal: Principal, window: str, *, failure_class: str, backend_id: str, workflow: str | None
) -> list[FailedGroup]:
    """Return the children of a row that are failed or timed out now, by group, newest first."""
    rows = _lost_children(principal, now() - WINDOWS[window]).filter(
        cause=failure_class, at_backend=backend_id
    )
    if workflow is not None:
        rows = rows.filter(digest=workflow)
    job_ids: dict[str, list[str]] = defaultdict(list)
    for group_id, job_id in rows.order_by("-at").values_list("in_group", "job")[:MAX_JOBS]:
        job_ids[group_id].append(job_id)
    groups = JobGroup.objects.filter(pk__in=job_ids).order_by("-created_at", "-id")
    return [
        FailedGroup(
            job_group_id=group.id,
            name=group.title,
            placement=group.placement,
            may_retry=may(principal, Right.OPERATE, owned_by(group.owner_id, group.shared_at)),
            finished=group.completed_at is not None,
            job_ids=tuple(sorted(job_ids[group.id])),
        )
        for group in groups.only(*TITLE, *_OF_GROUP)
    ]
