"""What failed lately, as people see it: the worst first, and what cost nothing apart. Reads rows only."""

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
    #: Whether it is registered still, whether it takes children now, and whether it was set aside.
    is_registered: bool
    is_schedulable: bool
    is_quarantined: bool
    #: Whether another backend may not have this cause.
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
    """All that the page shows."""

    window: str
    #: ``(window, words, whether it is this one)``
    windows: list[tuple[str, str, bool]]
    causes: list[Cause]
    recovered: list[Cause]
    more: int
    #: How many failures are counted, where there were more.
    only_newest: int | None
    #: Jobs that are failed or timed out now.
    unrecovered_count: int

    @property
    def window_label(self) -> str:
        """The window, as the end of a sentence."""
        return f"the last {_WINDOW_LABELS[self.window]}"

    @property
    def recovered_count(self) -> int:
        """Failures that cost nothing but time."""
        return sum(one.failures for one in self.recovered)


def parse_window(query: QueryDict) -> str:
    """Read the window out of a URL's query; what is not understood counts as left out."""
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
    """Return how many jobs failed in the last day and are failed now, nothing where none did."""
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
    return (
        backend.enabled and backend.quarantined_at is None and Hold(backend.hold) is not Hold.DRAIN
    )
