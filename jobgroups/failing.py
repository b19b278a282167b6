"""What failed lately, by cause, backend and workflow: the reader behind the page of failures.

What is counted is failures: each attempt that failed, and each child that failed without one (its
backend was away until it gave up). Whether a failure cost anything its child says: one that
completed all the same recovered.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection
from django.db.models import Count, F, Max, Min, Model, Q, QuerySet, Value

from jobgroups import wording
from jobgroups.clock import now
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.states import CHILD_OPEN, ChildStatus

#: How far it can be looked back, as the URL says it.
WINDOWS: Final = {
    "1h": dt.timedelta(hours=1),
    "1d": dt.timedelta(days=1),
    "7d": dt.timedelta(days=7),
}
DEFAULT_WINDOW: Final = "1d"
#: Failures that are looked at.
MOST_FAILURES: Final = 20_000
#: Rows that are shown at most, those that hurt most.
MOST_ROWS: Final = 100
#: Children that one row can name to be tried again.
MOST_JOBS: Final = 2_000
#: Groups of a workflow that are asked for a name: not everybody names each.
_NAMES_ASKED: Final = 10
#: Beyond this many the navigation says "99+".
MOST_COUNTED: Final = 100
#: Seconds for which the navigation's count is remembered: every page asks for it.
_COUNT_LIFE: Final = 20.0
_NEVER_YET: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_LOST: Final = (ChildStatus.FAILED, ChildStatus.TIMEOUT)
#: The attempt that decided a child which is failed now.
_ENDED_ITS_CHILD: Final = Q(child__status__in=_LOST, child__current_attempt_id=F("id"))
_WITH_FAILURE: Final = "NOT (failure_class = '')"
_WITH_BACKEND: Final = "backend_id IS NOT NULL"


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
class Row:
    """All failures with one cause at one backend in one workflow."""

    failure_class: str
    backend_id: str
    workflow: str
    failures: int = 0
    #: Children that ended by one of them and are failed or timed out now.
    lost: int = 0
    #: Failures whose children are not final now: they are tried again, or wait for it.
    open: int = 0
    first: dt.datetime = _NEVER_YET
    last: dt.datetime = _LONG_AGO
    workflow_name: str = ""
    example: Example | None = None

    #: What the example is made of: an attempt's key, or a child's id.
    _newest: int | str | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """What failed since a moment."""

    since: dt.datetime
    #: What is not made up for, the worst first.
    rows: list[Row]
    #: What cost nothing but time: the child completed on a later try.
    recovered: list[Row]
    #: Rows that were left out.
    more: int
    #: Whether there were more failures than are looked at: only the newest are counted.
    cut: bool


@dataclass(frozen=True, slots=True)
class Retriable:
    """Children of one group that failed and can be tried again."""

    group_id: str
    name: str
    #: Whether the group has ended: only then does it take a retry.
    finished: bool
    job_ids: list[str]


def recent_failures(window: str = DEFAULT_WINDOW) -> Failures:
    """Return what failed within a window of ``WINDOWS``."""
    since = now() - WINDOWS[window]
    lost: dict[tuple[str, str, str], Row] = {}
    recovered: dict[tuple[str, str, str], Row] = {}
    for one in [*_by_attempt(since), *_by_child(since)]:
        key = (one["failure_class"], one["backend_id"], one["workflow"])
        rows = recovered if one["done"] else lost
        _add(rows.setdefault(key, Row(*key)), one)
    worst = sorted(lost.values(), key=lambda row: (-row.lost, -row.failures, -row.last.timestamp()))
    cheap = sorted(recovered.values(), key=lambda row: (-row.failures, -row.last.timestamp()))
    shown, shown_recovered = worst[:MOST_ROWS], cheap[:MOST_ROWS]
    _name([*shown, *shown_recovered])
    left_out = len(worst) + len(cheap) - len(shown) - len(shown_recovered)
    return Failures(since, shown, shown_recovered, left_out, _failed(since).count() > MOST_FAILURES)


def _add(row: Row, one: Mapping[str, Any]) -> None:
    row.failures += one["failures"]
    row.lost += one["lost"]
    row.open += one["open"]
    row.first = min(row.first, one["first"])
    if one["last"] > row.last:
        row.last, row._newest = one["last"], one["newest"]


# --- the two sources ------------------------------------------------------------------------------
# A child that is failed now belongs to the attempt that ended it, and else, where none did, to
# itself: it is counted once.


def _failed(since: dt.datetime) -> QuerySet[Attempt]:
    """Return failed attempts, found through the index ``attempt_failed``, which begins with backends."""
    # exclude: SQLite uses a partial index only where its condition stands in the query as it is.
    rows = Attempt.objects.exclude(failure_class="").order_by()
    return rows.filter(backend_id__in=_values(Attempt, _WITH_FAILURE), ended_at__gte=since)


def _newest_failed(since: dt.datetime) -> QuerySet[Attempt]:
    """Return the newest of them, so that a page costs the same however bad the day was."""
    newest = _failed(since).order_by("-ended_at").values("pk")[:MOST_FAILURES]
    return Attempt.objects.filter(pk__in=newest).order_by()


def _by_attempt(since: dt.datetime) -> Iterable[Mapping[str, Any]]:
    rows = _newest_failed(since).values(
        "failure_class",
        "backend_id",
        workflow=F("child__group__workflow_digest"),
        done=Q(child__status=ChildStatus.COMPLETED),
    )
    return rows.annotate(
        failures=Count("id"),
        lost=Count("id", filter=_ENDED_ITS_CHILD),
        open=Count("id", filter=Q(child__status__in=CHILD_OPEN)),
        first=Min("ended_at"),
        last=Max("ended_at"),
        newest=Max("id"),
    )


def _unsent(since: dt.datetime) -> QuerySet[ChildJob]:
    """Return children that failed without an attempt that says why."""
    rows = ChildJob.objects.filter(
        Q(current_attempt=None) | Q(current_attempt__failure_class=""),
        backend_id__in=_values(ChildJob, _WITH_BACKEND),
        status__in=_LOST,
        completed_at__gte=since,
    )
    return rows.exclude(failure_class="").order_by()


def _by_child(since: dt.datetime) -> Iterable[Mapping[str, Any]]:
    rows = _unsent(since).values(
        "failure_class", "backend_id", workflow=F("group__workflow_digest"), done=Value(False)
    )
    return rows.annotate(
        failures=Count("id"),
        lost=Count("id"),
        open=Value(0),
        first=Min("completed_at"),
        last=Max("completed_at"),
        newest=Max("id"),
    )


def _values(model: type[Model], condition: str) -> list[str]:
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


# --- what rows are called, and their examples -----------------------------------------------------


def _name(rows: Collection[Row]) -> None:
    names = {digest: _workflow_name(digest) for digest in {row.workflow for row in rows}}
    attempts = Attempt.objects.select_related("child").in_bulk(
        [row._newest for row in rows if isinstance(row._newest, int)]
    )
    children = ChildJob.objects.in_bulk(
        [row._newest for row in rows if isinstance(row._newest, str)]
    )
    for row in rows:
        row.example = _example(
            attempts[row._newest] if isinstance(row._newest, int) else children[str(row._newest)]
        )
    groups = {row.example.group_id for row in rows if row.example is not None}
    metadata = dict(JobGroup.objects.filter(pk__in=groups).values_list("id", "metadata_json"))
    for row in rows:
        group_id = "" if row.example is None else row.example.group_id
        own = wording.group_name(group_id, json.loads(metadata.get(group_id, "{}")))
        name, model = names[row.workflow]
        # Many groups may share a workflow: people know the one that failed.
        shown = [own if own != group_id and row.workflow else name, model]
        row.workflow_name = " · ".join(part for part in shown if part) or row.workflow


def _example(newest: Attempt | ChildJob) -> Example:
    if isinstance(newest, ChildJob):
        at = newest.completed_at or newest.queued_at
        return Example(newest.group_id, newest.id, None, newest.error_message or "", at)
    at = newest.ended_at or newest.created_at
    message = newest.error_message or ""
    return Example(newest.child.group_id, newest.child_id, newest.number, message, at)


def _workflow_name(digest: str) -> tuple[str, str]:
    """Return the name of the newest group with this workflow that has one, and the model it loads.

    Where none has one and no model is named, its id stands for the name.
    """
    if not digest:
        return "Workflows from before they were told apart", ""
    newest = JobGroup.objects.filter(workflow_digest=digest).order_by("-created_at")
    rows = list(newest.values_list("id", "metadata_json")[:_NAMES_ASKED])
    if not rows:
        return digest, ""
    named = [wording.group_name(group_id, json.loads(text)) for group_id, text in rows]
    name = next((one for one in named if not one.startswith("jg_")), "")
    model = _model_of(rows[0][0])
    return name or ("" if model else named[0]), model


@functools.lru_cache(maxsize=500)
def _model_of(group_id: str) -> str:
    # What was submitted does not change, and it may be megabytes.
    text = JobGroup.objects.filter(pk=group_id).values_list("workflow_json", flat=True).first()
    return wording.model_name(json.loads(text or "{}"))


# --- what can be tried again ----------------------------------------------------------------------


def failed_jobs(
    window: str, *, failure_class: str, backend_id: str, workflow: str
) -> list[Retriable]:
    """Return the children behind a row that are failed or timed out now, by group, newest first."""
    since = now() - WINDOWS[window]
    there = {"failure_class": failure_class, "backend_id": backend_id}
    tried = _failed(since).filter(_ENDED_ITS_CHILD, **there, child__group__workflow_digest=workflow)
    unsent = _unsent(since).filter(**there, group__workflow_digest=workflow)
    found: dict[str, list[str]] = defaultdict(list)
    for group_id, job_id in [
        *tried.values_list("child__group_id", "child_id")[:MOST_JOBS],
        *unsent.values_list("group_id", "id")[:MOST_JOBS],
    ]:
        found[group_id].append(job_id)
    return [
        Retriable(
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


# --- for the navigation ---------------------------------------------------------------------------

#: When it was counted last, by the monotonic clock, and what came of it.
_counted: list[tuple[float, int]] = []


def lost_count() -> int:
    """Return how many children failed in the last day and are failed now, ``MOST_COUNTED`` at most.

    Remembered for some seconds.
    """
    if _counted and time.monotonic() - _counted[-1][0] < _COUNT_LIFE:
        return _counted[-1][1]
    since = now() - WINDOWS["1d"]
    # In no order: on a bad day a hundred are found at once, where sorting them all takes a third of a
    # second, of a page that only wants to say "99+".
    count = _failed(since).filter(_ENDED_ITS_CHILD)[:MOST_COUNTED].count()
    if count < MOST_COUNTED:
        count += _unsent(since)[: MOST_COUNTED - count].count()
    _counted[:] = [(time.monotonic(), count)]
    return count
