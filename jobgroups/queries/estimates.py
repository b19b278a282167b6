"""When it will be done: the median of what this workflow last took on that backend.

Below three runs nothing is said. Which groups are runs of one workflow, ``jobgroups.workflow.digest``
tells; it is stored with each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from jobgroups.domain.states import ChildStatus
from jobgroups.models import ChildJob

#: Completed children of a workflow that are looked back on, newest groups first: however many there
#: are, a page costs the same.
MAX_CHILDREN: Final = 500
#: Runs on one backend that count, the newest ones.
MAX_RUNS: Final = 20
#: Fewer runs than this say nothing.
MIN_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class Remaining:
    """A child that is not final: where, how far it has come (0 … 1), whether it can come further now."""

    backend_id: str
    done: float
    is_progressing: bool = True


def medians(digests: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return seconds by (workflow digest, backend), where there were enough runs."""
    found: dict[tuple[str, str], float] = {}
    # Groups of a release that kept no digest have an empty one: they have nothing in common.
    for digest in {one for one in digests if one}:
        for backend_id, runs in _runs(digest).items():
            if len(runs) >= MIN_RUNS:
                found[digest, backend_id] = median(runs)
    return found


def _runs(digest: str) -> dict[str, list[float]]:
    """Return the seconds of a workflow's newest runs, by backend: of the attempts that succeeded."""
    taken: dict[str, list[float]] = defaultdict(list)
    rows = ChildJob.objects.filter(group__workflow_digest=digest, status=ChildStatus.COMPLETED)
    for backend_id, started, ended in rows.order_by("-group__created_at").values_list(
        "current_attempt__backend_id", "current_attempt__started_at", "current_attempt__ended_at"
    )[:MAX_CHILDREN]:
        if started and ended and len(taken[backend_id]) < MAX_RUNS:
            taken[backend_id].append((ended - started).total_seconds())
    return taken


def seconds_left(
    left: Sequence[Remaining], digest: str, known: Mapping[tuple[str, str], float]
) -> float | None:
    """Return the seconds until the last child is done.

    Backends work side by side, each through its own children one after the other.

    Returns:
        None where that cannot be said: a backend is not known, or one of the children waits for a person
        or a machine, and nobody knows how long.
    """
    if not left or not all(one.is_progressing for one in left):
        return None
    sums: dict[str, float] = defaultdict(float)
    for one in left:
        usual = known.get((digest, one.backend_id))
        if usual is None:
            return None
        sums[one.backend_id] += usual * (1 - one.done)
    return max(sums.values())
