"""What is seen of a session's backend: whether it is there and fit, and what stands in its queue."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from backends.comfyui.answers import Queue, SystemStats
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.versions import keeps_prompt_id
from jobgroups import selectors
from jobgroups.models import AbandonedPrompt
from jobgroups.services import attempts, runners
from jobgroups.states import AttemptState

if TYPE_CHECKING:
    from jobgroups.runner.session import BackendSession

logger = logging.getLogger(__name__)


class Observer:
    """Looks at one session's backend every few seconds, and stores what was seen."""

    def __init__(self, session: BackendSession) -> None:
        self._session = session
        self._timing = session.timing
        #: Prompts that stand there, whoever's, as it last said.
        self.queue_remaining = 0
        self.version: str | None = None
        #: Whether it has said which ComfyUI it is: some must not be given a prompt.
        self.is_known = False
        #: Since when it is away or unfit, by the monotonic clock; None while it can take work.
        self.away_since: float | None = None
        self.away_reason = ""
        #: Whether it answers and executes nothing all the same.
        self.is_unfit = False
        #: What was stored last, and when.
        self._stored: dict[str, Any] | None = None
        self._stored_at = float("-inf")
        self._foreign = 0
        self._stuck_since: float | None = None
        #: Since when each prompt that is to be stopped is seen to run on, by its id.
        self._hanging: dict[str, float] = {}

    def away(self, reason: str) -> None:
        """Take in that it cannot take work, and why, as a clause."""
        if self.away_since is None:
            self.away_since = time.monotonic()
            logger.warning("%s is not reachable: %s", self._session.backend_id, reason)
        self.away_reason = reason

    def back(self) -> None:
        """The main socket stands: the backend is there."""
        if self.away_since is not None:
            logger.info("%s is back.", self._session.backend_id)
        self.away_since = None
        self._session.look_and_claim()

    def away_for(self) -> float | None:
        """Return for how many seconds it has been away, None while it is there."""
        return None if self.away_since is None else time.monotonic() - self.away_since

    # --- looking ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        facts_at = float("-inf")
        client = self._session.client
        while True:
            stats = None
            try:
                if time.monotonic() - facts_at >= self._timing.facts or self.version is None:
                    stats = await client.system_stats()
                    self.version, facts_at = stats.version, time.monotonic()
                    self.is_known = True
                    self._session.wake()
                if self.away_since is not None or not self._session.sockets.is_speaking:
                    self.queue_remaining = await client.queue_remaining()
                await self._look_for_a_dead_worker()
                await self._meet_abandoned()
            except AnswerTooLarge as error:
                # Its queue is longer than we read: it is there, and answers.
                self._session.question_failed(error)
                self._answered()
                await self._store_seen(stats, heard=True)
            except BackendError as error:
                self._hanging.clear()
                self.is_unfit = False
                self.away(error.detail)
                await self._store_seen(None, heard=False)
            else:
                self._answered()
                await self._store_seen(stats, heard=True)
            await asyncio.sleep(self._timing.observe)

    def _answered(self) -> None:
        sockets = self._session.sockets
        unfit = self._unfit()
        self.is_unfit = unfit is not None
        if unfit is not None:
            self.away(unfit)
        elif sockets.client_id is None:
            if time.monotonic() - sockets.lost_at >= self._timing.suspect_after:
                self.away("it answers, but its event socket does not open")
        elif (away := self.away_for()) is not None:
            if away >= self._timing.suspect_after:
                # After so long the socket may be half-open: it would stay silent for ever.
                sockets.replace()
            self.away_since = None
            self._session.look_and_claim()

    def _unfit(self) -> str | None:
        """Return why a backend that answers can take no work all the same, as a clause."""
        if not keeps_prompt_id(self.version):
            return f"ComfyUI {self.version} is too old to be driven safely; update it to 0.3.45"
        stuck, hanging = self._stuck_for(), self._hanging_for()
        if stuck is not None and stuck >= self._timing.stuck_after:
            return f"prompts have been pending for {stuck:.0f} s and nothing runs; restart it"
        if hanging >= self._timing.stuck_after:
            return f"its prompt was to be stopped {hanging:.0f} s ago and goes on; restart it if it hangs"
        return None

    def _stuck_for(self) -> float | None:
        return None if self._stuck_since is None else time.monotonic() - self._stuck_since

    def _hanging_for(self) -> float:
        """Return for how long a prompt of ours runs on although it is told to stop.

        A worker that died in the middle of a prompt looks like one that renders for long, until it
        is to stop: its queue says "running" for ever. An old ComfyUI is never told.
        """
        if not self._session.can_interrupt:
            return 0.0
        moment = time.monotonic()
        self._hanging = {
            driver.prompt_id: self._hanging.get(driver.prompt_id, moment)
            for driver in self._session.drivers.values()
            if driver.stop_owed and driver.state is AttemptState.RUNNING
        }
        return max((moment - since for since in self._hanging.values()), default=0.0)

    async def _look_for_a_dead_worker(self) -> None:
        """Note since when prompts are pending and nothing runs (PROTOCOL trap 1)."""
        drivers = self._session.drivers.values()
        pending = any(driver.is_pending for driver in drivers)
        running = any(not driver.is_pending for driver in drivers)
        if not pending or (running and self._stuck_since is None):
            self._stuck_since = None
            return
        queue = await self._session.client.queue()
        if queue.pending and not queue.running:
            self._stuck_since = self._stuck_since or time.monotonic()
        else:
            self._stuck_since = None

    # --- storing ----------------------------------------------------------------------------------

    async def _store_seen(self, stats: SystemStats | None, *, heard: bool) -> None:
        stuck = self._stuck_for()
        reason = self.away_reason if self.away_since is not None else ""
        if not reason and stuck is not None and stuck >= self._timing.suspect_after:
            reason = f"suspected: prompts pending for {stuck:.0f} s and nothing runs"
        running, pending, foreign = self._queue_split()
        seen: dict[str, Any] = {
            "reachable": self.away_since is None,
            # One that answers and is not fit was heard: nobody needs to ask it again.
            "heard": heard,
            "reason": reason,
            "queue_running": running,
            "queue_pending": pending,
            "queue_foreign": foreign,
        }
        if stats is not None:
            seen["version"] = stats.version or ""
            seen["devices"] = [
                {"name": one.name, "vram_total": one.vram_total, "vram_free": one.vram_free}
                for one in stats.devices
            ]
        moment = time.monotonic()
        if seen == self._stored and moment - self._stored_at < self._timing.say_again:
            # The same as a moment ago: a farm's idle backends need not cost a synced write each look.
            return
        session = self._session
        await session.database.store(runners.backend_seen, fence=session.fence, **seen)
        self._stored, self._stored_at = seen, moment

    def _queue_split(self) -> tuple[int, int, int]:
        """Return what runs there, what waits there, and what of both is not ours."""
        states = [driver.state for driver in self._session.drivers.values()]
        ours = sum(state in (AttemptState.ACCEPTED, AttemptState.RUNNING) for state in states)
        others = max(self.queue_remaining - ours, 0)
        if any(state in (AttemptState.INTENT, AttemptState.UNCERTAIN) for state in states):
            # One of ours may or may not be among them: what was known before still holds.
            others = min(others, self._foreign)
        self._foreign = others
        return min(self.queue_remaining, 1), max(self.queue_remaining - 1, 0), others

    # --- the abandoned list -----------------------------------------------------------------------

    async def _meet_abandoned(self) -> None:
        """Remove or adopt prompts of closed attempts that turned up after all."""
        session = self._session
        listed = await session.database.store(selectors.abandoned_prompts, session.backend_id)
        if not listed:
            return
        queue = await session.client.queue()
        for abandoned in listed:
            await self._meet(abandoned, queue)

    async def _meet(self, abandoned: AbandonedPrompt, queue: Queue) -> None:
        prompt_id = abandoned.prompt_id
        session = self._session
        if any(item.prompt_id == prompt_id for item in queue.running):
            await self._met_running(abandoned)
        elif any(item.prompt_id == prompt_id for item in queue.pending):
            if session.may_change_backend:
                await session.client.delete_pending([prompt_id])
        elif await session.client.history(prompt_id) is not None:
            # It ended while nobody looked: a driver stores its end.
            await self._drive_abandoned(abandoned.attempt_id)
        else:
            await session.database.store(
                attempts.abandoned_forget_old, attempt_id=abandoned.attempt_id, fence=session.fence
            )

    async def _met_running(self, abandoned: AbandonedPrompt) -> None:
        session = self._session
        adopted = await session.database.store(
            attempts.abandoned_met,
            attempt_id=abandoned.attempt_id,
            fence=session.fence,
            running=True,
        )
        if adopted:
            await self._drive_abandoned(abandoned.attempt_id)
        else:
            await session.interrupt_prompt(abandoned.prompt_id)

    async def _drive_abandoned(self, attempt_id: int) -> None:
        session = self._session
        row = await session.database.store(selectors.attempt_loaded, attempt_id)
        if row.prompt_id not in session.drivers:
            session.drive(session.courses.of_attempt(row))
