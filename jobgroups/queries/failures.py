"""Recent failures by cause, backend and workflow, for the API, the pages and the command line.

A failure is a failed attempt, or a child that failed without an attempt (its backend stayed offline). A child that is
failed or timed out now counts once, at its end, with the class of its last attempt. That attempt may still be open with
a pending stop. Each other failed attempt counts at its end; its child completed in a later attempt or waits for one.
"""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import Case, Count, F, Max, Min, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce

from jobgroups.domain.clock import now
from jobgroups.domain.states import CHILD_OPEN, ChildStatus
from jobgroups.models import TITLE, Attempt, ChildJob, JobGroup

#: The periods of the report, by their name in the URL.
WINDOWS: Final = {"1h": dt.timedelta(hours=1), "1d": dt.timedelta(days=1), "7d": dt.timedelta(days=7)}
DEFAULT_WINDOW: Final = "1d"
#: Maximum number of failed children, and of other failed attempts, that are read: the newest.
MAX_FAILURES: Final = 20_000
MAX_ROWS: Final = 100  #: Maximum number of rows, those with the most failures.
MAX_JOBS: Final = 2_000  #: Maximum number of children of a row that can be retried at once.
MAX_COUNT: Final = 100  #: From this number on the navigation shows "99+".
_NEVER_YET: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_LOST: Final = (ChildStatus.FAILED, ChildStatus.TIMEOUT)
#: The attempt that ended a child which is failed now.
_DECIDED_ITS_CHILD: Final = Q(child__status__in=_LOST, child__current_attempt_id=F("id"))
#: A failed child whose current attempt has a failure class, which is the child's.
_BY_ATTEMPT: Final = Q(current_attempt__failure_class__gt="")


@dataclass(frozen=True, slots=True)
class Example:
    """One of the newest failures of a row."""

    group_id: str
    job_id: str
    attempt: int | None  #: None if the child was never sent.
    message: str
    at: dt.datetime


@dataclass(slots=True)
class FailureRow:
    """All failures with one cause at one backend in one workflow."""

    failure_class: str
    backend_id: str  #: Empty for jobs of the pool that no backend could take.
    workflow: str
    failures: int = 0
    lost: int = 0  #: Children that are failed or timed out now.
    open: int = 0  #: Failures whose children are open now: they run or wait again.
    first: dt.datetime = _NEVER_YET
    last: dt.datetime = _LONG_AGO
    workflow_name: str = ""
    example: Example | None = None

    groups: set[str] = field(default_factory=set)  #: The groups of these failures.


@dataclass(frozen=True, slots=True)
class FailureReport:
    since: dt.datetime
    rows: list[FailureRow]  #: Failures whose children did not complete, the worst first.
    recovered: list[FailureRow]  #: Failures whose children completed in a later attempt.
    more: int  #: The number of omitted rows.
    cut: bool  #: Whether only the newest failures were read and counted.
    lost: int  #: Children that are failed or timed out now, of all rows.


@dataclass(frozen=True, slots=True)
class RetriableJobs:
    group_id: str
    name: str
    finished: bool  #: Whether the group has ended.
    job_ids: list[str]


def failure_report(window: str = DEFAULT_WINDOW, backend_id: str = "") -> FailureReport:
    """Return the failures within a period of ``WINDOWS``, of one backend if it is named."""
    since = now() - WINDOWS[window]
    sources = _sources(since)
    if backend_id:
        sources = [source.filter(at_backend=backend_id) for source in sources]
    lost: dict[tuple[str, str, str], FailureRow] = {}
    recovered: dict[tuple[str, str, str], FailureRow] = {}
    for source in sources:
        for part in _by_group(_newest(source)):
            key = (part["cause"], part["at_backend"], part["digest"])
            rows = recovered if part["done"] else lost
            _add(rows.setdefault(key, FailureRow(*key)), part)
    worst = sorted(lost.values(), key=lambda row: (-row.lost, -row.failures, -row.last.timestamp()))
    cheap = sorted(recovered.values(), key=lambda row: (-row.failures, -row.last.timestamp()))
    shown, shown_recovered = worst[:MAX_ROWS], cheap[:MAX_ROWS]
    _find_examples(shown, shown_recovered, sources)
    _name([*shown, *shown_recovered])
    return FailureReport(
        since=since,
        rows=shown,
        recovered=shown_recovered,
        more=len(worst) + len(cheap) - len(shown) - len(shown_recovered),
        cut=any(source[: MAX_FAILURES + 1].count() > MAX_FAILURES for source in sources),
        lost=sum(row.lost for row in worst),
    )


def lost_count() -> int:
    """Return the number of children that failed within a day and are failed now, at most ``MAX_COUNT``.

    Every page shows this number, which is that of ``FailureReport.lost``. The query reads at most
    ``MAX_COUNT`` entries of the index ``child_failed``.
    """
    return _lost(now() - WINDOWS[DEFAULT_WINDOW])[:MAX_COUNT].count()


def _add(row: FailureRow, part: Mapping[str, Any]) -> None:
    row.failures += part["failures"]
    row.lost += part["lost"]
    row.open += part["open"]
    row.first = min(row.first, part["first"])
    row.last = max(row.last, part["last"])
    row.groups.add(part["in_group"])


def _sources(since: dt.datetime) -> list[QuerySet[Any]]:
    """Return the failed children, and the other failed attempts: those that ended, and those with a pending stop."""
    stopping = _attempts("stop_requested_at").filter(ended_at__isnull=True, stop_requested_at__gte=since)
    return [_lost_children(since), _attempts("ended_at").filter(ended_at__gte=since), stopping]


# Columns of the three sources: cause, at_backend, digest, in_group, job, attempt_number, error, at, done,
# is_lost, is_open.


def _lost(since: dt.datetime) -> QuerySet[ChildJob]:
    """Return the children that failed since a moment and are failed or timed out now."""
    # exclude: SQLite uses a partial index only if the query has its condition literally.
    rows = ChildJob.objects.exclude(failure_class="").order_by()
    return rows.filter(status__in=_LOST, completed_at__gte=since)


def _lost_children(since: dt.datetime) -> QuerySet[Any]:
    return _lost(since).annotate(
        cause=Case(When(_BY_ATTEMPT, then="current_attempt__failure_class"), default="failure_class"),
        at_backend=Case(
            When(_BY_ATTEMPT, then="current_attempt__backend_id"), default=Coalesce("backend_id", Value(""))
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


def _attempts(moment: str) -> QuerySet[Any]:
    """Return the failed attempts that did not end a child which is failed now; ``moment`` is the column with the time."""
    rows = Attempt.objects.exclude(failure_class="").exclude(_DECIDED_ITS_CHILD).order_by()
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
    parts: Iterable[Mapping[str, Any]] = rows.values("cause", "at_backend", "digest", "in_group", "done").annotate(
        failures=Count("pk"),
        lost=Count("pk", filter=Q(is_lost=True)),
        open=Count("pk", filter=Q(is_open=True)),
        first=Min("at"),
        last=Max("at"),
    )
    return parts


def _find_examples(
    lost: Iterable[FailureRow], recovered: Iterable[FailureRow], sources: Iterable[QuerySet[Any]]
) -> None:
    rows = [(row, done) for done, some in ((False, lost), (True, recovered)) for row in some]
    wanted = {(row.failure_class, row.backend_id, row.workflow, done, row.last): row for row, done in rows}
    moments = {row.last for row, _ in rows}
    key = ("cause", "at_backend", "digest", "done", "at")
    for source in sources:
        for one in source.filter(at__in=moments).values(*key, "in_group", "job", "attempt_number", "error"):
            row = wanted.get(tuple(one[name] for name in key))
            if row is not None:
                row.example = Example(one["in_group"], one["job"], one["attempt_number"], one["error"] or "", row.last)


def _name(rows: Collection[FailureRow]) -> None:
    """Name each row after the group of its newest failure and the model of its workflow."""
    examples = [row.example for row in rows if row.example is not None]
    groups = JobGroup.objects.only(*TITLE).in_bulk({one.group_id for one in examples})
    for row in rows:
        if row.example is None or row.example.group_id not in groups:
            continue
        group_id = row.example.group_id
        name = groups[group_id].title
        others = len(row.groups) - 1
        if others:
            name += f" and {others} more group{'' if others == 1 else 's'}"
        # Groups of a release without digests need not share a model.
        model = json.loads(groups[group_id].summary_json).get("model", "") if row.workflow else ""
        row.workflow_name = " · ".join(part for part in (name, model) if part)


def failed_jobs(window: str, *, failure_class: str, backend_id: str, workflow: str | None) -> list[RetriableJobs]:
    """Return the children of a row that are failed or timed out now, by group, newest first."""
    rows = _lost_children(now() - WINDOWS[window]).filter(cause=failure_class, at_backend=backend_id)
    if workflow is not None:
        rows = rows.filter(digest=workflow)
    found: dict[str, list[str]] = defaultdict(list)
    for group_id, job_id in rows.order_by("-at").values_list("in_group", "job")[:MAX_JOBS]:
        found[group_id].append(job_id)
    groups = JobGroup.objects.filter(pk__in=found).order_by("-created_at", "-id")
    return [
        RetriableJobs(
            group_id=group.id,
            name=group.title,
            finished=group.completed_at is not None,
            job_ids=sorted(found[group.id]),
        )
        for group in groups.only(*TITLE, "completed_at")
    ]
