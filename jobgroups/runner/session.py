"""One backend's session: its sockets, its claims, its attempts, what is seen of it.

A session lives as long as the runner holds the backend's lease. What happens to this backend delays
no other one: every session waits for its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.comfyui.answers import Queue, SystemStats
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.protocol import Event, Preview, Status, Text
from backends.comfyui.versions import keeps_prompt_id, supports_targeted_interrupt
from jobgroups import selectors
from jobgroups.errors import LeaseLost
from jobgroups.models import AbandonedPrompt
from jobgroups.runner.attempt import AttemptDriver, Course
from jobgroups.runner.courses import Courses
from jobgroups.runner.db import Database
from jobgroups.runner.leases import LeaseClock
from jobgroups.runner.previews import SessionPreviews
from jobgroups.runner.reporting import ChildReport, Reporter
from jobgroups.runner.timing import Timing
from jobgroups.services import attempts, claims, runners, waiting
from jobgroups.services.writing import Fence
from jobgroups.states import AttemptState

logger = logging.getLogger(__name__)

#: Marks a prompt as ours in ComfyUI's queue and history.
MARK: Final = "director"
#: A driver that meets a defect is started again this often before its child fails.
_MAX_DEFECTS: Final = 3
#: The longest pause before it is started again, in pauses.
_MOST_PAUSES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all sessions of a runner share."""

    database: Database
    reporter: Reporter
    timing: Timing
    lease_clock: LeaseClock
    #: Tells this installation's and process's sockets from all others'.
    instance: str
    depth: int
    give_up_s: float
    queued_limit_s: int
    max_answer_bytes: int


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """What a session was opened with; another address needs another session."""

    backend_id: str
    url: str
    headers: tuple[tuple[str, str], ...]


class BackendSession:
    """Drives one backend while its lease is ours."""

    def __init__(
        self, address: BackendAddress, fence: Fence, surroundings: Surroundings, *, enabled: bool
    ) -> None:
        self.backend_id = address.backend_id
        self.fence = fence
        self.database = surroundings.database
        self.timing = surroundings.timing
        self.client = ComfyClient(
            address.url,
            headers=dict(address.headers),
            max_answer_bytes=surroundings.max_answer_bytes,
            # A half-open socket must not hold up an orderly end, which has 5 s.
            timeouts=Timeouts(close_s=1.5),
        )
        self._around = surroundings
        self._enabled = enabled
        self._courses = Courses()
        self._drivers: dict[str, AttemptDriver] = {}
        self._previews = SessionPreviews(
            surroundings.reporter.hub,
            self.backend_id,
            lambda: ((one, driver.course) for one, driver in self._drivers.items()),
        )
        self._tasks: asyncio.TaskGroup
        self._wake = asyncio.Event()
        self._connections = 0
        #: The id of the main socket while it hears.
        self._client_id: str | None = None
        #: The same, until that socket is closed.
        self._main_id: str | None = None
        self._follows: set[str] = set()
        self._drop_socket = asyncio.Event()
        self._socket_lost_at = time.monotonic()
        self._status_at = 0.0
        self._replaced_at = float("-inf")
        self._queue_remaining = 0
        self._foreign = 0
        self._version: str | None = None
        #: Whether it has said which ComfyUI it is: some must not be given a prompt.
        self._is_known = False
        self._away_since: float | None = None
        self._away_reason = ""
        self._stuck_since: float | None = None
        self._interrupted_at = float("-inf")
        self._interrupted_prompt = ""

    # --- what drivers ask -------------------------------------------------------------------------

    @property
    def is_reachable(self) -> bool:
        """Whether the backend answered when it was last asked."""
        return self._away_since is None

    @property
    def may_change_backend(self) -> bool:
        """Whether the lease is ours beyond doubt, so that the backend may be told anything."""
        return self._around.lease_clock.half_is_left(self.fence)

    def mark(self, course: Course) -> dict[str, Any]:
        """Return the ``extra_data`` that marks a prompt as ours."""
        return {
            MARK: {
                "group": course.group_id,
                "job": course.child_id,
                "attempt": course.number,
            }
        }

    def child_report(self, course: Course) -> ChildReport:
        """Return where a driver reports its child's progress."""
        return ChildReport(
            self._around.reporter,
            group_id=course.group_id,
            child_id=course.child_id,
            fence=self.fence,
            attempt_id=course.attempt_id,
            number=course.number,
        )

    def rename(self, driver: AttemptDriver, prompt_id: str) -> None:
        """Hear a driver's prompt under another id: an old ComfyUI chose its own."""
        self._drivers.pop(driver.prompt_id, None)
        driver.prompt_id = prompt_id
        self._drivers[prompt_id] = driver

    def expect_status_since(self, sent_at: float) -> None:
        """Have the socket replaced if no status frame follows an accepted prompt: it is deaf."""
        self._tasks.create_task(self._check_deaf(sent_at), name=f"{self.backend_id}: deaf?")

    def not_reached(self, error: BackendError) -> None:
        """Take in that no connection could be made."""
        self._away(error.detail)

    def question_failed(self, error: BackendError) -> None:
        """Take in that a question was not answered; the observer finds out how bad it is."""
        logger.debug("%s did not answer: %s", self.backend_id, error)

    async def interrupt(self, driver: AttemptDriver) -> None:
        """Interrupt a prompt that was seen running, by its id.

        A ComfyUI below 0.3.57 ignores the id and stops whatever runs: it is never asked, and the
        prompt runs to its end.

        Raises:
            BackendError: the question was not answered.
        """
        await self._interrupt(driver.prompt_id)

    async def _interrupt(self, prompt_id: str) -> None:
        if not (supports_targeted_interrupt(self._version) and self.may_change_backend):
            return
        self._interrupted_at = time.monotonic()
        self._interrupted_prompt = prompt_id
        await self.client.interrupt(prompt_id)
        self._interrupted_at = time.monotonic()

    def interrupted_since(self, moment: float, driver: AttemptDriver) -> bool:
        """Whether an interrupt of ours, of another prompt, was sent at ``moment`` or later."""
        return self._interrupted_at >= moment and self._interrupted_prompt != driver.prompt_id

    async def stop_is_stored(self, attempt_id: int) -> bool:
        """Whether the stop of an attempt was asked for, by the rows."""
        return attempt_id in await self.database.store(selectors.stops_owed, self.backend_id)

    # --- what the runner tells --------------------------------------------------------------------

    def wake(self) -> None:
        """Look for work: something waits for this backend."""
        self._wake.set()

    def stop_attempts(self, attempt_ids: Iterable[int]) -> None:
        """Take in which attempts are to be stopped."""
        wanted = set(attempt_ids)
        for driver in self._drivers.values():
            if driver.course.attempt_id in wanted:
                driver.want_stop()

    def set_enabled(self, enabled: bool) -> None:
        """Take in that a person enabled or disabled the backend. What was sent goes on."""
        if self._enabled != enabled:
            self._enabled = enabled
            self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing of ours stands at the backend."""
        return not self._drivers

    # --- its course -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what stands at the backend, then drive it until cancelled.

        Raises:
            ExceptionGroup: with ``LeaseLost`` where another runner holds the backend now; or with a
                defect.
        """
        async with self.client, asyncio.TaskGroup() as self._tasks:
            await self._take_up()
            name = self.backend_id
            self._tasks.create_task(self._keep_socket(), name=f"{name}: socket")
            self._tasks.create_task(self._claim(), name=f"{name}: claim")
            self._tasks.create_task(self._observe(), name=f"{name}: observe")

    async def _take_up(self) -> None:
        for row in await self.database.store(selectors.active_attempts, self.backend_id):
            self._drive(self._courses.of_attempt(row))

    def _drive(self, course: Course) -> None:
        driver = AttemptDriver(self, course)
        self._drivers[driver.prompt_id] = driver
        self._tasks.create_task(self._bounded(driver), name=f"{self.backend_id}: {course.child_id}")
        # Also a fresh one: its socket may have broken while the claim was stored.
        self._follow(course.client_id)

    async def _bounded(self, driver: AttemptDriver) -> None:
        """Run a driver; a defect takes its attempt up again, the third one fails the child.

        Its attempt stays open while its prompt may stand there, and is tried again ever more rarely.
        """
        defects = 0
        current: AttemptDriver | None = driver
        while current is not None:
            error = await self._defect_of(current)
            if error is None:
                break
            defects += 1
            if defects == _MAX_DEFECTS:
                message = f"The Director failed at it ({type(error).__name__}); see its log."
                await self._break(current.course.attempt_id, message)
            await asyncio.sleep(self.timing.restart_pause * min(defects, _MOST_PAUSES))
            current = await self._taken_up_again(current.course.attempt_id)
        self._wake.set()

    async def _defect_of(self, driver: AttemptDriver) -> Exception | None:
        """Run a driver to its end and return the defect that ended it, if one did."""
        try:
            await driver.run()
        except LeaseLost:
            raise
        except Exception as error:
            logger.exception("%s: a defect at %s", self.backend_id, driver.prompt_id)
            return error
        finally:
            self._drivers.pop(driver.prompt_id, None)
        return None

    async def _taken_up_again(self, attempt_id: int) -> AttemptDriver | None:
        row = await self.database.store(selectors.attempt_loaded, attempt_id)
        if row.ended_at is not None:
            return None
        again = AttemptDriver(self, self._courses.of_attempt(row))
        self._drivers[again.prompt_id] = again
        self._follow(again.client_id)
        return again

    # --- claiming ---------------------------------------------------------------------------------

    async def _claim(self) -> None:
        """Claim and send while something waits and a place is free; else wait to be woken."""
        while True:
            if self._may_claim():
                await self._claim_all()
            try:
                async with asyncio.timeout(self.timing.safety_poll):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self._enabled:
                await self.database.store(waiting.children_of_disabled, fence=self.fence)

    def _may_claim(self) -> bool:
        return (
            self._enabled
            and self._is_known
            and keeps_prompt_id(self._version)
            and self._client_id is not None
            and self.is_reachable
            and self.may_change_backend
            and len(self._drivers) < self._around.depth
        )

    async def _claim_all(self) -> None:
        while self._may_claim():
            assert self._client_id is not None  # noqa: S101 see _may_claim
            claim = await self.database.store(
                claims.child_claim,
                fence=self.fence,
                client_id=self._client_id,
                depth=self._around.depth,
            )
            if claim is None:
                return
            try:
                self._drive(self._courses.of_claim(claim))
            except Exception as error:
                logger.exception("%s cannot be made ready", claim.child_id)
                await self._break(claim.attempt_id, f"Its workflow cannot be made ready: {error}")

    async def _break(self, attempt_id: int, message: str) -> None:
        await self.database.store(
            attempts.attempt_broken, attempt_id=attempt_id, fence=self.fence, message=message
        )

    # --- sockets ----------------------------------------------------------------------------------

    def _next_client_id(self) -> str:
        # New for each socket: a second socket with an id silences both (PROTOCOL section 2).
        self._connections += 1
        return f"director-{self._around.instance}-{self.fence.epoch}-{self._connections}"

    async def _keep_socket(self) -> None:
        """Keep a main socket open; each has an id of its own, kept on the attempts it hears."""
        pause = self.timing.reconnect_first
        while True:
            client_id = self._main_id = self._next_client_id()
            try:
                async with self.client.events(client_id, previews=True) as socket:
                    socket.wants_previews = self._previews.are_wanted
                    pause = self.timing.reconnect_first
                    await self._hear_main(client_id, socket)
            except BackendError as error:
                self._away(error.detail)
            finally:
                self._client_id = self._main_id = None
                self._socket_lost_at = (
                    time.monotonic()
                    if pause == self.timing.reconnect_first
                    else self._socket_lost_at
                )
            for old in {driver.client_id for driver in self._drivers.values()}:
                self._follow(old)
            for driver in self._drivers.values():
                driver.look_now()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 jitter
            pause = min(pause * 2, self.timing.reconnect_most)

    async def _hear_main(self, client_id: str, socket: Any) -> None:
        """Read the main socket until it is lost, or until it is to be replaced."""
        self._drop_socket.clear()
        closer = self._tasks.create_task(self._close_when_dropped(socket))
        try:
            async for event in socket:
                if self._client_id is None and isinstance(event, Status):
                    self._client_id = client_id
                    self._back()
                self._hear(event)
        finally:
            closer.cancel()

    async def _close_when_dropped(self, socket: Any) -> None:
        await self._drop_socket.wait()
        self._client_id = None
        await socket.close()

    def _follow(self, client_id: str) -> None:
        """Hear what is still sent to an older socket's id, until none of its attempts is active."""
        if client_id != self._main_id and client_id not in self._follows:
            self._follows.add(client_id)
            self._tasks.create_task(
                self._keep_follow(client_id), name=f"{self.backend_id}: follow {client_id}"
            )

    async def _keep_follow(self, client_id: str) -> None:
        try:
            while self._is_followed(client_id):
                try:
                    async with self.client.events(client_id, previews=True) as socket:
                        socket.wants_previews = self._previews.are_wanted
                        await self._hear_follow(client_id, socket)
                except BackendError as error:
                    logger.debug("%s: follow socket: %s", self.backend_id, error)
                await asyncio.sleep(self.timing.reconnect_most)
        finally:
            self._follows.discard(client_id)

    async def _hear_follow(self, client_id: str, socket: Any) -> None:
        closer = self._tasks.create_task(self._close_when_done(client_id, socket))
        try:
            async for event in socket:
                # Status frames come to every socket: the main one tells.
                if not isinstance(event, Status):
                    self._hear(event)
        finally:
            closer.cancel()

    async def _close_when_done(self, client_id: str, socket: Any) -> None:
        while self._is_followed(client_id):  # noqa: ASYNC110 nothing waits for it: a slow look will do
            await asyncio.sleep(self.timing.stop_wait)
        await socket.close()

    def _is_followed(self, client_id: str) -> bool:
        return any(driver.client_id == client_id for driver in self._drivers.values())

    def _hear(self, event: Event) -> None:
        """Hand an event to the prompt it belongs to. Never waits: an unread socket stalls them all."""
        if isinstance(event, Status):
            self._status_at = time.monotonic()
            self._queue_remaining = event.queue_remaining
            return
        if isinstance(event, Preview):
            self._previews.show(event)
            return
        if isinstance(event, Text):
            return
        self._previews.note(event)
        prompt_id = getattr(event, "prompt_id", None)
        driver = self._drivers.get(prompt_id or "")
        if driver is not None:
            driver.hear(event)

    async def _check_deaf(self, sent_at: float) -> None:
        await asyncio.sleep(self.timing.deaf_after)
        moment = time.monotonic()
        if (
            self._client_id is not None
            and self._status_at < sent_at
            and moment - self._replaced_at >= self.timing.replace_every
        ):
            logger.warning("%s: the event socket is deaf; it is replaced.", self.backend_id)
            self._replaced_at = moment
            self._drop_socket.set()

    # --- what is seen of it -----------------------------------------------------------------------

    def _away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.warning("%s is not reachable: %s", self.backend_id, reason)
        self._away_reason = reason

    def _back(self) -> None:
        """The main socket stands: the backend is there."""
        if self._away_since is not None:
            logger.info("%s is back.", self.backend_id)
        self._away_since = None
        self._look_and_claim()

    def _look_and_claim(self) -> None:
        for driver in self._drivers.values():
            driver.look_now()
        self._wake.set()

    async def _observe(self) -> None:
        """Look at the backend every few seconds, and store what was seen."""
        facts_at = float("-inf")
        while True:
            stats = None
            try:
                if time.monotonic() - facts_at >= self.timing.facts or self._version is None:
                    stats = await self.client.system_stats()
                    self._version, facts_at = stats.version, time.monotonic()
                    self._is_known = True
                    self._wake.set()
                self._queue_remaining = await self.client.queue_remaining()
                await self._look_for_a_dead_worker()
                await self._meet_abandoned()
            except AnswerTooLarge as error:
                # Its queue is longer than we read: it is there, and answers.
                self.question_failed(error)
                self._answered()
                await self._store_seen(stats, heard=True)
            except BackendError as error:
                self._away(error.detail)
                await self._store_seen(None, heard=False)
            else:
                self._answered()
                await self._store_seen(stats, heard=True)
            await self._give_up_waiting()
            await asyncio.sleep(self.timing.observe)

    def _answered(self) -> None:
        stuck = self._stuck_for()
        if not keeps_prompt_id(self._version):
            self._away(
                f"ComfyUI {self._version} is too old to be driven safely; update it to 0.3.45"
            )
        elif stuck is not None and stuck >= self.timing.stuck_after:
            self._away(f"prompts have been pending for {stuck:.0f} s and nothing runs; restart it")
        elif self._client_id is None:
            if time.monotonic() - self._socket_lost_at >= self.timing.suspect_after:
                self._away("it answers, but its event socket does not open")
        elif self._away_since is not None:
            if time.monotonic() - self._away_since >= self.timing.suspect_after:
                # After so long the socket may be half-open: it would stay silent for ever.
                self._drop_socket.set()
            self._away_since = None
            self._look_and_claim()

    def _stuck_for(self) -> float | None:
        return None if self._stuck_since is None else time.monotonic() - self._stuck_since

    async def _look_for_a_dead_worker(self) -> None:
        """Note since when prompts are pending and nothing runs (PROTOCOL trap 1)."""
        pending = any(driver.is_pending for driver in self._drivers.values())
        running = any(not driver.is_pending for driver in self._drivers.values())
        if not pending or (running and self._stuck_since is None):
            self._stuck_since = None
            return
        queue = await self.client.queue()
        if queue.pending and not queue.running:
            self._stuck_since = self._stuck_since or time.monotonic()
        else:
            self._stuck_since = None

    async def _store_seen(self, stats: SystemStats | None, *, heard: bool) -> None:
        stuck = self._stuck_for()
        reason = self._away_reason if self._away_since is not None else ""
        if not reason and stuck is not None and stuck >= self.timing.suspect_after:
            reason = f"suspected: prompts pending for {stuck:.0f} s and nothing runs"
        running, pending, foreign = self._queue_split()
        seen: dict[str, Any] = {
            "reachable": self._away_since is None,
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
        await self.database.store(runners.backend_seen, fence=self.fence, **seen)

    def _queue_split(self) -> tuple[int, int, int]:
        """Return what runs there, what waits there, and what of both is not ours."""
        states = [driver.state for driver in self._drivers.values()]
        ours = sum(state in (AttemptState.ACCEPTED, AttemptState.RUNNING) for state in states)
        others = max(self._queue_remaining - ours, 0)
        if any(state in (AttemptState.INTENT, AttemptState.UNCERTAIN) for state in states):
            # One of ours may or may not be among them: what was known before still holds.
            others = min(others, self._foreign)
        self._foreign = others
        return min(self._queue_remaining, 1), max(self._queue_remaining - 1, 0), others

    async def _give_up_waiting(self) -> None:
        """End the children that wait too long: for a backend that is away, or for a day."""
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            if away >= self._around.give_up_s:
                await self.database.store(
                    waiting.children_give_up,
                    fence=self.fence,
                    away_s=away,
                    reason=self._away_reason,
                )
        await self.database.store(
            waiting.children_waited_too_long,
            fence=self.fence,
            limit_s=self._around.queued_limit_s,
        )

    # --- the abandoned list -----------------------------------------------------------------------

    async def _meet_abandoned(self) -> None:
        """Remove or adopt prompts of closed attempts that turned up after all."""
        listed = await self.database.store(selectors.abandoned_prompts, self.backend_id)
        if not listed:
            return
        queue = await self.client.queue()
        for abandoned in listed:
            await self._meet(abandoned, queue)

    async def _meet(self, abandoned: AbandonedPrompt, queue: Queue) -> None:
        prompt_id = abandoned.prompt_id
        if any(item.prompt_id == prompt_id for item in queue.running):
            await self._met_running(abandoned)
        elif any(item.prompt_id == prompt_id for item in queue.pending):
            if self.may_change_backend:
                await self.client.delete_pending([prompt_id])
        elif await self.client.history(prompt_id) is not None:
            # It ended while nobody looked: a driver stores its end.
            await self._drive_abandoned(abandoned.attempt_id)
        else:
            await self.database.store(
                attempts.abandoned_forget_old, attempt_id=abandoned.attempt_id, fence=self.fence
            )

    async def _met_running(self, abandoned: AbandonedPrompt) -> None:
        adopted = await self.database.store(
            attempts.abandoned_met, attempt_id=abandoned.attempt_id, fence=self.fence, running=True
        )
        if adopted:
            await self._drive_abandoned(abandoned.attempt_id)
        else:
            await self._interrupt(abandoned.prompt_id)

    async def _drive_abandoned(self, attempt_id: int) -> None:
        row = await self.database.store(selectors.attempt_loaded, attempt_id)
        if row.prompt_id not in self._drivers:
            self._drive(self._courses.of_attempt(row))


def address_of(row: Mapping[str, Any]) -> BackendAddress:
    """Return a backend's address out of its row's values."""
    return BackendAddress(row["id"], row["url"], tuple(sorted(row["headers"].items())))
