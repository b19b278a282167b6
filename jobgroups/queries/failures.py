"""Recent failures by cause, backend and workflow: one reader for the API, the page, the count in the
navigation and the command line.

A failure is an attempt that failed, or a child that failed without one (its backend was away until it
gave up). A child that is failed or timed out now is counted once, at the time of its own end, under the
class of the attempt that decided it. That attempt may still be open: its stop is pending. Each other
failed attempt is counted at its end; its child completed on a later try, or waits for one.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import connection
from django.db.models import Case, Count, F, Max, Min, Model, Q, QuerySet, Value, When

from jobgroups.domain import text as wording
from jobgroups.domain.clock import now
from jobgroups.domain.states import CHILD_OPEN, ChildStatus
from jobgroups.models import Attempt, ChildJob, JobGroup

#: How far it can be looked back, as the URL says it.
WINDOWS: Final = {
    "1h": dt.timedelta(hours=1),
    "1d": dt.timedelta(days=1),
    "7d": dt.timedelta(days=7),
}
DEFAULT_WINDOW: Final = "1d"
#: Failed jobs, and other failed attempts, that are read at most: the newest.
MAX_FAILURES: Final = 20_000
#: Rows that are shown at most, those that hurt most.
MAX_ROWS: Final = 100
#: Children that one row can name to be tried again.
MAX_JOBS: Final = 2_000
#: From this many on the navigation shows "99+".
MAX_COUNT: Final = 100
_NEVER_YET: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_LOST: Final = (ChildStatus.FAILED, ChildStatus.TIMEOUT)
#: The attempt that decided a child which is failed now.
_DECIDED_ITS_CHILD: Final = Q(child__status__in=_LOST, child__current_attempt_id=F("id"))
#: A failed child whose current attempt has a class; that one is the child's.
_BY_ATTEMPT: Final = Q(current_attempt__failure_class__gt="")
_WITH_FAILURE: Final = "NOT (failure_class = '')"


@dataclass(frozen=True, slots=True)
class Example:
    """One of the newest failures of a row."""

    group_id: str
    job_id: str
    #: None where it was never sent.
    attempt: int | None
    message: str
    at: dt.datetime


@dataclass(slots=True)
class FailureRow:
    """All failures with one cause at one backend in one workflow."""

    failure_class: str
    backend_id: str
    workflow: str
    failures: int = 0
    #: Children that are failed or timed out now.
    lost: int = 0
    #: Failures whose children are not final now: they are tried again, or wait for it.
    open: int = 0
    first: dt.datetime = _NEVER_YET
    last: dt.datetime = _LONG_AGO
    workflow_name: str = ""
    example: Example | None = None

    #: The groups of these failures.
    groups: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class FailureReport:
    """What failed since a moment."""

    since: dt.datetime
    #: What is not made up for, the worst first.
    rows: list[FailureRow]
    #: What cost nothing but time: the child completed on a later try.
    recovered: list[FailureRow]
    #: Rows that were left out.
    more: int
    #: Whether there were more failures than are read: only the newest are counted.
    cut: bool
    #: Children that are failed or timed out now, of all rows.
    lost: int


@dataclass(frozen=True, slots=True)
class RetriableJobs:
    """Children of one group that failed and can be tried again."""

    group_id: str
    name: str
    #: Whether the group has ended: only then does it take a retry.
    finished: bool
    job_ids: list[str]


def failure_report(window: str = DEFAULT_WINDOW) -> FailureReport:
    """Return what failed within a window of ``WINDOWS``."""
    since = now() - WINDOWS[window]
    sources = [_lost_children(since), _ended_attempts(since), _open_attempts(since)]
    lost: dict[tuple[str, str, str], FailureRow] = {}
    recovered: dict[tuple[str, str, str], FailureRow] = {}
    for source in sources:
        for part in _by_group(_newest(source)):
            key = (part["cause"], part["place"], part["digest"])
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
        cut=any(_exceeds(source) for source in sources),
        lost=sum(row.lost for row in worst),
    )


def lost_count(window: str = DEFAULT_WINDOW) -> int:
    """Return how many children failed within a window and are failed now, at most ``MAX_COUNT``.

    Every page shows it. It is the number of ``FailureReport.lost``; it reads at most ``MAX_COUNT``
    entries of the index ``child_failed``.
    """
    return _lost(now() - WINDOWS[window])[:MAX_COUNT].count()


def _add(row: FailureRow, part: Mapping[str, Any]) -> None:
    row.failures += part["failures"]
    row.lost += part["lost"]
    row.open += part["open"]
    row.first = min(row.first, part["first"])
    row.last = max(row.last, part["last"])
    row.groups.add(part["in_group"])


# --- the three sources ----------------------------------------------------------------------------
# Each has the columns cause, place, digest, in_group, job, tried, said, at, done, is_lost, is_open.


def _lost(since: dt.datetime) -> QuerySet[ChildJob]:
    """Return the children that failed since a moment and are failed or timed out now."""
    # exclude: SQLite uses a partial index only where its condition stands in the query as it is.
    rows = ChildJob.objects.exclude(failure_class="").order_by()
    return rows.filter(status__in=_LOST, completed_at__gte=since)


def _lost_children(since: dt.datetime) -> QuerySet[Any]:
    return _lost(since).annotate(
        cause=Case(
            When(_BY_ATTEMPT, then="current_attempt__failure_class"), default="failure_class"
        ),
        place=Case(When(_BY_ATTEMPT, then="current_attempt__backend_id"), default="backend_id"),
        digest=F("group__workflow_digest"),
        in_group=F("group_id"),
        job=F("id"),
        tried=F("current_attempt__number"),
        said=F("error_message"),
        at=F("completed_at"),
        done=Value(False),
        is_lost=Value(True),
        is_open=Value(False),
    )


def _ended_attempts(since: dt.datetime) -> QuerySet[Any]:
    """Return the other failed attempts that ended since a moment."""
    return _attempts("ended_at").filter(ended_at__gte=since)


def _open_attempts(since: dt.datetime) -> QuerySet[Any]:
    """Return the other failed attempts that are open: their stop is pending since then."""
    pending = _attempts("stop_requested_at")
    return pending.filter(ended_at__isnull=True, stop_requested_at__gte=since)


def _attempts(moment: str) -> QuerySet[Any]:
    """Return the failed attempts that decided no child which is failed now.

    The index ``attempt_failed`` begins with the backends, then has the end.

    Args:
        moment: the column with the time of the failure.
    """
    there = _distinct_backends(Attempt, _WITH_FAILURE)
    rows = Attempt.objects.exclude(failure_class="").exclude(_DECIDED_ITS_CHILD)
    return (
        rows.filter(backend_id__in=there)
        .order_by()
        .annotate(
            cause=F("failure_class"),
            place=F("backend_id"),
            digest=F("child__group__workflow_digest"),
            in_group=F("child__group_id"),
            job=F("child_id"),
            tried=F("number"),
            said=F("error_message"),
            at=F(moment),
            done=Q(child__status=ChildStatus.COMPLETED),
            is_lost=Value(False),
            is_open=Q(child__status__in=CHILD_OPEN),
        )
    )


def _newest(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return the newest of them, so that a page costs the same however bad the day was."""
    return rows.filter(pk__in=rows.order_by("-at").values("pk")[:MAX_FAILURES])


def _exceeds(rows: QuerySet[Any]) -> bool:
    return rows[: MAX_FAILURES + 1].count() > MAX_FAILURES


def _by_group(rows: QuerySet[Any]) -> Iterable[Mapping[str, Any]]:
    parts: Iterable[Mapping[str, Any]] = rows.values(
        "cause", "place", "digest", "in_group", "done"
    ).annotate(
        failures=Count("pk"),
        lost=Count("pk", filter=Q(is_lost=True)),
        open=Count("pk", filter=Q(is_open=True)),
        first=Min("at"),
        last=Max("at"),
    )
    return parts


def _distinct_backends(model: type[Model], condition: str) -> list[str]:
    """Return the different backends in an index that begins with them, with one step for each.

    DISTINCT would read every entry of the index, and the table of backends lacks those that were
    removed.
    """
    table = model._meta.db_table
    first = f"SELECT MIN(backend_id) FROM {table} WHERE {condition}"  # noqa: S608 no input in it
    step = f"SELECT ({first} AND backend_id > value) FROM found WHERE value IS NOT NULL"  # noqa: S608
    walk = f"WITH RECURSIVE found(value) AS ({first} UNION ALL {step}) SELECT value FROM found"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(walk)
        return [row[0] for row in cursor.fetchall() if row[0] is not None]


# --- names and examples of rows -------------------------------------------------------------------


def _find_examples(
    lost: Iterable[FailureRow], recovered: Iterable[FailureRow], sources: Iterable[QuerySet[Any]]
) -> None:
    """Set each row's newest failure."""
    rows = [(row, done) for done, some in ((False, lost), (True, recovered)) for row in some]
    wanted = {
        (row.failure_class, row.backend_id, row.workflow, done, row.last): row for row, done in rows
    }
    moments = {row.last for row, _ in rows}
    key = ("cause", "place", "digest", "done", "at")
    for source in sources:
        for one in source.filter(at__in=moments).values(*key, "in_group", "job", "tried", "said"):
            row = wanted.get(tuple(one[name] for name in key))
            if row is not None:
                row.example = Example(
                    one["in_group"], one["job"], one["tried"], one["said"] or "", row.last
                )


def _name(rows: Collection[FailureRow]) -> None:
    """Name each row after the group of its newest failure, and the model that its workflow loads."""
    examples = [row.example for row in rows if row.example is not None]
    groups = JobGroup.objects.filter(pk__in={one.group_id for one in examples})
    metadata = dict(groups.values_list("id", "metadata_json"))
    for row in rows:
        if row.example is None or row.example.group_id not in metadata:
            continue
        group_id = row.example.group_id
        name = wording.group_name(group_id, json.loads(metadata[group_id]))
        others = len(row.groups) - 1
        if others:
            name += f" and {others} more group{'' if others == 1 else 's'}"
        # Groups from before workflows had a digest need not share a model.
        model = _model_of(group_id) if row.workflow else ""
        row.workflow_name = " · ".join(part for part in (name, model) if part)


@functools.lru_cache(maxsize=500)
def _model_of(group_id: str) -> str:
    # What was submitted does not change, and it may be megabytes.
    text = JobGroup.objects.filter(pk=group_id).values_list("workflow_json", flat=True).first()
    return wording.model_name(json.loads(text or "{}"))


# --- what can be tried again ----------------------------------------------------------------------


def failed_jobs(
    window: str, *, failure_class: str, backend_id: str, workflow: str | None
) -> list[RetriableJobs]:
    """Return the children behind a row that are failed or timed out now, by group, newest first."""
    rows = _lost_children(now() - WINDOWS[window]).filter(cause=failure_class, place=backend_id)
    if workflow is not None:
        rows = rows.filter(digest=workflow)
    found: dict[str, list[str]] = defaultdict(list)
    for group_id, job_id in rows.order_by("-at").values_list("in_group", "job")[:MAX_JOBS]:
        found[group_id].append(job_id)
    return [
        RetriableJobs(
            group_id=group_id,
            name=wording.group_name(group_id, json.loads(metadata)),
            finished=completed_at is not None,
            job_ids=sorted(found[group_id]),
        )
        for group_id, metadata, completed_at in _heads(found)
    ]


def _heads(group_ids: Iterable[str]) -> list[tuple[str, str, dt.datetime | None]]:
    rows = JobGroup.objects.filter(pk__in=group_ids).order_by("-created_at", "-id")
    return list(rows.values_list("id", "metadata_json", "completed_at"))
