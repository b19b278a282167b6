"""The attempts at one backend that are driven now. Restarts a driver after an unexpected error."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from backends.comfyui.protocol import Event
from jobgroups.domain.prompt_sizes import LARGE_ANSWER_BYTES
from jobgroups.domain.states import AttemptState
from jobgroups.errors import LeaseLost
from jobgroups.log_context import bind, bound
from jobgroups.models import Attempt
from jobgroups.queries import work
from jobgroups.runner.attempt.driver import AttemptDriver
from jobgroups.runner.attempt.machine import AttemptMachine
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.context import SessionContext
from jobgroups.runner.session.frames import FrameTap, driver_of
from jobgroups.services import attempts

logger = logging.getLogger(__name__)

_MAX_ERRORS: Final = 3  #: After this many unexpected errors of its driver the child fails.
_MOST_PAUSES: Final = 30  #: The longest pause before the driver is restarted, in pauses.


@dataclass(slots=True, eq=False)
class ActiveAttempts:
    """Starts and holds the drivers of one session."""

    context: SessionContext
    #: By the id of the attempt.
    drivers: dict[int, AttemptDriver] = field(default_factory=dict, init=False)
    #: Ids of the attempts that are driven, or will be again after an unexpected error.
    owned_attempt_ids: set[int] = field(default_factory=set, init=False)
    #: Of these, the ones that unexpected errors keep from being followed: each still takes a slot.
    broken: set[int] = field(default_factory=set, init=False)
    #: Publishes the frames of those that are of the ComfyUI listener.
    tap: FrameTap = field(init=False)

    def __post_init__(self) -> None:
        self.tap = FrameTap(self.context.runner.progress.hub, self.drivers)

    async def resume_all(self) -> None:
        database = self.context.database
        for row in await database.run_with_retry(work.active_attempts, self.context.backend_id):
            self._start(AttemptSpec.from_row(row))

    async def resume(self, attempt_id: int) -> None:
        row = await self._load(attempt_id)
        if attempt_id not in self.drivers:
            self._start(AttemptSpec.from_row(row))

    async def start_claimed(self, claim: Attempt) -> None:
        """Start a driver of a new claim; its child fails if its workflow cannot be prepared."""
        try:
            self._start(AttemptSpec.from_claim(claim))
        except Exception as error:
            with bound(group=claim.child.group_id, job=claim.child_id, attempt=claim.number):
                logger.exception("%s: workflow cannot be prepared", claim.child_id)
            await self._fail(claim.pk, f"Its workflow cannot be made ready: {error}")

    def _start(self, spec: AttemptSpec) -> None:
        driver = self._new_driver(spec)
        self.owned_attempt_ids.add(spec.attempt_id)
        self.context.task_group.create_task(
            self._run_supervised(driver), name=f"{self.context.backend_id}: {spec.child_id}"
        )

    def _new_driver(self, spec: AttemptSpec) -> AttemptDriver:
        driver = self.drivers[spec.attempt_id] = AttemptDriver(self.context, spec)
        self.tap.follow(spec)
        self._limit_answers()
        # Also for a new claim: its socket may have broken while the claim was stored.
        self.context.follow_socket(spec.client_id)
        return driver

    def _limit_answers(self) -> None:
        """Read longer answers while the backend has a large prompt: queue and history repeat it."""
        limit = self.context.runner.settings.max_answer_bytes
        self.context.client.max_answer_bytes = (
            max(limit, LARGE_ANSWER_BYTES) if self.has_large_prompt else limit
        )

    @property
    def machines(self) -> list[AttemptMachine]:
        return [driver.machine for driver in self.drivers.values()]

    def of_prompt(self, prompt_id: str | None) -> AttemptDriver | None:
        """Return the driver of a prompt. An old ComfyUI chose its own id after the driver was made."""
        return driver_of(self.drivers, prompt_id) if prompt_id else None

    async def _run_supervised(self, driver: AttemptDriver) -> None:
        """Run a driver; restart it after an unexpected error, and fail the child after the third
        one.

        The attempt stays open while its prompt may be at the backend. Each restart waits longer.
        """
        context, spec, attempt_id = self.context, driver.spec, driver.spec.attempt_id
        bind(
            group=spec.group_id, job=spec.child_id, attempt=spec.number, backend=context.backend_id
        )
        errors = 0
        current: AttemptDriver | None = driver
        while current is not None and (error := await self._run_driver(current)) is not None:
            errors += 1
            if errors == _MAX_ERRORS:
                self.broken.add(attempt_id)
                message = f"The Director failed at it ({type(error).__name__}); see its log."
                await self._fail(attempt_id, message)
            await asyncio.sleep(context.intervals.restart_pause * min(errors, _MOST_PAUSES))
            row = await self._load(attempt_id)
            current = (
                None if row.ended_at is not None else self._new_driver(AttemptSpec.from_row(row))
            )
        self.owned_attempt_ids.discard(attempt_id)
        self.broken.discard(attempt_id)
        context.runner.pool.schedule.backlog.note_ended(spec.group_id)
        context.work_available.set()
        if context.desired_state.hold:
            # A drain may wait for this attempt.
            context.reconcile_now.set()

    async def _run_driver(self, driver: AttemptDriver) -> Exception | None:
        """Run a driver to its end and return the unexpected error that ended it, if any."""
        try:
            await driver.run()
        except LeaseLost:
            raise
        except Exception as error:
            logger.exception(
                "%s: unexpected error at prompt %s",
                self.context.backend_id,
                driver.machine.prompt_id,
            )
            return error
        finally:
            self.drivers.pop(driver.spec.attempt_id, None)
            self.tap.forget(driver.spec.attempt_id)
            self._limit_answers()
            driver.pictures.discard()
        return None

    async def _load(self, attempt_id: int) -> Attempt:
        return await self.context.database.run_with_retry(work.attempt_with_group, attempt_id)

    async def _fail(self, attempt_id: int, message: str) -> None:
        """Store that an unexpected error keeps the Director from sending or following a prompt."""
        await self.context.store(
            attempts.attempt_failed_internally, attempt_id=attempt_id, message=message
        )

    def on_event(self, event: Event) -> None:
        """Pass an event to the driver of its prompt. Never waits: an unread socket stalls all
        prompts.
        """
        driver = self.of_prompt(getattr(event, "prompt_id", None))
        if driver is not None:
            driver.on_event(event)

    def request_stop(self, attempt_ids: Iterable[int]) -> None:
        for attempt_id in attempt_ids:
            if attempt_id in self.drivers:
                self.drivers[attempt_id].request_stop()

    def socket_opened(self, client_id: str) -> None:
        for driver in self.drivers.values():
            if driver.spec.client_id == client_id:
                driver.socket_opened()

    def socket_lost(self, client_id: str) -> None:
        """Take in that events of the prompts of a client id may be lost from now on."""
        for driver in self.drivers.values():
            if driver.spec.client_id == client_id:
                driver.pictures.socket_lost()

    def look_up_now(self) -> None:
        for driver in self.drivers.values():
            driver.look_up_now()

    @property
    def cancelled(self) -> frozenset[int]:
        """The attempts whose running prompts are stopped as jobs."""
        return frozenset(
            attempt_id
            for attempt_id, driver in self.drivers.items()
            if driver.machine.sent_stop.is_cancel
        )

    @property
    def uncertain_workflows(self) -> frozenset[str]:
        return frozenset(
            machine.spec.workflow_digest
            for machine in self.machines
            if machine.state is AttemptState.UNCERTAIN
        ) - {""}

    @property
    def has_large_prompt(self) -> bool:
        """Whether a prompt of the backend is so long that no other is sent beside it."""
        return any(driver.spec.is_large for driver in self.drivers.values())

    @property
    def prompt_count(self) -> int:
        """The number of prompts that the backend may have: the last lookup did not find the others."""
        return sum(not machine.is_absent for machine in self.machines)

    @property
    def left_running(self) -> str:
        """Why a prompt with a pending stop is left running, as a clause; ``""`` if there is none."""
        reasons = (machine.sent_stop.left_running for machine in self.machines)
        return next(filter(None, reasons), "")
