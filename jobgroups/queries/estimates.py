"""Remaining time of a group, from the median duration of its workflow on each backend.

There is no estimate from fewer than three runs. Groups with the same stored ``jobgroups.workflow.digest`` are
runs of one workflow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from jobgroups.domain.states import ChildStatus
from jobgroups.models import ChildJob

#: Maximum number of completed children of a workflow that are read, of the newest groups.
MAX_CHILDREN: Final = 500
#: Maximum number of runs on one backend that count, the newest ones.
MAX_RUNS: Final = 20
#: Minimum number of runs for an estimate.
MIN_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class Remaining:
    """An open child: its backend, the completed part (0 … 1), and whether it can progress now."""

    backend_id: str
    done: float
    is_progressing: bool = True


def medians(digests: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return the median seconds by (workflow digest, backend), if there were enough runs."""
    found: dict[tuple[str, str], float] = {}
    # Groups of a release without digests have an empty one: their workflows differ.
    for digest in {one for one in digests if one}:
        for backend_id, runs in _runs(digest).items():
            if len(runs) >= MIN_RUNS:
                found[digest, backend_id] = median(runs)
    return found


def _runs(digest: str) -> dict[str, list[float]]:
    """Return the seconds of a workflow's newest completed attempts, by backend."""
    taken: dict[str, list[float]] = defaultdict(list)
    rows = ChildJob.objects.filter(group__workflow_digest=digest, status=ChildStatus.COMPLETED)
    for backend_id, started, ended in rows.order_by("-group__created_at").values_list(
        "current_attempt__backend_id", "current_attempt__started_at", "current_attempt__ended_at"
    )[:MAX_CHILDREN]:
        if started and ended and len(taken[backend_id]) < MAX_RUNS:
            taken[backend_id].append((ended - started).total_seconds())
    return taken


def seconds_left(left: Sequence[Remaining], digest: str, known: Mapping[tuple[str, str], float]) -> float | None:
    """Return the seconds until the last child is completed, or None without an estimate.

    Backends work in parallel; each runs its children one after the other. There is no estimate if a child
    waits for a user or a backend, or if the workflow has too few runs on a backend.
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
