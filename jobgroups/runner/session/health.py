"""Probes a session's backend: whether it is online and fit, and how long its queue is."""

import asyncio
import logging
import time
from typing import Any, Final

from backends.comfyui.answers import SystemStats
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.versions import editor_problem, installed_editor, keeps_prompt_id
from backends.states import LEFT_RUNNING
from jobgroups.domain.states import AttemptState
from jobgroups.models import AbandonedPrompt
from jobgroups.queries import work
from jobgroups.runner.attempt.lookup import active_prompts
from jobgroups.runner.context import SessionContext
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.session.attempts import ActiveAttempts
from jobgroups.runner.session.sockets import Sockets
from jobgroups.services import attempts, backends

logger = logging.getLogger(__name__)

#: Answers that may exceed the limit at a backend that works: they contain whole workflows.
_MAY_BE_LONG: Final = ("/queue", "/history/")


class HealthProbe:
    """Probes one session's backend every few seconds, and stores the observation."""

    def __init__(self, context: SessionContext, attempts: ActiveAttempts, sockets: Sockets) -> None:
        self._context = context
        self._attempts = attempts
        self._sockets = sockets
        self._intervals = context.intervals
        #: Length of the backend's queue, prompts of other clients included.
        self.queue_remaining = 0
        self._probe_now = asyncio.Event()  #: Set when the next probe is due at once.
        #: What was stored last, and when.
        self._stored: dict[str, Any] | None = None
        self._stored_at = float("-inf")
        self._foreign = 0
        self._stuck_since: float | None = None
        #: By prompt id: since when a prompt with a pending stop is seen running.
        self._hanging: dict[str, float] = {}

    def on_socket_open(self) -> None:
        """Mark the backend available, unless its requests fail; then probe it now."""
        availability = self._context.availability
        if availability.requests_fail:
            self._probe_now.set()
            return
        availability.socket_opened()
        self._resync()

    def _resync(self) -> None:
        """Look up every prompt, and claim: the backend is available again."""
        self._attempts.look_up_now()
        self._context.work_available.set()

    def _note_editor(self, stats: SystemStats) -> None:
        """Log that the installed editor does not fit the backend's ComfyUI, once a version."""
        before = self._context.stats
        problem = editor_problem(stats.editor, installed_editor())
        if problem and (before is None or before.editor != stats.editor):
            logger.warning("%s: %s", self._context.backend_id, problem)

    async def run(self) -> None:
        context = self._context
        stats_at = float("-inf")
        while True:
            stats, failure = None, None
            self._probe_now.clear()
            try:
                due = time.monotonic() - stats_at >= self._intervals.system_stats
                if due or context.version is None:
                    stats = await context.client.system_stats()
                    self._note_editor(stats)
                    context.stats = stats
                    stats_at = time.monotonic()
                    context.work_available.set()
                is_away = not context.availability.is_available
                if is_away or not self._sockets.is_active:
                    # A kept connection may work long after new ones are refused, and prompts need
                    # those.
                    self.queue_remaining = await context.client.queue_remaining(
                        new_connection=is_away
                    )
                await self._check_worker()
                await self._reconcile_abandoned()
            except BackendError as error:
                context.request_failed(error)
                # A queue longer than the limit: the backend is online, and answers.
                if not (isinstance(error, AnswerTooLarge) and error.path.startswith(_MAY_BE_LONG)):
                    failure = error
            if failure is None:
                self._probe_answered()
            else:
                self._probe_failed(failure)
                # It may be another version when it is back.
                stats, stats_at = None, float("-inf")
            await self._store_observation(stats, responded=failure is None)
            await wait_set(self._probe_now, within=self._intervals.probe)

    def _probe_failed(self, error: BackendError) -> None:
        self._hanging.clear()
        # It may restart meanwhile.
        self._context.loaded_models = None
        self._context.partners.forget()
        for machine in self._attempts.machines:
            # Its look-ups failed with every other request, which says nothing about them.
            machine.unanswered_since = None
        self._context.availability.probe_failed(
            error.detail, answers=isinstance(error, AnswerTooLarge)
        )

    def _probe_answered(self) -> None:
        availability = self._context.availability
        unfit = self._failing_condition()
        availability.probe_answered(unfit)
        if unfit is not None:
            return
        if self._sockets.client_id is None:
            if time.monotonic() - self._sockets.lost_at >= self._intervals.suspect_after:
                availability.mark_unavailable("it answers, but its event socket does not open")
        elif (away := availability.unavailable_for()) is not None:
            if away >= self._intervals.suspect_after:
                # After so long the socket may be half-open: it would stay silent for ever.
                self._sockets.replace()
            availability.mark_available()
            self._resync()

    def _failing_condition(self) -> str | None:
        """Return why a backend that answers can take no work all the same, as a clause."""
        if not keeps_prompt_id(self._context.version):
            return (
                f"ComfyUI {self._context.version} is too old to be driven safely; update it to "
                "0.3.45"
            )
        stuck, hanging = self._stuck_for(), self._hanging_for()
        if stuck is not None and stuck >= self._intervals.stuck_after:
            return f"prompts have been pending for {stuck:.0f} s and nothing runs; restart it"
        if hanging is not None:
            return (
                f"its prompt was to be stopped {hanging:.0f} s ago and goes on; restart it if it "
                "hangs"
            )
        if len(self._attempts.broken) >= self._context.runner.settings.depth:
            return (
                "unexpected errors keep every prompt there from being followed; see the "
                "Director's log"
            )
        return self._look_ups_fail()

    def _look_ups_fail(self) -> str | None:
        """Return what is wrong with a backend that answers probes, but no look-up of a prompt."""
        moment = time.monotonic()
        for machine in self._attempts.machines:
            since = machine.unanswered_since
            if since is not None and moment - since >= self._intervals.stuck_after:
                why = machine.unanswered_reason.rstrip(".")
                return f"no look-up of a prompt has succeeded for {moment - since:.0f} s: {why}"
        return None

    def _stuck_for(self) -> float | None:
        return None if self._stuck_since is None else time.monotonic() - self._stuck_since

    def _hanging_for(self) -> float | None:
        """Return for how long a prompt of ours runs on although it is to stop; None: for no longer
        than it may.

        A worker that died in the middle of a prompt looks like one that renders for long, until it
        is to stop: its queue says "running" for ever. One that is left running may take another of
        its group's time limits for the rest of a render.
        """
        moment = time.monotonic()
        stopping = [
            machine
            for machine in self._attempts.machines
            if machine.stop_pending and machine.state is AttemptState.RUNNING
        ]
        self._hanging = {
            machine.prompt_id: self._hanging.get(machine.prompt_id, moment) for machine in stopping
        }
        for machine in stopping:
            may_take = self._intervals.stuck_after
            if machine.sent_stop.left_running:
                may_take = max(may_take, machine.spec.shortest_limit_s)
            if (lasts := moment - self._hanging[machine.prompt_id]) >= may_take:
                return lasts
        return None

    async def _check_worker(self) -> None:
        """Note since when prompts are pending and nothing runs (comfyui-protocol.md, trap 1)."""
        are_waiting = {machine.is_pending for machine in self._attempts.machines}
        if True not in are_waiting or (False in are_waiting and self._stuck_since is None):
            self._stuck_since = None
            return
        are_running, are_pending = await active_prompts(self._context.client, self._context.version)
        if are_pending and not are_running:
            self._stuck_since = self._stuck_since or time.monotonic()
        else:
            self._stuck_since = None

    async def _store_observation(self, stats: SystemStats | None, *, responded: bool) -> None:
        stuck = self._stuck_for()
        is_available = self._context.availability.is_available
        reason = "" if is_available else self._context.availability.reason
        if not reason and stuck is not None and stuck >= self._intervals.suspect_after:
            reason = f"suspected: prompts pending for {stuck:.0f} s and nothing runs"
        if not reason and (why := self._attempts.left_running):
            reason = f"{LEFT_RUNNING}{why}"
        running, pending, foreign = self._queue_split()
        seen: dict[str, Any] = {
            "reachable": is_available,
            # An unfit backend that answers responded.
            "responded": responded,
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
            # Unchanged: idle backends must not cost a synced write each probe.
            return
        await self._context.store(backends.backend_observed, **seen)
        self._stored, self._stored_at = seen, moment

    def _queue_split(self) -> tuple[int, int, int]:
        """Return what runs there, what waits there, and what of both is not ours."""
        states = [machine.state for machine in self._attempts.machines]
        ours = sum(state in (AttemptState.ACCEPTED, AttemptState.RUNNING) for state in states)
        others = max(self.queue_remaining - ours, 0)
        if any(state in (AttemptState.INTENT, AttemptState.UNCERTAIN) for state in states):
            # One of ours may or may not be among them: what was known before still holds.
            others = min(others, self._foreign)
        self._foreign = others
        return min(self.queue_remaining, 1), max(self.queue_remaining - 1, 0), others

    async def _reconcile_abandoned(self) -> None:
        """Delete, adopt or interrupt prompts of closed attempts that are at the backend after all."""
        context = self._context
        listed = await context.database.run_with_retry(work.abandoned_prompts, context.backend_id)
        if not listed:
            return
        are_running, are_pending = await active_prompts(context.client, context.version)
        for abandoned in listed:
            prompt_id, attempt_id = abandoned.prompt_id, abandoned.attempt_id
            if prompt_id in are_running:
                await self._adopt_or_interrupt(abandoned)
            elif prompt_id in are_pending:
                if context.lease_is_fresh:
                    await context.client.delete_pending([prompt_id])
            elif await context.client.history(prompt_id) is not None:
                # It has ended without a driver: a new one stores its end.
                await self._attempts.resume(attempt_id)
            else:
                await context.store(attempts.abandoned_prompt_expire, attempt_id=attempt_id)

    async def _adopt_or_interrupt(self, abandoned: AbandonedPrompt) -> None:
        attempt_id = abandoned.attempt_id
        if await self._context.store(attempts.abandoned_prompt_found, attempt_id=attempt_id):
            await self._attempts.resume(attempt_id)
        else:
            await self._context.interrupter.interrupt(abandoned.prompt_id)
