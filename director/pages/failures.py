"""Read model of the page of failures: causes by number of failed jobs, recovered ones separately."""

from collections.abc import Mapping
from typing import Any, Final

from backends.models import Backend
from backends.queries import backends_by_id
from backends.states import Hold
from jobgroups.domain.access import Principal
from jobgroups.domain.shapes.backends import FailureRow
from jobgroups.queries import failures as failing

_WINDOW_LABELS: Final = {"1h": "hour", "1d": "day", "7d": "seven days"}


def failures_page(principal: Principal, given: str, backend_id: str) -> dict[str, Any]:
    """Return the causes of failures that a principal sees in a window, by number of failed jobs, of
    one backend if it is named.
    """
    window = given if given in failing.WINDOWS else failing.DEFAULT_WINDOW
    report = failing.failure_report(principal, window, backend_id)
    causes = [*report.results, *report.recovered]
    known = backends_by_id([backend_id, *(row.backend_id or "" for row in causes)])
    return {
        "window": window,
        "backend_id": backend_id,
        "backend_name": known[backend_id].name if backend_id in known else backend_id,
        # As the end of a sentence.
        "window_label": f"the last {_WINDOW_LABELS[window]}",
        # ``(window, label, is selected)``
        "windows": [(key, label, key == window) for key, label in _WINDOW_LABELS.items()],
        "causes": [_cause(row, known) for row in report.results],
        "recovered": [_cause(row, known) for row in report.recovered],
        # Failures whose jobs are completed.
        "recovered_count": sum(row.failures for row in report.recovered),
        "report": report,
    }


def tally(principal: Principal) -> str:
    """Return the number of jobs that failed in the last day and are still failed, empty for 0."""
    count = failing.lost_count(principal)
    if count >= failing.MAX_COUNT:
        return f"{failing.MAX_COUNT - 1}+"
    return str(count or "")


def _cause(row: FailureRow, known: Mapping[str, Backend]) -> dict[str, Any]:
    """Return all failures with one cause at one backend in one workflow."""
    backend = known.get(row.backend_id or "")
    return {
        "row": row,
        # None if it was removed, or if no backend had the jobs: no candidate of the pool could take
        # them.
        "backend": backend,
        "backend_name": (backend and backend.name) or row.backend_id or "no backend",
        "is_schedulable": backend is not None
        and backend.enabled
        and backend.quarantined_at is None
        and Hold(backend.hold) is not Hold.DRAIN,
    }
