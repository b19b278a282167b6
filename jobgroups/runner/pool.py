"""The pool in a runner: the line as the database had it a moment ago, shared by all sessions.

A stale line costs an empty claim, never a wrong one: the transaction of a claim checks everything again.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import monotonic_now
from jobgroups.domain.pool import Line, PoolBackend
from jobgroups.queries import pool
from jobgroups.services import expiry, moves
from jobgroups.services.claims import ClaimResult, PoolChoice

#: Seconds after which a free backend is left out of the plan of a job that it does not take, and for how long.
_OVERLOOKED_S, _LEFT_OUT_S = 5.0, 30.0
_LEFTOVER_POLL: Final = 1.0  #: Seconds between two readings while a backend found no job where one is counted.


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledChoice(PoolChoice):
    """A choice of a job, which ``line`` counts as sent until :meth:`Pool.settle`. Another line may be read meanwhile."""

    line: Line


def _read_line(backends: Sequence[PoolBackend], overlooked: frozenset[tuple[int, str]]) -> Line:
    """Read and plan the line: both take long with many backends, and are limited to a part of the time."""
    line = pool.read_line(backends, overlooked)
    line.plan()
    return line


class Pool:
    """Reads the line, chooses for sessions with a free slot, and ends jobs that no backend can take.

    Jobs without any candidate fail after ``give_up_s``, queued jobs time out after ``queued_limit_s``.
    """

    def __init__(self, database: DatabaseThreads, *, give_up_s: float, queued_limit_s: int) -> None:
        self._database = database
        self._give_up_s = give_up_s
        self._queued_limit_s = queued_limit_s
        self._line = Line()
        self._backends: Sequence[PoolBackend] = ()
        #: Monotonic: when each backend last found no job where one was counted.
        self._in_vain_at: dict[str, float] = {}
        self._leftover: set[int] = set()  #: The variants of these jobs, since the last look for overdue jobs.
        #: Monotonic: since when a free backend has not taken a job that the plan gives it, by variant and backend.
        self._allotted_since: dict[tuple[int, str], float] = {}
        self._refused = set[int]()  #: Attempts whose recall was refused, since the last look for overdue jobs.
        self.is_stale = True  #: Whether the database may have another line.
        #: Monotonic: the line is not read again before, and when it was read.
        self._not_before = self._read_at = float("-inf")

    async def read_backends(self) -> None:
        """Read the backends; the next :meth:`refresh` uses them."""
        self._backends = await self._database.run_with_retry(pool.pool_backends)

    @property
    def next_reading_in(self) -> float:
        """Seconds until the line is to be read again, unless a notification comes before."""
        due_at = float("inf")
        if self._line.has_leftover:
            due_at = self._read_at + _LEFTOVER_POLL
        if self.is_stale:
            due_at = self._not_before
        return max(due_at - time.monotonic(), 0.0)

    async def refresh(self) -> None:
        """Read the line if it is stale or has leftovers, unless it was read a moment ago."""
        started = time.monotonic()
        if self.next_reading_in > 0:
            return
        self.is_stale = False
        await self._store_bypasses()
        overlooked = frozenset(pair for pair, since in self._allotted_since.items() if started > since + _OVERLOOKED_S)
        line = await self._database.run_with_retry(_read_line, self._backends, overlooked)
        # Claims of jobs of the earlier line may still be in progress.
        line.bypasses = self._line.bypasses
        self._line = line
        self._read_at = time.monotonic()
        took = self._read_at - started
        self._not_before = self._read_at + took * (1 / pool.READING_PART - 1)

    async def _store_bypasses(self) -> None:
        if bypasses := dict(self._line.bypasses):
            self._line.bypasses.clear()
            await self._database.run_with_retry(expiry.variants_bypassed, bypasses)

    async def recall(self, free: Sequence[str]) -> None:
        """Take prompts back that another backend ends earlier; ``free`` are those without prompt and job."""
        self._note_allotments()
        for attempt_id in self._line.recalls(free, self._refused):
            if not await self._database.run_with_retry(moves.prompt_recall, attempt_id=attempt_id):
                self._refused.add(attempt_id)

    def _note_allotments(self) -> None:
        """Note since when a free backend does not take the jobs that the plan gives it."""
        moment = time.monotonic()
        kept = {
            pair: since
            for pair, since in self._allotted_since.items()
            if _OVERLOOKED_S < moment - since < _OVERLOOKED_S + _LEFT_OUT_S
        }
        idle = {pair: self._allotted_since.get(pair, moment) for pair in self._line.idle_allotments()}
        self._allotted_since = idle | kept

    @property
    def is_open(self) -> bool:
        return self._line.is_open

    def takers(self, free: Mapping[str, int]) -> list[str]:
        """Return which backends have a job to take: not more of them than there are jobs.

        ``free`` is the number of prompts of each backend that has a free slot.
        """
        # One that took none where one was counted lets others try: it may be the only one that cannot take that job.
        first = sorted(free, key=lambda name: (self._in_vain_at.get(name, 0.0), free[name], name))
        return self._line.takers((name, free[name]) for name in first)

    def choose(self, backend_id: str, *, prompts: int) -> PooledChoice | None:
        """Choose the variant of which a backend takes its next job, and count that job as sent.

        The backend has a free slot, and so many ``prompts`` of ours.
        """
        line = self._line
        variant = line.next_for(backend_id, prompts=prompts)
        if variant is None:
            return None
        line.take(variant, backend_id)
        return PooledChoice(variant=variant, has_rival=line.has_rival(variant, backend_id), line=line)

    def settle(self, chosen: PooledChoice, backend_id: str, result: ClaimResult) -> None:
        line, variant = chosen.line, chosen.variant
        if result.in_vain:
            line.note_in_vain(variant, backend_id)
            self._in_vain_at[backend_id] = time.monotonic()
            self._leftover.add(variant.variant_id)
        elif result.from_pool:
            # Jobs before it may have been bypassed.
            line.note_bypass(variant, backend_id)
        else:
            # Another one was older, or no slot was free.
            line.put_back(variant, backend_id)

    async def end_overdue(self) -> None:
        """Note which variants have no candidate, and end jobs that have waited too long."""
        self._refused.clear()
        unplaced = self._line.unplaced()
        if unplaced:
            await self._database.run_with_retry(expiry.pool_fail_refused, variant_ids=unplaced)
        marked = await self._database.run_with_retry(pool.unplaced_variants)
        placed = marked.keys() - unplaced
        if placed or unplaced - marked.keys():
            await self._database.run_with_retry(expiry.variants_mark, unplaced=unplaced - marked.keys(), placed=placed)
        moment = monotonic_now()
        due = moment - dt.timedelta(seconds=self._give_up_s)
        for variant_id in sorted(unplaced & marked.keys()):
            if marked[variant_id] <= due:
                await self._database.run_with_retry(
                    expiry.pool_give_up, variant_id=variant_id, limit_s=int(self._give_up_s)
                )
        while self._leftover:
            variant_id = self._leftover.pop()
            await self._database.run_with_retry(expiry.pool_fail_barred, variant_id=variant_id)
        limit = dt.timedelta(seconds=self._queued_limit_s)
        for variant_id in self._line.overdue(moment - limit):
            await self._database.run_with_retry(expiry.pool_expire, variant_id=variant_id, limit_s=self._queued_limit_s)
