"""When open jobs and groups end: from learned times, the prompts of the backends and the queue
ahead.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from backends.models import Reachability
from jobgroups.models import ChildJob
from jobgroups.queries.leases import runner_alive
from jobgroups.queries.pool import CurrentPool, current_pool


def latest(ends: Collection[float | None]) -> float | None:
    """Return the latest end; None if there is none, or one is not known."""
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The bound jobs of one group that wait for one backend and were queued at one time."""

    starts_in: float | None  #: Seconds until the first of them starts; None: not known.
    seconds: float | None  #: Seconds of each; None: not known.
    before: int  #: Number of jobs before them.

    def ends_in(self, rank: int) -> float | None:
        if self.starts_in is None or self.seconds is None:
            return None
        return self.starts_in + rank * self.seconds


class Etas:
    """Estimates of one snapshot of the queue.

    There is none for what waits behind a workflow that has never run, for a backend that does not
    work, or for bound jobs of which a limit permits fewer prompts than they have backends.
    """

    def __init__(self, current: CurrentPool) -> None:
        self.current = current
        snapshot = current.snapshot
        self._prompts: dict[int, float | None] = {}
        self._of_group = defaultdict[str, list[float | None]](list)
        self._starts = defaultdict[str, list[float]](list)  #: Of each part of a group.
        #: Unsent jobs before each variant, once they were counted.
        self._ahead: dict[int, int] = {}
        self._bound: dict[tuple[str | None, str, dt.datetime], _Waiting] = {}
        #: Seconds until each backend has ended its prompts and its bound jobs; None: not known.
        self.free: dict[str, float | None] = {}
        free = self.free
        for row in current.backends:
            is_online = row.reachability == Reachability.ONLINE
            free[row.id] = 0.0
            for prompt, ends_in, is_known in snapshot.prompt_ends(row.id):
                free[row.id] = self._prompts[prompt.attempt_id] = (
                    ends_in if is_known and is_online else None
                )
                self._of_group[prompt.group_id].append(free[row.id])
            if row.id not in snapshot.working:
                backend = snapshot.backends.get(row.id)
                opens_in, free_in = backend and backend.opens_in, free[row.id]
                is_known = opens_in is not None and free_in is not None
                free[row.id] = max(opens_in or 0.0, free_in or 0.0) if is_known else None
        self._read_bound()
        for group_id in snapshot.held:
            self._of_group[group_id].append(None)
        for variant in snapshot.variants:
            if variant.unsent > 0:
                ends = snapshot.ends(variant.variant_id)
                self._of_group[variant.group_id].append(None if ends is None else ends.last)
                start = snapshot.plan.starts.get(variant.variant_id)
                if start is not None:
                    self._starts[variant.group_id].append(start)

    def _read_bound(self) -> None:
        free, snapshot = self.free, self.current.snapshot
        before, crowded = defaultdict[str, int](int), snapshot.crowded_limits
        for bound in snapshot.bound_in_order:
            seconds = snapshot.estimates.seconds(bound.workflow_digest, bound.backend_id)
            waiting = _Waiting(free.get(bound.backend_id), seconds, before[bound.backend_id])
            free[bound.backend_id] = waiting.ends_in(bound.jobs)
            if not crowded.isdisjoint(bound.limits):
                # Others may overtake them, or not: that they are behind them is the longer time.
                waiting = replace(waiting, starts_in=None)
            self._bound[bound.backend_id, bound.group_id, bound.queued_at] = waiting
            before[bound.backend_id] += bound.jobs
            if waiting.starts_in is not None:
                self._starts[bound.group_id].append(waiting.starts_in)
            self._of_group[bound.group_id].append(waiting.ends_in(bound.jobs))

    def has_groups(self, group_ids: Collection[str]) -> bool:
        return all(group_id in self._of_group for group_id in group_ids)

    @property
    def attempt_ends(self) -> Mapping[int, float | None]:
        """The seconds until each prompt at a backend ends, by the id of its attempt; None: not
        known.
        """
        return self._prompts

    def of_group(self, group_id: str) -> float | None:
        """Return the seconds until the last open job of a group ends; None: not known, or no job is
        open.
        """
        return latest(self._of_group.get(group_id, []))

    def start_of(self, group_id: str) -> float | None:
        """Return the seconds until the first waiting job of a group starts; None: not known."""
        return min(self._starts.get(group_id, ()), default=None)

    def ahead_of(self, child: ChildJob) -> int | None:
        """Return the number of jobs before those of its group that wait in the same queue as a job;
        None: not known.

        The job was not sent. It waits for its backend since its queueing time, or in the pool.
        """
        if child.is_bound:
            waiting = self._bound.get((child.backend_id, child.group_id, child.queued_at))
            return None if waiting is None else waiting.before
        variant_id = child.variant_id or 0
        if variant_id not in self._ahead:
            self._ahead[variant_id] = self.current.snapshot.ahead_of(variant_id)
        return self._ahead[variant_id]

    def of_job(self, child: ChildJob, position: int | None) -> float | None:
        """Return the seconds until an open job ends; None: not known.

        ``position`` is the place of a job that was not sent in the queue of its backend or of the
        pool, from 1.
        """
        if child.current_attempt_id is not None:
            return self._prompts.get(child.current_attempt_id)
        if position is None:
            return None
        rank = max(position - (self.ahead_of(child) or 0), 1)
        if child.is_bound:
            waiting = self._bound.get((child.backend_id, child.group_id, child.queued_at))
            return None if waiting is None else waiting.ends_in(rank)
        ends = self.current.snapshot.ends(child.variant_id or 0)
        return None if ends is None else ends.of(rank)


def current_etas(
    variant_ids: Collection[int] = (),
    group_ids: Collection[str] = (),
    *,
    is_incomplete: bool = False,
) -> Etas:
    """Return the estimates of the current snapshot, computed once for each.

    ``variant_ids`` and ``is_incomplete`` are those of ``queries.pool.current_pool``; ``group_ids``
    open groups, which may have been submitted after the last reading.
    """
    etas = _etas_of(current_pool(variant_ids, is_incomplete=is_incomplete))
    return (
        etas
        if etas.has_groups(group_ids)
        else _etas_of(current_pool(variant_ids, is_incomplete=True))
    )


_etas_of: Final = lru_cache(maxsize=1)(Etas)


def group_etas(open_ids: Collection[str]) -> dict[str, float | None]:
    """Return the seconds until each open group ends, by its id; None or absent: not known."""
    if not open_ids or not runner_alive():
        return {}
    etas = current_etas(group_ids=open_ids)
    return {group_id: etas.of_group(group_id) for group_id in open_ids}
