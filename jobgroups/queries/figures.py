"""Reads the work of each backend in the last day and hour, from the stored attempts.

Attempts of deleted groups are not counted.
"""

import datetime as dt
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from django.db.models import Count, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from backends.models import Backend
from jobgroups.domain import figures
from jobgroups.domain.clock import now
from jobgroups.domain.figures import Figures, Ran, merged
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, Variant
from jobgroups.queries.usage import seconds_executed

_DAY: Final = dt.timedelta(days=1)
_HOUR: Final = dt.timedelta(hours=1)
_KEPT_SECONDS: Final = 10.0  #: For which all readers of a process share a reading.


def read_figures() -> dict[str, Figures]:
    """Return the figures of each backend.

    All columns are in the indexes, also what is counted: PostgreSQL would read the rows for their ids.
    Each backend has its part of the indexes ``attempt_succeeded`` and ``attempt_failed``: the
    planners would read all of an index for a plain ``GROUP BY``.
    """
    moment = now()
    good = Attempt.objects.filter(state=AttemptState.SUCCESS)
    # exclude: SQLite uses a partial index only if the query has its condition literally.
    bad = Attempt.objects.exclude(failure_class="")
    day = [_number_of(attempts.filter(ended_at__gt=moment - _DAY)) for attempts in (good, bad)]
    counts = list(
        Backend.objects.order_by()
        .annotate(good=day[0], bad=day[1])
        .values_list("id", "good", "bad")
    )
    completed = {backend_id: number for backend_id, number, _ in counts}
    failed = {backend_id: number for backend_id, _, number in counts}
    return figures.figures(completed, failed, _ran(moment - _HOUR))


def _number_of(attempts: QuerySet[Attempt]) -> Coalesce:
    of_backend = attempts.filter(backend=OuterRef("pk")).order_by().values("backend")
    return Coalesce(Subquery(of_backend.annotate(number=Count("backend")).values("number")), 0)


def _ran(since: dt.datetime) -> list[Ran]:
    """Return what ended since a moment with success, by backend and workflow."""
    # A job of the pool has its workflow in its variant, another one in its group.
    in_pool = _sums(since, "attempts__variant_id", in_pool=True)
    bound = _sums(since, "attempts__child__group__workflow_digest", in_pool=False)
    variants = Variant.objects.filter(pk__in={variant_id for _, variant_id, *_ in in_pool})
    digests = dict(variants.order_by().values_list("pk", "workflow_digest"))
    of_variants = (
        (backend_id, digests.get(variant_id, ""), jobs, seconds)
        for backend_id, variant_id, jobs, seconds in in_pool
    )
    return merged(Ran(*row) for row in (*of_variants, *bound))


def _sums(since: dt.datetime, column: str, *, in_pool: bool) -> list[tuple[Any, ...]]:
    # One call of filter: each further one would join the attempts again.
    rows = Backend.objects.filter(
        attempts__state=AttemptState.SUCCESS,
        attempts__ended_at__gt=since,
        attempts__started_at__isnull=False,
        attempts__variant_id__isnull=not in_pool,
    )
    seconds = Sum(seconds_executed("attempts__ended_at", of="attempts__"))
    sums = rows.order_by().values_list("id", column)
    return list(sums.annotate(jobs=Count("attempts__backend"), seconds=seconds))


class _Kept:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self._until = float("-inf")
        self._figures: Mapping[str, Figures] = {}

    def get(self) -> Mapping[str, Figures]:
        with self._lock:
            if time.monotonic() > self._until:
                self._figures = read_figures()
                self._until = time.monotonic() + _KEPT_SECONDS
            return self._figures


kept_figures: Final = _Kept()


def current_figures() -> Mapping[str, Figures]:
    """Return the figures of all backends, at most ten seconds old."""
    return kept_figures.get()
