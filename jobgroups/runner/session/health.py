"""What is seen of a session's backend: whether it is there and fit, and what stands in its queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from backends.comfyui.answers import Queue, SystemStats
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.versions import keeps_prompt_id
from backends.states import LEFT_RUNNING
from jobgroups.domain.states import AttemptState
from jobgroups.models import AbandonedPrompt
from jobgroups.queries import work
from jobgroups.services import attempts, backends

if TYPE_CHECKING:
    from jobgroups.runner.session.session import BackendSession

logger = logging.getLogger(__name__)

#: Answers that may exceed the limit at a backend that works: they contain whole workflows.
_MAY_BE_LONG: Final = ("/queue", "/history/")


class HealthProbe:
    """Looks at one session's backend every few seconds, and stores what was seen."""

    def __init__(self, session: BackendSession) -> None:
        self._session = session
        self._intervals = session.intervals
        #: Prompts that stand there, whoever's, as it last said.
        self.queue_remaining = 0
        self.version: str | None = None
        #: Whether it has said which ComfyUI it is: some must not be given a prompt.
        self.is_known = False
        self.away_reason = ""
        #: Whether the last requests failed, or the backend is unfit: an event socket alone proves nothing.
        self._requests_fail = False
        #: Set when the next probe is due at once.
        self._probe_now = asyncio.Event()
        #: Whether it answers and executes nothing all the same.
        self.is_unfit = False
        #: Since when it answers no query at all, by the monotonic clock; None while it answers.
        self._offline_since: float | None = None
        #: What was stored last, and when.
        self._stored: dict[str, Any] | None = None
        self._stored_at = float("-inf")
        self._foreign = 0
        self._stuck_since: float | None = None
        #: Since when each prompt that is to be stopped is seen to run on, by its id.
        self._hanging: dict[str, float] = {}

    @property
    def unavailable_since(self) -> float | None:
        """Since when it is away or unfit, by the monotonic clock; None while it can take work.

        The clock continues across the sessions of this runner: one that fails every second must not
        restart it.
        """
        return self._session.context.away.get(self._session.backend_id)

    @unavailable_since.setter
    def unavailable_since(self, moment: float | None) -> None:
        away = self._session.context.away
        if moment is None:
            away.pop(self._session.backend_id, None)
        else:
            away[self._session.backend_id] = moment

    def connection_failed(self, reason: str) -> None:
        """Take in that a connection failed: the backend is away until a new one succeeds."""
        self._requests_fail = True
        self.mark_unavailable(reason)

    def socket_lost(self, reason: str) -> None:
        """Take in that the main socket is lost; what is wrong with requests stays the reason."""
        if self.unavailable_since is None or not self._requests_fail:
            self.mark_unavailable(reason)

    def mark_unavailable(self, reason: str) -> None:
        """Take in that it cannot take work, and why, as a clause."""
        if self.unavailable_since is None:
            self.unavailable_since = time.monotonic()
            logger.warning("%s is not reachable: %s", self._session.backend_id, reason)
        self.away_reason = reason

    def mark_available(self) -> None:
        """The main socket stands: the backend is there, unless its requests fail."""
        if self._requests_fail:
            self._probe_now.set()
            return
        if self.unavailable_since is not None:
            logger.info("%s is back.", self._session.backend_id)
        self.unavailable_since = self._offline_since = None
        self._session.resync()

    def unavailable_for(self) -> float | None:
        """Return for how many seconds it has been away, None while it is there."""
        return None if self.unavailable_since is None else time.monotonic() - self.unavailable_since

    def offline_for(self) -> float | None:
        """Return for how many seconds nothing came from it, neither an answer nor a frame; else None.

        A backend that is away may answer all the same: it is unfit, or its event socket does not open. Its
        prompts are followed then.
        """
        since = self._offline_since
        if since is None or self._session.sockets.last_frame_at > since:
            return None
        return time.monotonic() - since

    # --- looking ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        facts_at = float("-inf")
        client = self._session.client
        while True:
            stats, failure = None, None
            self._probe_now.clear()
            try:
                if (
                    time.monotonic() - facts_at >= self._intervals.system_stats
                    or self.version is None
                ):
                    stats = await client.system_stats()
                    self.version, facts_at = stats.version, time.monotonic()
                    self.is_known = True
                    self._session.notify()
                away = self.unavailable_since is not None
                if away or not self._session.sockets.is_active:
                    # A kept connection may work long after new ones are refused, and prompts need those.
                    self.queue_remaining = await client.queue_remaining(new_connection=away)
                await self._check_worker()
                await self._reconcile_abandoned()
            except BackendError as error:
                self._session.request_failed(error)
                # A queue longer than the limit: the backend is there, and answers.
                if not (isinstance(error, AnswerTooLarge) and error.path.startswith(_MAY_BE_LONG)):
                    failure = error
            if failure is None:
                self._answered()
                await self._store_seen(stats, heard=True)
            else:
                self._failed(failure)
                await self._store_seen(None, heard=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._intervals.probe):
                    await self._probe_now.wait()

    def _failed(self, error: BackendError) -> None:
        self._hanging.clear()
        for driver in self._session.drivers.values():
            # Its look-ups failed with everything else, which says nothing of them.
            driver.unanswered_since = None
        self.is_unfit = False
        if isinstance(error, AnswerTooLarge):
            self._offline_since = None
        elif self.offline_for() is None:
            self._offline_since = time.monotonic()
        self.connection_failed(error.detail)

    def _answered(self) -> None:
        self._offline_since = None
        sockets = self._session.sockets
        unfit = self._failing_condition()
        self.is_unfit = self._requests_fail = unfit is not None
        if unfit is not None:
            self.mark_unavailable(unfit)
        elif sockets.client_id is None:
            if time.monotonic() - sockets.lost_at >= self._intervals.suspect_after:
                self.mark_unavailable("it answers, but its event socket does not open")
        elif (away := self.unavailable_for()) is not None:
            if away >= self._intervals.suspect_after:
                # After so long the socket may be half-open: it would stay silent for ever.
                sockets.replace()
            self.unavailable_since = None
            self._session.resync()

    def _failing_condition(self) -> str | None:
        """Return why a backend that answers can take no work all the same, as a clause."""
        if not keeps_prompt_id(self.version):
            return f"ComfyUI {self.version} is too old to be driven safely; update it to 0.3.45"
        stuck, hanging = self._stuck_for(), self._hanging_for()
        if stuck is not None and stuck >= self._intervals.stuck_after:
            return f"prompts have been pending for {stuck:.0f} s and nothing runs; restart it"
        if hanging is not None:
            return f"its prompt was to be stopped {hanging:.0f} s ago and goes on; restart it if it hangs"
        if len(self._session.broken) >= self._session.context.depth:
            return "unexpected errors keep every prompt there from being followed; see the Director's log"
        return self._look_ups_fail()

    def _look_ups_fail(self) -> str | None:
        """Return what is wrong with a backend that answers probes, but no look-up of a prompt."""
        moment = time.monotonic()
        for driver in self._session.drivers.values():
            since = driver.unanswered_since
            if since is not None and moment - since >= self._intervals.stuck_after:
                why = driver.unanswered_reason.rstrip(".")
                return f"no look-up of a prompt has succeeded for {moment - since:.0f} s: {why}"
        return None

    def _stuck_for(self) -> float | None:
        return None if self._stuck_since is None else time.monotonic() - self._stuck_since

    def _hanging_for(self) -> float | None:
        """Return for how long a prompt of ours runs on although it is to stop; None: for no longer than it may.

        A worker that died in the middle of a prompt looks like one that renders for long, until it
        is to stop: its queue says "running" for ever. One that is left running may take another of its
        group's time limits for the rest of a render.
        """
        moment = time.monotonic()
        stopping = [
            driver
            for driver in self._session.drivers.values()
            if driver.stop_pending and driver.state is AttemptState.RUNNING
        ]
        self._hanging = {
            driver.prompt_id: self._hanging.get(driver.prompt_id, moment) for driver in stopping
        }
        for driver in stopping:
            may_take = self._intervals.stuck_after
            if driver.left_running:
                may_take = max(may_take, driver.spec.timeout_s)
            if (lasts := moment - self._hanging[driver.prompt_id]) >= may_take:
                return lasts
        return None

    async def _check_worker(self) -> None:
        """Note since when prompts are pending and nothing runs (comfyui-protocol.md, trap 1)."""
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
        reason = self.away_reason if self.unavailable_since is not None else ""
        if not reason and stuck is not None and stuck >= self._intervals.suspect_after:
            reason = f"suspected: prompts pending for {stuck:.0f} s and nothing runs"
        if not reason and (why := self._session.left_running):
            reason = f"{LEFT_RUNNING}{why}"
        running, pending, foreign = self._queue_split()
        seen: dict[str, Any] = {
            "reachable": self.unavailable_since is None,
            # One that answers and is not fit was heard: nobody needs to ask it again.
            "responded": heard,
            "reason": reason,
            "queue_running": running,
            "queue_pending": pending,
            "queue_foreign": foreign,
        }
        if stats is not None:
            seen["version"] = stats.version or ""
            seen["devices"] = [device.to_json() for device in stats.devices]
        moment = time.monotonic()
        if (
            seen == self._stored
            and moment - self._stored_at < self._intervals.store_unchanged_after
        ):
            # The same as a moment ago: a farm's idle backends need not cost a synced write each look.
            return
        session = self._session
        await session.database.run_with_retry(
            backends.backend_observed, fence=session.fence, **seen
        )
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

    async def _reconcile_abandoned(self) -> None:
        """Remove or adopt prompts of closed attempts that turned up after all."""
        session = self._session
        listed = await session.database.run_with_retry(work.abandoned_prompts, session.backend_id)
        if not listed:
            return
        queue = await session.client.queue()
        for abandoned in listed:
            await self._reconcile(abandoned, queue)

    async def _reconcile(self, abandoned: AbandonedPrompt, queue: Queue) -> None:
        prompt_id = abandoned.prompt_id
        session = self._session
        if any(item.prompt_id == prompt_id for item in queue.running):
            await self._adopt_or_interrupt(abandoned)
        elif any(item.prompt_id == prompt_id for item in queue.pending):
            if session.lease_is_fresh:
                await session.client.delete_pending([prompt_id])
        elif await session.client.history(prompt_id) is not None:
            # It ended while nobody looked: a driver stores its end.
            await self._drive_abandoned(abandoned.attempt_id)
        else:
            await session.database.run_with_retry(
                attempts.abandoned_prompt_expire,
                attempt_id=abandoned.attempt_id,
                fence=session.fence,
            )

    async def _adopt_or_interrupt(self, abandoned: AbandonedPrompt) -> None:
        session = self._session
        adopted = await session.database.run_with_retry(
            attempts.abandoned_prompt_found,
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
        row = await session.database.run_with_retry(work.attempt_with_group, attempt_id)
        if row.prompt_id not in session.drivers:
            session.start_attempt(session.specs.from_row(row))
