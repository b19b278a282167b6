"""Recent work of each backend, and whether it is slow or flaky beside the others. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

_FEWEST_JOBS: Final = 3  #: Of shared workflows: below that one load of models would count as slow.
_SLOW: Final = 2.0  #: Times the seconds that the other backends need.
_FEWEST_FAILURES: Final = 3
_FLAKY_SHARE: Final = 0.1  #: Of the attempts, and
_FLAKY_TIMES: Final = 3.0  #: times the share of the other backends: a bad workflow fails on all.


class Ran(NamedTuple):
    """The jobs of one workflow that ended on one backend with success."""

    backend_id: str
    workflow: str
    jobs: int
    seconds: float  #: Of all of them.


@dataclass(frozen=True, slots=True)
class Figures:
    """See ``shapes.backends.Backend``."""

    completed_day: int = 0
    failed_day: int = 0
    seconds_per_job: float | None = None
    relative_seconds: float | None = None
    slow: bool = False
    flaky: bool = False


def merged(rows: Iterable[Ran]) -> list[Ran]:
    """Return one row for each backend and workflow."""
    sums: dict[tuple[str, str], tuple[int, float]] = {}
    for row in rows:
        key = row.backend_id, row.workflow
        jobs, seconds = sums.get(key, (0, 0.0))
        sums[key] = jobs + row.jobs, seconds + row.seconds
    return [Ran(*key, *both) for key, both in sums.items()]


def figures(
    completed: Mapping[str, int], failed: Mapping[str, int], ran: Iterable[Ran]
) -> dict[str, Figures]:
    """Return the figures of each backend that has some.

    Args:
        completed: the number of attempts of the last day with success, by backend.
        failed: that of failed ones, also of jobs that were retried on another backend.
        ran: what ended in the last hour.
    """
    by_backend = defaultdict[str, list[Ran]](list)
    by_workflow = defaultdict[str, dict[str, float]](dict)
    for row in ran:
        by_backend[row.backend_id].append(row)
        by_workflow[row.workflow][row.backend_id] = row.seconds / row.jobs
    all_completed, all_failed = sum(completed.values()), sum(failed.values())
    found = {}
    for backend_id in {*completed, *failed, *by_backend}:
        rows = by_backend[backend_id]
        relative, shared = _relative(rows, by_workflow)
        good, bad = completed.get(backend_id, 0), failed.get(backend_id, 0)
        others = _share(all_failed - bad, all_completed - good)
        jobs = sum(row.jobs for row in rows)
        found[backend_id] = Figures(
            completed_day=good,
            failed_day=bad,
            seconds_per_job=round(sum(row.seconds for row in rows) / jobs, 1) if jobs else None,
            relative_seconds=None if relative is None else round(relative, 2),
            slow=relative is not None and relative >= _SLOW and shared >= _FEWEST_JOBS,
            flaky=bad >= _FEWEST_FAILURES
            and _share(bad, good) >= max(_FLAKY_SHARE, _FLAKY_TIMES * others),
        )
    return found


def _share(failed: int, completed: int) -> float:
    return failed / (failed + completed) if failed else 0.0


def _relative(
    rows: Iterable[Ran], by_workflow: Mapping[str, Mapping[str, float]]
) -> tuple[float | None, int]:
    """Return the seconds of a backend divided by the medians of the others for the same workflows,
    and the number of these jobs; None if no other backend ran one of them.
    """
    seconds = usual = 0.0
    jobs = 0
    for row in rows:
        of_others = [
            each for name, each in by_workflow[row.workflow].items() if name != row.backend_id
        ]
        if of_others:
            seconds += row.seconds
            usual += row.jobs * median(of_others)
            jobs += row.jobs
    return (seconds / usual if usual else None), jobs
