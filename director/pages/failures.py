"""Read model of the page of failures: causes by number of failed jobs, recovered ones separately."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.http import QueryDict

from backends.models import Backend
from backends.queries import backends_by_id
from backends.states import Hold
from director.pages import text as words
from jobgroups.domain import text
from jobgroups.domain.clock import iso, now
from jobgroups.domain.failures import BETTER_ELSEWHERE, TAXONOMY, FailureClass
from jobgroups.queries import failures as failing

_WINDOW_LABELS: Final = {"1h": "hour", "1d": "day", "7d": "seven days"}


@dataclass(frozen=True, slots=True)
class Cause:
    """All failures with one cause at one backend in one workflow."""

    row: failing.FailureRow
    title: str
    sentence: str
    #: None if it was removed, or if no backend had the jobs: no candidate of the pool could take them.
    backend: Backend | None
    backend_name: str
    is_schedulable: bool
    #: Whether a retry on another backend may avoid the cause.
    better_elsewhere: bool
    first_at: str
    first: str
    last_at: str
    last: str


@dataclass(frozen=True, slots=True)
class FailuresPage:
    window: str
    #: ``(window, label, is selected)``
    windows: list[tuple[str, str, bool]]
    causes: list[Cause]
    recovered: list[Cause]
    more: int
    #: Number of counted failures, if there were more.
    only_newest: int | None
    #: Jobs that are failed or timed out.
    unrecovered_count: int

    @property
    def window_label(self) -> str:
        """The window, as the end of a sentence."""
        return f"the last {_WINDOW_LABELS[self.window]}"

    @property
    def recovered_count(self) -> int:
        """Failures whose jobs are completed."""
        return sum(one.row.failures for one in self.recovered)


def parse_window(query: QueryDict) -> str:
    said = str(query.get("window", ""))
    return said if said in failing.WINDOWS else failing.DEFAULT_WINDOW


def failures_page(window: str) -> FailuresPage:
    found = failing.failure_report(window)
    known = backends_by_id(row.backend_id for row in [*found.rows, *found.recovered])
    return FailuresPage(
        window=window,
        windows=[(one, said, one == window) for one, said in _WINDOW_LABELS.items()],
        causes=[_cause(row, known) for row in found.rows],
        recovered=[_cause(row, known) for row in found.recovered],
        more=found.more,
        only_newest=failing.MAX_FAILURES if found.cut else None,
        unrecovered_count=found.lost,
    )


def tally() -> str:
    """Return the number of jobs that failed in the last day and are still failed, empty for 0."""
    count = failing.lost_count()
    if count >= failing.MAX_COUNT:
        return f"{failing.MAX_COUNT - 1}+"
    return str(count or "")


def _cause(row: failing.FailureRow, known: Mapping[str, Backend]) -> Cause:
    backend = known.get(row.backend_id)
    moment = now()
    return Cause(
        row=row,
        title=text.capitalize(text.failure_label(row.failure_class)),
        sentence=TAXONOMY[FailureClass(row.failure_class)].sentence,
        backend=backend,
        backend_name=(backend and backend.name) or row.backend_id or "no backend",
        is_schedulable=backend is not None
        and backend.enabled
        and backend.quarantined_at is None
        and Hold(backend.hold) is not Hold.DRAIN,
        better_elsewhere=row.failure_class in BETTER_ELSEWHERE,
        first_at=iso(row.first),
        first=words.ago(row.first, moment),
        last_at=iso(row.last),
        last=words.ago(row.last, moment),
    )
