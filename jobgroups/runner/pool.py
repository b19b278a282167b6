"""The pool in a runner: reads its queue, and stores what the schedule decides."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from typing import Final

from django.conf import settings

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import monotonic_now
from jobgroups.domain.pool import PoolBackend
from jobgroups.domain.schedule import Backlog, Choice, Schedule
from jobgroups.queries import pool
from jobgroups.services import expiry, moves, shares
from jobgroups.services.claims import ClaimResult

_OLD_EVERY: Final = 60.0  #: Seconds between two ends by age; less if the limit is short.
#: Seconds between two readings while a backend found no job where one is counted.
_LEFTOVER_POLL: Final = 1.0


class Pool:
    """Reads the queue, has jobs chosen for sessions with a free slot, and ends jobs that no backend
    can take.

    Jobs without any candidate fail after ``give_up_s``, queued jobs time out after
    ``queued_limit_s``.
    """

    def __init__(self, database: DatabaseThreads, *, give_up_s: float, queued_limit_s: int) -> None:
        self._run = database.run_with_retry
        self._give_up_s = give_up_s
        self._queued_limit_s = queued_limit_s
        self.schedule = Schedule()
        self._backends: Sequence[PoolBackend] = ()
        self.is_stale = True  #: Whether the database may have another queue.
        self._expired_at = float("-inf")  #: Monotonic: when jobs were last ended by age.
        #: Monotonic: the queue is not read again before, and when it was read.
        self._not_before = self._read_at = float("-inf")

    async def read_backends(self) -> None:
        """Read the backends; the next :meth:`refresh` uses them."""
        self._backends = await self._run(pool.pool_backends)

    @property
    def next_reading_in(self) -> float:
        """Seconds until the queue is to be read again, unless a notification comes before."""
        due_at = float("inf")
        if self.schedule.backlog.has_leftover:
            due_at = self._read_at + _LEFTOVER_POLL
        # A pause ends, or a group may start.
        due_at = min(due_at, self._read_at + self.schedule.snapshot.due_in)
        if self.is_stale:
            due_at = self._not_before
        return max(due_at - time.monotonic(), 0.0)

    async def refresh(self) -> None:
        """Read the queue if it is stale or has leftovers, unless it was read a moment ago."""
        started = time.monotonic()
        if self.next_reading_in > 0:
            return
        self.is_stale = False
        if bypasses := dict(self.schedule.bypasses):
            self.schedule.bypasses.clear()
            await self._run(expiry.variants_bypassed, bypasses)
        overlooked = self.schedule.overlooked(started)
        # To plan a long queue takes as long as to read it: both are done in the thread.
        backlog = await self._run(lambda: Backlog(pool.pool_snapshot(self._backends), overlooked))
        self.schedule.renew(backlog)
        self._read_at = time.monotonic()
        took = self._read_at - started
        self._not_before = self._read_at + took * (1 / pool.READING_PART - 1)
        await self._recall(self.schedule.paused(), is_paused=True)

    async def recall(self, free: Sequence[str]) -> None:
        """Take prompts back that another backend ends earlier; ``free`` are those without prompt
        and job.
        """
        await self._recall(self.schedule.recalls(free), is_paused=False)

    async def _recall(self, attempt_ids: Iterable[int], *, is_paused: bool) -> None:
        for attempt_id in attempt_ids:
            if not await self._run(moves.prompt_recall, attempt_id=attempt_id, is_paused=is_paused):
                self.schedule.refused.add(attempt_id)

    def settle(self, backend_id: str, choice: Choice | None, result: ClaimResult) -> None:
        """Count what a backend has claimed."""
        if result.claim is not None and not result.from_pool:
            self.schedule.backlog.count_bound(backend_id, result.claim.child.group_id)
        if choice is None:
            return
        if result.in_vain:
            self.schedule.note_in_vain(choice, time.monotonic())
        elif result.from_pool:
            self.schedule.confirm(choice)
        else:
            self.schedule.put_back(choice)

    async def _mark_waiting(self) -> None:
        """Store since when the groups wait whose levels rise."""
        waiting, served = self.schedule.snapshot.waiting_changes
        if settings.DIRECTOR_AGING_MINUTES and (waiting or served):
            await self._run(shares.groups_mark_waiting, waiting=waiting, served=served)

    async def end_overdue(self) -> None:
        """Note which variants have no candidate, and end jobs that have waited too long."""
        self.schedule.refused.clear()
        await self._run(shares.uses_count)
        await self._mark_waiting()
        unplaced = self.schedule.snapshot.unplaced()
        if unplaced:
            await self._run(expiry.pool_fail_refused, variant_ids=unplaced)
        marked = await self._run(pool.unplaced_variants)
        placed = marked.keys() - unplaced
        if placed or unplaced - marked.keys():
            await self._run(expiry.variants_mark, unplaced=unplaced - marked.keys(), placed=placed)
        moment = monotonic_now()
        due = moment - dt.timedelta(seconds=self._give_up_s)
        for variant_id in sorted(unplaced & marked.keys()):
            if marked[variant_id] <= due:
                await self._run(
                    expiry.pool_give_up, variant_id=variant_id, limit_s=int(self._give_up_s)
                )
        while self.schedule.leftover:
            variant_id = self.schedule.leftover.pop()
            await self._run(expiry.pool_fail_barred, variant_id=variant_id)
        limit = dt.timedelta(seconds=self._queued_limit_s)
        if time.monotonic() < self._expired_at + min(_OLD_EVERY, self._queued_limit_s / 100):
            return
        self._expired_at = time.monotonic()
        for variant_id in self.schedule.snapshot.overdue(moment - limit):
            await self._run(expiry.pool_expire, variant_id=variant_id, limit_s=self._queued_limit_s)
