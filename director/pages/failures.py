"""Read model of the page of failures: causes by number of failed jobs, recovered ones separately."""

from __future__ import annotations

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

    key: str
    failure_class: str
    title: str
    sentence: str
    backend_id: str
    backend_name: str
    #: State of the backend.
    is_registered: bool
    is_schedulable: bool
    is_quarantined: bool
    #: Whether a retry on another backend may avoid the cause.
    better_elsewhere: bool
    workflow: str
    workflow_name: str
    failures: int
    lost: int
    retrying: int
    first_at: str
    first: str
    last_at: str
    last: str
    message: str
    group_id: str
    job_id: str


@dataclass(frozen=True, slots=True)
class FailuresPage:
    """The page of failures."""

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
        return sum(one.failures for one in self.recovered)


def parse_window(query: QueryDict) -> str:
    """Return the window in a URL's query; the default for an invalid value."""
    said = str(query.get("window", ""))
    return said if said in failing.WINDOWS else failing.DEFAULT_WINDOW


def failures_page(window: str) -> FailuresPage:
    """Return the page of failures within a window."""
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
    kind = TAXONOMY[FailureClass(row.failure_class)]
    moment = now()
    example = row.example
    return Cause(
        key=f"{row.failure_class}-{row.backend_id}-{row.workflow}",
        failure_class=row.failure_class,
        title=text.capitalize(text.failure_label(row.failure_class)),
        sentence=kind.sentence,
        backend_id=row.backend_id,
        backend_name=row.backend_id if backend is None else backend.name or backend.id,
        is_registered=backend is not None,
        is_schedulable=backend is not None and _is_schedulable(backend),
        is_quarantined=backend is not None and backend.quarantined_at is not None,
        better_elsewhere=row.failure_class in BETTER_ELSEWHERE,
        workflow=row.workflow,
        workflow_name=row.workflow_name,
        failures=row.failures,
        lost=row.lost,
        retrying=row.open,
        first_at=iso(row.first),
        first=words.ago(row.first, moment),
        last_at=iso(row.last),
        last=words.ago(row.last, moment),
        message="" if example is None else example.message,
        group_id="" if example is None else example.group_id,
        job_id="" if example is None else example.job_id,
    )


def _is_schedulable(backend: Backend) -> bool:
    return backend.enabled and backend.quarantined_at is None and Hold(backend.hold) is not Hold.DRAIN
