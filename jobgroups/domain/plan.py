"""The earliest-completion plan: which backend does which jobs of the queue, and when they end.
Pure.

Jobs are planned in the order of the queue, each at the backend where it ends first. At the end of a
queue a slow backend thereby gets no job that a faster one, busy now, still ends sooner.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple, Self

from jobgroups.domain.estimates import Estimates

_BULK: Final = 8  #: Above this number of jobs for each backend most of them are planned at once.
#: Maximum number of slots that are computed: about 0.1 s. Variants behind are estimated as a whole.
_MAX_SIZE: Final = 30_000
_HALVINGS: Final = 50
#: Seconds in which the queue is read again, and a prompt is removed from another backend.
_SOON_S: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plannable:
    """What a plan needs of a variant."""

    variant_id: int
    workflow_digest: str = ""
    models_digest: str = ""


@dataclass(slots=True)
class Worker:
    """A backend that works, as far as it is planned."""

    backend_id: str
    free_in: float  #: Seconds until it has ended its prompts and its planned jobs.
    models: str  #: Models of its last job, ``""`` if not known.


@dataclass(frozen=True, slots=True)
class Ends:
    """Seconds until the first and the last of so many planned jobs end."""

    first: float
    last: float
    jobs: int

    def __add__(self, later: Ends) -> Ends:
        """Return the ends of these jobs and of some that were planned later."""
        return Ends(self.first, max(self.last, later.last), self.jobs + later.jobs)

    def of(self, rank: int) -> float:
        """Return the seconds until the job with a rank ends, from 1; between first and last they
        are spread evenly.
        """
        part = (rank - 1) / (self.jobs - 1) if self.jobs > 1 else 1.0
        return self.first + (self.last - self.first) * min(part, 1.0)


class _Slot(NamedTuple):
    """A backend for the next job of one workflow. Ties go to the smaller id, so that all runners
    make the same plan.
    """

    ends_in: float  #: When that job would end there.
    backend_id: str
    #: ``free_in`` of the backend when this was computed; another workflow may have got it since.
    free_in: float
    worker: Worker
    seconds: float
    load: float

    @classmethod
    def of(cls, worker: Worker, seconds: float, load: float, models: str) -> Self:
        """Return the slot of a backend after its planned jobs."""
        ends_in = worker.free_in + seconds + (0.0 if models in ("", worker.models) else load)
        return cls(ends_in, worker.backend_id, worker.free_in, worker, seconds, load)


class Plan:
    """Assigns jobs to workers, variant by variant in the order of the queue."""

    def __init__(self, estimates: Estimates, workers: Iterable[Worker]) -> None:
        self._estimates = estimates
        self.workers = {worker.backend_id: worker for worker in workers}
        self.size = 0  #: Number of slots that were computed.
        self.allotted: dict[tuple[int, str], int] = {}  #: Number of jobs by (variant, backend).
        #: Variants that were estimated as a whole: any backend may take their jobs.
        self.unplanned = set[int]()
        #: By variant; None: a workflow of unknown duration comes before, or is its own.
        self.ends: dict[int, Ends | None] = {}
        #: By variant the seconds until a backend is free for its first job, unless a workflow of
        #: unknown duration comes before.
        self.starts = dict[int, float]()
        #: Seconds until its last job ends, unless its own duration is unknown.
        self.last = dict[int, float]()
        self._unknown = set[str]()  #: Backends that get jobs of unknown duration.
        #: The workers of the backends that fit, and the seconds until the first of them is free,
        #: once that was computed.
        self._able: dict[frozenset[str], list[Worker]] = {}
        self._soonest: dict[frozenset[str], float] = {}
        #: By workflow, models and backends.
        self._heaps: dict[tuple[str, str, frozenset[str]], list[_Slot]] = {}
        self._rest_ends_in = 0.0  #: Seconds until everything that was planned as a whole ends.

    def add(self, variant: Plannable, jobs: int, able: frozenset[str]) -> None:
        """Plan the next unsent jobs, all or some of a variant, which ``able`` backends may take."""
        if jobs <= 0:
            return
        variant_id, digest, models = (
            variant.variant_id,
            variant.workflow_digest,
            variant.models_digest,
        )
        workers = self._workers_of(able)
        before = self.ends.get(variant_id)
        is_behind = variant_id in self.ends
        self.ends[variant_id] = None
        is_known = not self._unknown or self._unknown.isdisjoint(able)
        if not workers or self._estimates.seconds(digest, workers[0].backend_id) is None:
            if workers and is_known:
                self.starts.setdefault(variant_id, min(worker.free_in for worker in workers))
            self._unknown.update(worker.backend_id for worker in workers)
            return
        if self.is_full:
            start = self._rest_ends_in
            ends = self._add_rest(variant_id, digest, jobs, workers)
        else:
            heap = self._heap(digest, models, able)
            start = self._next(heap, models).free_in
            ends = self._add_planned(variant_id, heap, models, jobs)
        self.last[variant_id] = max(ends.last, self.last.get(variant_id, 0.0))
        if is_behind and before is None:
            return
        if is_known:
            self.starts.setdefault(variant_id, start)
            self.ends[variant_id] = ends if before is None else before + ends

    @property
    def is_full(self) -> bool:
        return self.size > _MAX_SIZE

    def _workers_of(self, able: frozenset[str]) -> list[Worker]:
        if able not in self._able:
            self._able[able] = [worker for name, worker in self.workers.items() if name in able]
        return self._able[able]

    def reserve(self, variant: Plannable, able: frozenset[str], before: float) -> bool:
        """Reserve a backend that is free soon, for the rest of the plan, if it ends one more job
        before a time.
        """
        if able not in self._soonest:
            self._soonest[able] = min(
                (worker.free_in for worker in self._workers_of(able)), default=inf
            )
        # While the queue is long, no backend is free soon.
        if self.is_full or self._soonest[able] > min(before, _SOON_S):
            return False
        models = variant.models_digest
        slot = self._next(self._heap(variant.workflow_digest, models, able), models)
        if slot.free_in > _SOON_S or slot.ends_in >= before:
            return False
        slot.worker.free_in = inf
        return True

    def _add_planned(self, variant_id: int, heap: list[_Slot], models: str, jobs: int) -> Ends:
        first = self._next(heap, models).ends_in
        left, last = jobs, first
        if jobs > _BULK * len(heap):
            left, last = self._assign_bulk(variant_id, heap, jobs, models)
        for _ in range(left):
            slot = self._next(heap, models)
            last = max(last, self._assign(variant_id, slot, 1, models))
        self._rest_ends_in = max(self._rest_ends_in, last)
        return Ends(first, last, jobs)

    def _heap(self, digest: str, models: str, able: frozenset[str]) -> list[_Slot]:
        key = (digest, models, able)
        if key not in self._heaps:
            heap, seconds_at, load_at = [], self._estimates.seconds, self._estimates.load_seconds
            for worker in self._workers_of(able):
                name = worker.backend_id
                heap.append(
                    _Slot.of(
                        worker,
                        max(seconds_at(digest, name) or 0.0, 0.001),
                        load_at(digest, name),
                        models,
                    )
                )
            self.size += len(heap)
            heapq.heapify(heap)
            self._heaps[key] = heap
        return self._heaps[key]

    def _next(self, heap: list[_Slot], models: str) -> _Slot:
        """Return the slot where the next job ends first. Jobs of others move a slot only to a later
        end.
        """
        while (slot := heap[0]).free_in != slot.worker.free_in:
            self.size += 1
            heapq.heapreplace(heap, _Slot.of(slot.worker, slot.seconds, slot.load, models))
        return slot

    def _assign(self, variant_id: int, slot: _Slot, jobs: int, models: str) -> float:
        """Assign jobs to a backend; return the seconds until their end."""
        worker, key = slot.worker, (variant_id, slot.backend_id)
        worker.free_in = slot.ends_in + (jobs - 1) * slot.seconds
        worker.models = models or worker.models
        self.allotted[key] = self.allotted.get(key, 0) + jobs
        return worker.free_in

    def _assign_bulk(
        self, variant_id: int, heap: list[_Slot], jobs: int, models: str
    ) -> tuple[int, float]:
        """Assign what ends before a late time until which not more than all jobs end.

        Returns the number of jobs that are left, and when the last of the others ends.
        """

        def counts(until: float) -> list[int]:
            return [max(int((until - slot.ends_in) / slot.seconds + 1), 0) for slot in slots]

        slots = [_Slot.of(slot.worker, slot.seconds, slot.load, models) for slot in heap]
        low = min(slots).ends_in
        high = low + jobs * min(slots).seconds
        numbers = counts(low)
        for _ in range(_HALVINGS):
            # A halving takes as long as so many slots.
            self.size += len(slots) // 8
            middle = (low + high) / 2
            counted = counts(middle)
            if sum(counted) > jobs:
                high = middle
                continue
            low, numbers = middle, counted
            if jobs - sum(numbers) <= len(slots) // 8:
                break
        ends = [
            self._assign(variant_id, slot, number, models)
            for slot, number in zip(slots, numbers, strict=True)
            if number
        ]
        return jobs - sum(numbers), max(ends)

    def _add_rest(self, variant_id: int, digest: str, jobs: int, workers: Sequence[Worker]) -> Ends:
        self.unplanned.add(variant_id)
        seconds = self._estimates.seconds(digest, workers[0].backend_id) or 0.0
        first = self._rest_ends_in + seconds
        self._rest_ends_in += jobs * seconds / len(workers)
        return Ends(first, max(first, self._rest_ends_in), jobs)


def rest_of(expected: float | None, running_for: float) -> float:
    """Return the seconds until a running prompt ends: of one that is late, half of what it is late.

    One of unknown duration is expected to take as long again.
    """
    if expected is None:
        return running_for
    return max(expected - running_for, (running_for - expected) / 2)
