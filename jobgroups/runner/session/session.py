"""Session of one backend. It runs while this runner holds the backend's lease.

A slow backend delays no other one: each session waits for its own. Each part has a task of its own:
the sockets receive events, the health probe observes, the claimer sends, the reconciler applies the
desired state.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from backends.comfyui.client import ComfyClient
from backends.comfyui.protocol import Event, Preview, Status
from backends.comfyui.texts import one_line
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.log_context import bind
from jobgroups.runner.availability import Availability
from jobgroups.runner.context import RunnerContext, SessionContext, desired_state
from jobgroups.runner.inputs import InputFiles, PartnerNodes
from jobgroups.runner.interrupts import Interrupter
from jobgroups.runner.session.attempts import ActiveAttempts
from jobgroups.runner.session.claimer import Claimer
from jobgroups.runner.session.health import HealthProbe
from jobgroups.runner.session.previews import SessionPreviews
from jobgroups.runner.session.reconciler import Reconciler
from jobgroups.runner.session.sockets import Sockets
from jobgroups.services import backends


class BackendSession:
    """Builds and runs the parts that drive one backend, by its row. Its lease was requested at
    ``asked_at``.
    """

    task: asyncio.Task[None]  #: Runs the session; set by the runner.

    def __init__(
        self, row: Mapping[str, Any], fence: FencingToken, asked_at: float, runner: RunnerContext
    ) -> None:
        #: URL and headers; others need another session.
        self.address: tuple[str, dict[str, str]] = (row["url"], row["headers"])
        self.opened_at = time.monotonic()  #: The lease was ours then.
        self.is_ending = False
        self.releases_lease = False  #: Whether its lease is handed over once the session is over.
        self.context = context = SessionContext(
            backend_id=row["id"],
            fence=fence,
            renewed_at=asked_at,
            runner=runner,
            desired_state=desired_state(row),
            availability=Availability(row["id"], runner.unavailable_since),
        )
        self.attempts = ActiveAttempts(context)
        self._previews = SessionPreviews(
            runner.progress.hub, context.backend_id, self.attempts.drivers
        )
        self.sockets = Sockets(
            context,
            self.attempts,
            on_event=self._on_event,
            wants_previews=self._previews.are_wanted,
        )
        self._reconciler = Reconciler(context, self.attempts)
        self._health = HealthProbe(context, self.attempts, self.sockets)
        self.claimer = Claimer(context, self.attempts, self.sockets, self._reconciler)
        context.uncertain_workflows = lambda: self.attempts.uncertain_workflows
        context.follow_socket = self.sockets.follow
        context.expect_status_since = self.sockets.expect_status_since
        self.sockets.on_open = self._health.on_socket_open

    def end(self, *, releases_lease: bool = False) -> None:
        if not self.is_ending:
            self.is_ending, self.releases_lease = True, releases_lease
            self.task.cancel()

    def start_handover(self) -> None:
        """Claim nothing more: the backend is to be handed over as soon as it :attr:`can_hand_over`."""
        self.claimer.is_handing_over = True

    def cancel_handover(self) -> None:
        """Claim again if the backend was to be handed over."""
        if self.claimer.is_handing_over:
            self.claimer.is_handing_over = False
            self.context.work_available.set()

    @property
    def can_hand_over(self) -> bool:
        """Whether no attempt suffers if another runner takes the backend over at this moment.

        Prompts that run or wait there go on. No prompt is being sent, stopped or ended.
        """
        drivers = self.attempts.drivers.values()
        return self.claimer.has_no_pending_claim and all(driver.can_hand_over for driver in drivers)

    @property
    def is_sending(self) -> bool:
        """Whether a prompt is claimed and its backend's answer is not stored."""
        states = [machine.state for machine in self.attempts.machines]
        return AttemptState.INTENT in states or not self.claimer.has_no_pending_claim

    async def run(self) -> None:
        """Resume the active attempts at the backend, then drive it until cancelled.

        Raises an ``ExceptionGroup`` with ``LeaseLost`` if another runner holds the lease now, or
        with an unexpected error.
        """
        context, name = self.context, self.context.backend_id
        url, headers = self.address
        bind(backend=name)
        # Here and not before: a malformed address ends this session only.
        context.client = client = ComfyClient(
            url,
            headers=headers,
            max_answer_bytes=context.runner.settings.max_answer_bytes,
            timeouts=context.runner.settings.timeouts,
            secrets=context.runner.progress.hub.keys.values(),
        )
        context.interrupter = Interrupter(
            client,
            lease_is_fresh=lambda: context.lease_is_fresh,
            is_own=lambda prompt_id: self.attempts.of_prompt(prompt_id) is not None,
            version=lambda: context.version,
        )
        context.inputs = InputFiles(client, context.database, context.intervals.restart_pause)
        context.partners = PartnerNodes(
            name,
            url,
            client,
            context.database,
            context.runner.progress.hub,
            context.intervals.key_wait,
        )
        hub = context.runner.progress.hub
        hub.add_frame_source(self.attempts.tap.repeat)
        try:
            async with client, context.task_group as tasks:
                await self.attempts.resume_all()
                tasks.create_task(self.sockets.run(), name=f"{name}: socket")
                tasks.create_task(self.claimer.run(), name=f"{name}: claim")
                tasks.create_task(self._health.run(), name=f"{name}: probe")
                tasks.create_task(self._reconciler.run(), name=f"{name}: reconcile")
        finally:
            hub.remove_frame_source(self.attempts.tap.repeat)

    async def take_failure(self, error: Exception) -> None:
        """Store that an unexpected error ended this session, and mark its backend unavailable.

        A session may fail every second before its reconciler starts: the children that wait for the
        backend are moved or ended here. Raises ``LeaseLost`` if another runner holds the lease now.
        """
        reason = (
            f"Internal error ({type(error).__name__}: {one_line(str(error))}); see the Director's "
            "log"
        )
        self.context.availability.mark_unavailable(reason)
        await self.context.store(
            backends.backend_observed, reachable=False, responded=False, reason=reason
        )
        await self._reconciler.end_waits()

    def _on_event(self, event: Event) -> None:
        """Pass an event on. Never waits: an unread socket stalls all prompts."""
        match event:
            case Status():
                self._health.queue_remaining = event.queue_remaining
            case Preview():
                self._previews.publish(event)
            case _:
                self.attempts.on_event(event)
