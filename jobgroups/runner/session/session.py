"""One backend's session: what drives it while its lease is ours.

A session lives as long as the runner holds the backend's lease. What happens to this backend delays
no other one: every session waits for its own. Its parts each have a task of their own: the sockets
hear, the observer looks, the claimer sends, the reconciler does what was said of the backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.protocol import Event, Preview, Status, Text
from backends.comfyui.texts import one_line
from backends.comfyui.versions import supports_targeted_interrupt
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.errors import LeaseLost
from jobgroups.queries import work
from jobgroups.runner.attempt.driver import AttemptDriver, AttemptSpec
from jobgroups.runner.attempt.spec import AttemptSpecs
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.lease_clock import LeaseClock
from jobgroups.runner.progress import ProgressReporter, ProgressWriter
from jobgroups.runner.session.claimer import Claimer
from jobgroups.runner.session.health import HealthProbe
from jobgroups.runner.session.interrupts import Interrupts
from jobgroups.runner.session.previews import SessionPreviews
from jobgroups.runner.session.reconciler import DesiredState, Reconciler
from jobgroups.runner.session.sockets import Sockets
from jobgroups.services import attempts, backends

logger = logging.getLogger(__name__)

#: Marks a prompt as ours in ComfyUI's queue and history.
EXTRA_DATA_KEY: Final = "director"
#: A driver that meets a defect is started again this often before its child fails.
_MAX_DEFECTS: Final = 3
#: The longest pause before it is started again, in pauses.
_MOST_PAUSES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext:
    """What all sessions of a runner share."""

    database: DatabaseThreads
    reporter: ProgressWriter
    intervals: Intervals
    lease_clock: LeaseClock
    #: Tells this installation's and process's sockets from all others'.
    instance: str
    depth: int
    give_up_s: float
    #: Seconds of absence after which what waits for a backend may go elsewhere.
    move_after_s: float
    queued_limit_s: int
    max_answer_bytes: int
    timeouts: Timeouts
    #: Since when each backend is away, by the monotonic clock; kept from one session to the next.
    away: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """What a session was opened with; another address needs another session."""

    backend_id: str
    url: str
    headers: tuple[tuple[str, str], ...]


class BackendSession:
    """Drives one backend while its lease is ours."""

    def __init__(
        self,
        address: BackendAddress,
        fence: FencingToken,
        surroundings: RunnerContext,
        desired: DesiredState,
    ) -> None:
        self.backend_id = address.backend_id
        self.fence = fence
        self.context = surroundings
        self.database = surroundings.database
        self.intervals = surroundings.intervals
        self.desired_state = desired
        self.client: ComfyClient
        self._address = address
        #: What stands at the backend, by prompt id.
        self.drivers: dict[str, AttemptDriver] = {}
        #: Ids of the attempts that are driven, or will be again after a defect.
        self.owned_attempt_ids: set[int] = set()
        #: Of these, the ones that unexpected errors keep from being followed: each still takes a slot.
        self.broken: set[int] = set()
        self.specs = AttemptSpecs()
        self.previews = SessionPreviews(
            surroundings.reporter.hub,
            self.backend_id,
            lambda: ((one, driver.spec) for one, driver in self.drivers.items()),
        )
        self.tasks: asyncio.TaskGroup
        self.sockets = Sockets(self)
        self.health = HealthProbe(self)
        self.claimer = Claimer(self)
        self.reconciler = Reconciler(self)
        self.interrupts = Interrupts()
        #: How far the clock that dates the backend's files is ahead of its own; None: not known yet.
        self.files_ahead: dt.timedelta | None = None
        #: Whether the backend is about to be another runner's: nothing more is claimed for it.
        self.is_handing_over = False

    # --- what drivers ask -------------------------------------------------------------------------

    @property
    def is_reachable(self) -> bool:
        """Whether the backend answered when it was last asked."""
        return self.health.unavailable_since is None

    @property
    def can_interrupt(self) -> bool:
        """Whether a prompt there can be stopped by its id; an old ComfyUI would stop another one."""
        return supports_targeted_interrupt(self.health.version)

    @property
    def lease_is_fresh(self) -> bool:
        """Whether the lease is ours beyond doubt, so that the backend may be told anything."""
        return self.context.lease_clock.is_fresh(self.fence)

    def extra_data(self, spec: AttemptSpec) -> dict[str, Any]:
        """Return the ``extra_data`` that marks a prompt as ours."""
        return {
            EXTRA_DATA_KEY: {
                "group": spec.group_id,
                "job": spec.child_id,
                "attempt": spec.number,
            }
        }

    def child_report(self, spec: AttemptSpec) -> ProgressReporter:
        """Return where a driver reports its child's progress."""
        return ProgressReporter(
            self.context.reporter,
            group_id=spec.group_id,
            child_id=spec.child_id,
            fence=self.fence,
            attempt_id=spec.attempt_id,
            number=spec.number,
        )

    def rename(self, driver: AttemptDriver, prompt_id: str) -> None:
        """Hear a driver's prompt under another id: an old ComfyUI chose its own."""
        self.drivers.pop(driver.prompt_id, None)
        driver.prompt_id = prompt_id
        self.drivers[prompt_id] = driver

    def expect_status_since(self, sent_at: float) -> None:
        """Have the socket replaced if no status frame follows an accepted prompt: it is deaf."""
        self.tasks.create_task(self.sockets.check_silent(sent_at), name=f"{self.backend_id}: deaf?")

    def connection_failed(self, error: BackendError) -> None:
        """Take in that no connection could be made."""
        self.health.connection_failed(error.detail)

    def request_failed(self, error: BackendError) -> None:
        """Take in that a question was not answered; the observer finds out how bad it is."""
        logger.debug("%s did not answer: %s", self.backend_id, error)

    async def interrupt_prompt(self, prompt_id: str) -> str:
        """Interrupt a prompt that was seen running, by its id.

        A ComfyUI below 0.3.57 ignores the id and stops whatever runs. It is interrupted only if its
        queue, read just before, shows this prompt running and no prompt of another client. A prompt of
        ours that waits there and is hit all the same is rendered again.

        Returns:
            Why the prompt is left running, as a clause; ``""`` if it is not.

        Raises:
            BackendError: the question was not answered.
        """
        if not self.can_interrupt:
            is_running, why = await self._runs_alone(prompt_id)
            if why or not is_running:
                return why
        # Reading the queue may have taken long.
        if self.lease_is_fresh:
            with self.interrupts.sending(prompt_id):
                await self.client.interrupt(prompt_id)
        return ""

    async def _runs_alone(self, prompt_id: str) -> tuple[bool, str]:
        """Return whether a prompt runs, and what forbids an interrupt that stops whatever runs."""
        version = self.health.version or "of unknown version"
        cannot = f"ComfyUI {version} is not known to stop one prompt by its id"
        try:
            queue = await self.client.queue()
        except AnswerTooLarge:
            return True, f"{cannot}, and its queue is too long to be read"
        running = [item.prompt_id for item in queue.running]
        if prompt_id not in running:
            return False, ""
        others = sum(
            item.prompt_id != prompt_id and item.prompt_id not in self.drivers
            for item in (*queue.running, *queue.pending)
        )
        if not others:
            return running == [prompt_id], ""
        foreign = "1 prompt" if others == 1 else f"{others} prompts"
        return True, f"{cannot}, and {foreign} of other clients in its queue could be hit"

    @property
    def left_running(self) -> str:
        """Why a prompt that is to be stopped is left running, as a clause; ``""`` for none."""
        return next((one.left_running for one in self.drivers.values() if one.left_running), "")

    async def was_struck(self, driver: AttemptDriver, *, since: float, until: float) -> bool:
        """Return whether the interrupt of another prompt ended a driver's prompt: see ``interrupts``.

        The other prompt ran before, so its end stands in the history. If the history does not say how
        it ended, its interrupt counts as unused: the child is rendered again rather than lost.

        Args:
            driver: of a prompt that ended as interrupted.
            since: monotonic time from which on an interrupt may have ended it.
            until: monotonic time of its end.
        """
        for target in self.interrupts.targets(driver.prompt_id, since=since, until=until):
            with contextlib.suppress(BackendError):
                entry = await self.client.history(target)
                if entry is not None and entry.outcome == "interrupted":
                    self.interrupts.target_ended(target)
        return self.interrupts.use(driver.prompt_id, since=since, until=until)

    async def stop_is_stored(self, attempt_id: int) -> bool:
        """Whether the stop of an attempt was asked for, by the rows."""
        return attempt_id in await self.database.run_with_retry(work.pending_stops, self.backend_id)

    # --- what the runner tells --------------------------------------------------------------------

    def notify(self) -> None:
        """Look for work: something waits for this backend."""
        self.claimer.work_available.set()

    def stop_attempts(self, attempt_ids: Iterable[int]) -> None:
        """Take in which attempts are to be stopped."""
        wanted = set(attempt_ids)
        for driver in self.drivers.values():
            if driver.spec.attempt_id in wanted:
                driver.request_stop()

    def set_desired_state(self, desired: DesiredState) -> None:
        """Take in what was said of the backend. What was sent goes on, unless it is given back."""
        if self.desired_state != desired:
            self.desired_state = desired
            self.reconciler.work_available.set()
            self.notify()

    def start_handover(self) -> None:
        """Claim nothing more: the backend is to be handed over as soon as it :attr:`can_hand_over`."""
        self.is_handing_over = True

    def cancel_handover(self) -> None:
        """Go on: the backend is not handed over after all."""
        self.is_handing_over = False
        self.notify()

    @property
    def can_hand_over(self) -> bool:
        """Whether no attempt suffers if another runner takes the backend over at this moment.

        What runs there or waits in its queue goes on. What is being sent, stopped or ended is not left
        in the middle.
        """
        drivers = self.drivers.values()
        return self.claimer.has_no_pending_claim and all(one.can_hand_over for one in drivers)

    @property
    def is_sending(self) -> bool:
        """Whether a prompt is claimed and its backend's answer is not stored."""
        states = [driver.state for driver in self.drivers.values()]
        return AttemptState.INTENT in states or not self.claimer.has_no_pending_claim

    # --- its course -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what stands at the backend, then drive it until cancelled.

        Raises:
            ExceptionGroup: with ``LeaseLost`` where another runner holds the backend now; or with a
                defect.
        """
        self.client = ComfyClient(
            self._address.url,
            headers=dict(self._address.headers),
            max_answer_bytes=self.context.max_answer_bytes,
            timeouts=self.context.timeouts,
        )
        async with self.client, asyncio.TaskGroup() as self.tasks:
            await self._resume_attempts()
            name = self.backend_id
            self.tasks.create_task(self.sockets.run(), name=f"{name}: socket")
            self.tasks.create_task(self.claimer.run(), name=f"{name}: claim")
            self.tasks.create_task(self.health.run(), name=f"{name}: observe")
            self.tasks.create_task(self.reconciler.run(), name=f"{name}: house")

    async def take_failure(self, error: Exception) -> None:
        """Store that an unexpected error ended this session, and treat its backend as one that is away.

        A session may fail every second before its reconciler starts: what waits for the backend is moved
        or ended here.

        Raises:
            LeaseLost: another runner holds the backend now.
        """
        reason = f"Internal error ({type(error).__name__}: {one_line(str(error))}); see the Director's log"
        self.health.mark_unavailable(reason)
        await self.database.run_with_retry(
            backends.backend_observed,
            fence=self.fence,
            reachable=False,
            responded=False,
            reason=reason,
        )
        await self.reconciler.end_waits()

    async def _resume_attempts(self) -> None:
        for row in await self.database.run_with_retry(work.active_attempts, self.backend_id):
            self.start_attempt(self.specs.from_row(row))

    def start_attempt(self, spec: AttemptSpec) -> None:
        """Start a driver of a claim, or of an attempt that is taken up again."""
        driver = AttemptDriver(self, spec)
        self.drivers[driver.prompt_id] = driver
        self.owned_attempt_ids.add(spec.attempt_id)
        self.tasks.create_task(
            self._run_supervised(driver), name=f"{self.backend_id}: {spec.child_id}"
        )
        # Also a fresh one: its socket may have broken while the claim was stored.
        self.sockets.follow(spec.client_id)

    async def _run_supervised(self, driver: AttemptDriver) -> None:
        """Run a driver; a defect takes its attempt up again, the third one fails the child.

        Its attempt stays open while its prompt may stand there, and is tried again ever more rarely.
        """
        defects = 0
        current: AttemptDriver | None = driver
        while current is not None:
            error = await self._run_driver(current)
            if error is None:
                break
            defects += 1
            if defects == _MAX_DEFECTS:
                self.broken.add(current.spec.attempt_id)
                message = f"The Director failed at it ({type(error).__name__}); see its log."
                await self.fail_broken(current.spec.attempt_id, message)
            await asyncio.sleep(self.intervals.restart_pause * min(defects, _MOST_PAUSES))
            current = await self._restart_driver(current.spec.attempt_id)
        self.owned_attempt_ids.discard(driver.spec.attempt_id)
        self.broken.discard(driver.spec.attempt_id)
        self.notify()
        if self.desired_state.hold:
            # It may have been the last one that a drain waits for.
            self.reconciler.work_available.set()

    async def _run_driver(self, driver: AttemptDriver) -> Exception | None:
        """Run a driver to its end and return the defect that ended it, if one did."""
        try:
            await driver.run()
        except LeaseLost:
            raise
        except Exception as error:
            logger.exception("%s: a defect at %s", self.backend_id, driver.prompt_id)
            return error
        finally:
            self.drivers.pop(driver.prompt_id, None)
        return None

    async def _restart_driver(self, attempt_id: int) -> AttemptDriver | None:
        row = await self.database.run_with_retry(work.attempt_with_group, attempt_id)
        if row.ended_at is not None:
            return None
        again = AttemptDriver(self, self.specs.from_row(row))
        self.drivers[again.prompt_id] = again
        self.sockets.follow(again.client_id)
        return again

    async def fail_broken(self, attempt_id: int, message: str) -> None:
        """Store that a defect of the Director keeps it from sending or following a prompt."""
        await self.database.run_with_retry(
            attempts.attempt_failed_internally,
            attempt_id=attempt_id,
            fence=self.fence,
            message=message,
        )

    # --- what its parts tell ----------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Hand an event to the prompt it belongs to. Never waits: an unread socket stalls them all."""
        if isinstance(event, Status):
            self.health.queue_remaining = event.queue_remaining
            return
        if isinstance(event, Preview):
            self.previews.publish(event)
            return
        if isinstance(event, Text):
            return
        self.previews.track(event)
        prompt_id = getattr(event, "prompt_id", None)
        driver = self.drivers.get(prompt_id or "")
        if driver is not None:
            driver.on_event(event)

    def resync(self) -> None:
        """The backend is back: look where everything stands, and look for work."""
        for driver in self.drivers.values():
            driver.look_up_now()
        self.notify()


def address_of(row: Mapping[str, Any]) -> BackendAddress:
    """Return a backend's address out of its row's values."""
    return BackendAddress(row["id"], row["url"], tuple(sorted(row["headers"].items())))
