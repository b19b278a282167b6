"""Whose turn it is: the order of all waiting jobs by level, share and own order. Pure.

This is the one place of the order. All runners compute the same order from the same rows. Jobs of
one :class:`Turn` follow each other by :func:`order_key`; turns follow each other by level, then by
what their submitters have used of the farm.
"""

from __future__ import annotations

import bisect
import datetime as dt
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from jobgroups.domain.plan import Plannable

DEFAULT_PRIORITY: Final = 50
MAX_PRIORITY: Final = 100
MAX_OWN_PRIORITY: Final = 60  #: The highest that an artist sets.
#: Seconds that a job of unknown duration counts in the share of its submitter.
UNKNOWN_S: Final = 30.0
#: While jobs of several submitters are interleaved, each gets one at a time first, and later this
#: part of what was interleaved before: so many steps serve for a long queue as for a short one.
_STEP: Final = 2


class Turn(NamedTuple):
    """What the jobs of one submitter at one level have in common."""

    level: int = DEFAULT_PRIORITY
    #: When an operator brought them to the front of the level, in epoch seconds, the latest first;
    #: 0: they were not.
    front: float = 0.0
    submitter: str = ""

    @property
    def rank(self) -> tuple[int, float]:
        """Return what comes before shares."""
        return -self.level, -self.front


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WaitingJobs(Plannable):
    """Jobs of one group that follow each other in the queue."""

    group_id: str
    number: int = 0
    queued_at: dt.datetime  #: When they were queued: the start of the group's run.
    ordered_at: dt.datetime | None = None  #: What counts instead in the order of their submitter.
    turn: Turn = field(default_factory=Turn)
    #: Since when no backend has a job of the group, as it is stored; None: a backend has one.
    waiting_since: dt.datetime | None = None
    #: The limits of prompts that count for them: a group, or the target of a submitter.
    limits: tuple[str, ...] = ()


def order_key(jobs: WaitingJobs) -> tuple[dt.datetime, str, int]:
    """Return the position among the jobs of the same turn."""
    return jobs.ordered_at or jobs.queued_at, jobs.group_id, jobs.number


def level_of(priority: int, waited_s: float, aging_s: float) -> int:
    """Return the level that counts: a group rises by one for each ``aging_s`` without a job at a
    backend; 0: it does not rise.
    """
    risen = int(max(waited_s, 0.0) // aging_s) if aging_s else 0
    return min(priority + risen, MAX_PRIORITY)


@dataclass(frozen=True, slots=True)
class Shares:
    """What submitters have used of the farm, in seconds of backends, and their weights (1)."""

    used: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def cost(self, submitter: str, seconds: float) -> float:
        """Return what so many seconds count in the share of a submitter."""
        return seconds / self.weights.get(submitter, 1.0)

    def use(self, running: Iterable[tuple[str, float]]) -> dict[str, float]:
        """Return the use by submitter, with the expected seconds of running jobs."""
        use = defaultdict[str, float](float)
        for submitter, seconds in itertools.chain(self.used.items(), running):
            use[submitter] += self.cost(submitter, seconds)
        return use


class TurnOrder:
    """Turns in their order, which changes as submitters use the farm.

    Args:
        first: of each turn its first jobs: of equals, the turn whose jobs came first is first.
        use: by submitter, as :meth:`Shares.use` returns it.
    """

    def __init__(
        self, first: Mapping[Turn, WaitingJobs], use: Mapping[str, float], shares: Shares
    ) -> None:
        self._first: Final = {turn: order_key(jobs) for turn, jobs in first.items()}
        self._use: Final = defaultdict[str, float](float, use)
        self._shares: Final = shares
        self._of: Final = defaultdict[str, list[Turn]](list)
        for turn in first:
            self._of[turn.submitter].append(turn)
        self._order: Final = sorted(self._key(turn) for turn in first)

    def _key(self, turn: Turn) -> tuple[Any, ...]:
        return *turn.rank, self._use[turn.submitter], self._first[turn], turn

    def __iter__(self) -> Iterator[Turn]:
        return (key[-1] for key in self._order)

    def place(self, turn: Turn) -> int:
        """Return the place of a turn, from 0."""
        return bisect.bisect_left(self._order, self._key(turn))

    @property
    def use(self) -> Mapping[str, float]:
        return self._use

    def cost(self, submitter: str, seconds: float) -> float:
        return self._shares.cost(submitter, seconds)

    def charge(self, submitter: str, seconds: float) -> None:
        """Count seconds of a backend for a submitter; a negative number takes them back."""
        is_alone = len(self._order) == 1
        turns = () if is_alone else self._of.get(submitter, ())
        for turn in turns:
            del self._order[bisect.bisect_left(self._order, self._key(turn))]
        self._use[submitter] += self.cost(submitter, seconds)
        for turn in turns:
            bisect.insort(self._order, self._key(turn))
        if is_alone:
            self._order[0] = self._key(self._order[0][-1])


T = TypeVar("T", bound=WaitingJobs)


def interleave(
    queues: Mapping[Turn, Sequence[tuple[T, int, float]]], use: Mapping[str, float], shares: Shares
) -> Iterator[tuple[T, int]]:
    """Yield waiting jobs with numbers of them, in the order in which backends will take them.

    Args:
        queues: by turn its jobs in their order, each with the number of jobs and the seconds of
            one.
    """
    use = dict(use)
    by_rank = sorted(queues, key=lambda turn: turn.rank)
    for _, same in itertools.groupby(by_rank, key=lambda turn: turn.rank):
        yield from _by_share([queues[turn] for turn in same if queues[turn]], use, shares)


def _by_share(
    queues: Sequence[Sequence[tuple[T, int, float]]], use: dict[str, float], shares: Shares
) -> Iterator[tuple[T, int]]:
    if len(queues) == 1:
        yield from ((jobs, number) for jobs, number, _ in queues[0])
        return
    left = [list(reversed(queue)) for queue in queues]
    submitters = [queue[0][0].turn.submitter for queue in queues]
    heap = [
        (use.get(submitters[at], 0.0), order_key(queue[0][0]), at)
        for at, queue in enumerate(queues)
    ]
    heapq.heapify(heap)
    done = 0
    while heap:
        used, first, at = heapq.heappop(heap)
        jobs, number, seconds = left[at].pop()
        cost = max(shares.cost(submitters[at], seconds), 0.001)
        taken = number
        if heap:
            behind = int((heap[0][0] - used) / cost)
            taken = min(number, max(1, behind, done // (_STEP * len(queues))))
        yield jobs, taken
        done += taken
        use[submitters[at]] = used + taken * cost
        if taken < number:
            left[at].append((jobs, number - taken, seconds))
        if left[at]:
            heapq.heappush(heap, (use[submitters[at]], first, at))
