"""One attempt, from the POST to its stored end: the driver of a prompt.

The sockets call :meth:`AttemptDriver.on_event`, which never waits; one task processes the changes. Frames
are hints, the history decides. All times are monotonic.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from backends.comfyui import errors, protocol
from jobgroups import metrics
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import ATTEMPT_ENDED, AttemptState
from jobgroups.domain.stops import SentStop
from jobgroups.models import Attempt
from jobgroups.queries import work
from jobgroups.runner.attempt import result
from jobgroups.runner.attempt.completion import Completion, free_memory
from jobgroups.runner.attempt.evidence import Evidence, PromptLocation, PromptLookup, ended
from jobgroups.runner.attempt.limits import TimeLimits
from jobgroups.runner.attempt.lookup import look_up, omitted_outputs
from jobgroups.runner.attempt.pictures import SentPictures
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.attempt.timer import PromptTimer
from jobgroups.runner.context import SessionContext
from jobgroups.runner.inputs import NotSendable
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.progress import ProgressReporter
from jobgroups.services import attempts
from jobgroups.workflow import dangling_link

logger = logging.getLogger(__name__)

_BEFORE_RUNNING: Final = (AttemptState.INTENT, AttemptState.UNCERTAIN, AttemptState.ACCEPTED)


class AttemptDriver:
    """Follows one prompt until its end is stored. One task runs :meth:`run`."""

    def __init__(self, context: SessionContext, spec: AttemptSpec) -> None:
        self.spec = spec
        self.prompt_id = spec.prompt_id
        self.client_id = spec.client_id
        self.state = spec.state
        self._context = context
        self._intervals = context.intervals
        self._changed = asyncio.Event()
        self._evidence = Evidence(spec, context.client.url)
        self._report = self._new_report()
        self.pictures = SentPictures(spec.workflow)
        self._timer = PromptTimer(context, spec)
        self._completion = Completion(context, self._evidence, self.pictures, self._timer.node_seconds)
        self._stop_requested = spec.stop_requested
        self._done = False
        moment = time.monotonic()
        self._heard_at = moment
        self._end_heard_at = moment
        self._last_seen_at = moment  #: When it was last seen at the backend without having ended.
        self._next_lookup_at = moment if not spec.is_new else moment + self._intervals.lookup_interval
        self._stop_at = moment
        self._stop_requested_at = moment
        self._is_stalled = False
        self.sent_stop = SentStop()  #: How it was last to be stopped while it ran.
        self._limits = TimeLimits(spec.timeout_s, spec.stall_s)
        if spec.started_at is not None:
            self._limits.start(moment, (now() - spec.started_at).total_seconds())
        self._absent_since: float | None = None
        #: What the POST was answered with, where that neither accepts nor refuses the prompt.
        self._answer = spec.answer
        self._deleted = False
        #: Since when its look-ups have failed in a row, and why; None: the last one succeeded, or an event came since.
        self.unanswered_since: float | None = None
        self.unanswered_reason = ""
        self.was_looked_up = spec.is_new  #: Whether it was looked up once, answered or not; a new attempt need not be.

    def on_event(self, event: protocol.Event) -> None:
        """Take in an event of this prompt. Never waits."""
        self._heard_at = time.monotonic()
        self._limits.restart_stall(time.monotonic())
        self._timer.on_event(event, self._heard_at)
        self.pictures.on_event(event)
        self.unanswered_since = None
        if not self._evidence.apply(event):
            return
        if self._evidence.end_frame is event:
            # No end yet: the history decides. The closing frame follows at once; if it does not, the history is queried.
            self._end_heard_at = self._heard_at
            self._next_lookup_at = self._heard_at + self._intervals.stop_retry / 2
        if self.state is AttemptState.RUNNING:
            self._report_progress()
        if self._needs_work():
            self._changed.set()

    def request_stop(self) -> None:
        """Take in that a stop of this attempt was stored."""
        if not self._stop_requested:
            self._stop_requested = True
            self._stop_at = self._stop_requested_at = time.monotonic()
            self._report.close(sends=False)
            self._changed.set()

    def socket_opened(self) -> None:
        """Take in that its events are received again: some may have been lost."""
        self._limits.restart_stall(time.monotonic())
        self._timer.events_missed()

    def look_up_now(self) -> None:
        """Look the prompt up soon: its socket was lost, or the backend is available again."""
        self._next_lookup_at = time.monotonic()
        self._changed.set()

    @property
    def stop_pending(self) -> bool:
        """Whether the prompt is to be stopped and was not seen to end."""
        return self._stop_requested and not self._done

    @property
    def is_pending(self) -> bool:
        """Whether it was accepted and no sign of execution was seen."""
        return self.state is AttemptState.ACCEPTED and not self._evidence.has_started

    @property
    def is_absent(self) -> bool:
        """Whether it is uncertain, and the last lookup did not find it."""
        return self.state is AttemptState.UNCERTAIN and self._absent_since is not None

    @property
    def is_executing(self) -> bool:
        """Whether it executes, by the events that came."""
        return self._evidence.is_executing

    @property
    def can_hand_over(self) -> bool:
        """Whether another runner may resume it now without repeating a request or a decision."""
        return (
            self.state in (AttemptState.ACCEPTED, AttemptState.RUNNING)
            and self.was_looked_up
            and not self._stop_requested
            and not self._evidence.is_closed
            and self._evidence.end_frame is None
            and not self.pictures
        )

    def _needs_work(self) -> bool:
        return (
            self.state is not AttemptState.RUNNING
            or self._evidence.is_closed
            or self._evidence.end_frame is not None
            or not self._evidence.is_stored
        )

    async def run(self) -> None:
        """Send the prompt if it is fresh, then follow it until its end is stored.

        Raises ``LeaseLost`` if the backend is another runner's now; nothing more was written.
        """
        if self.spec.is_new:
            await self._send()
        elif self.state is AttemptState.INTENT:
            # Its sender died somewhere around the POST: it may have arrived, or may still.
            await self._uncertain()
        while not self._done:
            await self._wait()
            await self._step()
            self.was_looked_up = True
        self._report.close()

    async def _step(self) -> None:
        if self._evidence.has_started and self.state in _BEFORE_RUNNING:
            await self._started()
        if self._evidence.is_closed and not self._done:
            await self._read_result()
        if self._done:
            return
        if not self._evidence.is_stored:
            await self._store_reported()
        moment = time.monotonic()
        if moment >= self._limits.check_at and not self._stop_requested:
            await self._time_out()
        elif self._stop_requested and moment >= self._stop_at:
            await self._stop()
        elif moment >= self._next_lookup_at and (lookup := await self._look_up()) is not None:
            await self._handle_location(lookup)

    async def _wait(self) -> None:
        """Wait for news or for the next thing that is due, whichever comes first."""
        due = [self._next_lookup(), self._stop_at if self._stop_requested else self._limits.check_at]
        if not await wait_set(self._changed, within=max(0.0, min(due) - time.monotonic())):
            # Events that changed nothing postpone the look-up.
            self._next_lookup()
        self._changed.clear()

    def _next_lookup(self) -> float:
        # A prompt whose events arrive needs no look-up, unless the event was its end.
        if self._evidence.end_frame is None and self.state in (AttemptState.ACCEPTED, AttemptState.RUNNING):
            quiet = self._heard_at + self._intervals.lookup_interval
            if self._next_lookup_at < quiet and self._evidence.has_started:
                self._next_lookup_at = quiet
        return self._next_lookup_at

    async def _send(self) -> None:
        if (loose := dangling_link(self.spec.workflow)) is not None:
            await self._reject_dangling_link(*loose)
            return
        if not self._context.lease_is_fresh:
            # Another runner may hold the lease by now, and send this child itself.
            await self._not_sent()
            return
        async with contextlib.AsyncExitStack() as turn:
            await self._send_in(turn)

    async def _send_in(self, turn: contextlib.AsyncExitStack) -> None:
        """Send the prompt, and store what it was answered with.

        No other prompt of its workflow is sent until ``turn`` ends: one with a 500 is enough.
        """
        digest = self.spec.workflow_digest
        try:
            prompt = await self._context.inputs.place(
                self.spec.workflow, lambda: self._context.lease_is_fresh and not self._stop_requested
            )
            extra_data = await self._extra_data(prompt)
            await turn.enter_async_context(self._context.turn_of(digest))
            if self._stop_requested or digest in self._context.uncertain_workflows():
                raise errors.SendAborted("Another prompt of its workflow is uncertain, or it was stopped.")
            sent_at = time.monotonic()
            accepted = await self._context.client.submit(
                prompt,
                prompt_id=self.prompt_id,
                client_id=self.client_id,
                extra_data=extra_data,
                may_send=lambda: self._context.lease_is_fresh,
            )
        except errors.SendAborted:
            await self._not_sent()
        except NotSendable as cause:
            await self._refused(message=cause.message, details=cause.details, kind=cause.kind)
        except errors.BackendUnreachable as error:
            await self._not_sent()
            self._context.availability.connection_failed(error.detail)
        except errors.PromptRefused as error:
            kind, details = result.refusal(error)
            await self._refused(message=error.detail, details=details, kind=kind)
        except errors.ResponseLost as error:
            logger.info("%s: %s", self._context.backend_id, error)
            self._answer = error if isinstance(error, errors.PromptUnconfirmed) else None
            await self._uncertain()
        else:
            other = accepted.prompt_id if accepted.prompt_id != self.prompt_id else None
            if other is not None:
                self.prompt_id = other
            await self._accepted(other, accepted.node_errors)
            self._context.expect_status_since(sent_at)

    async def _extra_data(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``extra_data`` of the prompt; raise ``NotSendable`` if it needs a key and does not get the key."""
        context, is_paid = self._context, self.spec.uses_partner_nodes
        extra_data = self.spec.extra_data(
            prompt,
            marks_outputs=context.runner.settings.marks_outputs,
            has_previews=context.orders_previews(self.spec.group_id),
        )
        if is_paid is None and (is_paid := await context.partners.are_in(self.spec.workflow)):
            # Before the key is sent: what is paid is not retried as anything else.
            await self._store(attempts.attempt_has_partner_nodes)
        if not is_paid:
            return extra_data
        own_of = self.spec.group_id if self.spec.has_secret else None
        return extra_data | await context.partners.key(context.version, own_of)

    async def _not_sent(self) -> None:
        await self._store(attempts.attempt_not_sent)
        self._done = True

    async def _refused(self, **fields: Any) -> None:
        """Store that ComfyUI refused the prompt, or that it could not be sent."""
        await self._store(attempts.attempt_refused, **fields)
        self._context.refused_at = time.monotonic()
        self._done = True

    async def _reject_dangling_link(self, node: str, name: str, missing: str) -> None:
        """Fail the child of a graph that would kill the backend's worker; nothing is sent."""
        message = f"Node {node}: its input {name!r} is linked to node {missing}, which is not there."
        details = {"node_id": node, "input_name": name, "refused_by": "director"}
        await self._store(attempts.attempt_refused, message=message, details=details)
        self._done = True

    async def _uncertain(self) -> None:
        answer = self._answer
        self._apply_stored_state(
            await self._store(
                attempts.attempt_uncertain,
                message=None if answer is None else answer.detail,
                details=None if answer is None else result.unconfirmed_details(answer),
            )
        )
        self._next_lookup_at = time.monotonic()

    async def _accepted(self, other_id: str | None = None, node_errors: Mapping[str, Any] | None = None) -> None:
        stored = await self._store(attempts.attempt_accepted, prompt_id=other_id, node_errors=node_errors)
        if node_errors is not None:
            self._evidence.take_node_errors(node_errors)
        self._apply_stored_state(stored)
        self._next_lookup_at = time.monotonic() + self._intervals.lookup_interval

    async def _started(self) -> None:
        stored = await self._store(attempts.attempt_started)
        if self._stop_requested and stored.stop_requested_at is None:
            # It was to be removed from the queue for a move or a recall, and has started: it runs to its end.
            self._withdraw_stop()
        self._apply_stored_state(stored)
        self._limits.start(time.monotonic())
        self._report_progress()

    def _withdraw_stop(self) -> None:
        self._stop_requested = self._deleted = False
        self._report = self._new_report()

    def _report_progress(self) -> None:
        # After a stop request the attempt no longer reports progress: its child is queued again or final.
        if not self._stop_requested:
            self._report.update(self._evidence.tracker)

    def _apply_stored_state(self, stored: Attempt) -> None:
        """Apply the state that the transaction stored: another writer may have requested a stop."""
        known, self.state = self.state, AttemptState(stored.state)
        if AttemptState.UNCERTAIN in {known, self.state}:
            # Other jobs of its workflow wait while it is uncertain.
            self._context.work_available.set()
        # Another writer may have ended it: an administrator, or a runner that took the lease over.
        self._done = self.state in ATTEMPT_ENDED
        if stored.stop_requested_at is not None:
            self.request_stop()

    async def _store_reported(self) -> None:
        columns, reported = self._evidence.to_store()
        await self._store(attempts.attempt_outputs_stored, **columns)
        self._evidence.mark_stored(reported)

    async def _look_up(self) -> PromptLookup | None:
        """Look the prompt up; None if the backend did not answer."""
        self._next_lookup_at = time.monotonic() + self._intervals.lookup_interval
        uncertain = self.state is AttemptState.UNCERTAIN
        version = None if uncertain or self._evidence.node_errors is None else self._context.version
        try:
            lookup = await look_up(
                self._context.client,
                self.prompt_id,
                version=version,
                mark=self.spec.mark if uncertain else None,
                new_connection=uncertain,
            )
        except errors.BackendError as error:
            self._note_unanswered(error)
            # A delayed request may still arrive when the network recovers. Restart the absence timer.
            self._absent_since = None
            self._context.request_failed(error)
            return None
        self.unanswered_since = None
        if lookup.location is not PromptLocation.ABSENT:
            self._absent_since = None
        if lookup.location in (PromptLocation.PENDING, PromptLocation.RUNNING):
            self._last_seen_at = time.monotonic()
        return lookup

    def _note_unanswered(self, error: errors.BackendError) -> None:
        # Behind a queue longer than the limit it waits for other work, as long as it was accepted and may stay there.
        known = self.state in (AttemptState.ACCEPTED, AttemptState.RUNNING)
        long_queue = isinstance(error, errors.AnswerTooLarge) and error.path == "/queue"
        if long_queue and known and not self._stop_requested:
            return
        self.unanswered_since = self.unanswered_since or time.monotonic()
        self.unanswered_reason = error.detail

    async def _handle_location(self, lookup: PromptLookup) -> None:
        if lookup.other_id is not None:
            self.prompt_id = lookup.other_id
            await self._accepted(lookup.other_id)
        match lookup.location:
            case PromptLocation.ENDED:
                await self._ended(lookup)
            case PromptLocation.ABSENT:
                await self._absent()
            case PromptLocation.RUNNING:
                self._evidence.has_started = True
                if self.state in _BEFORE_RUNNING:
                    await self._started()
                await self._find_refused(lookup)
            case PromptLocation.PENDING:
                if self.state is AttemptState.UNCERTAIN:
                    await self._accepted()
                await self._find_refused(lookup)

    async def _find_refused(self, lookup: PromptLookup) -> None:
        """Find out which outputs are not executed if the answer that named them was lost."""
        found = await self._omitted_outputs(lookup)
        if found is not None:
            stored = await self._store(attempts.attempt_partly_refused, node_errors=found)
            self._evidence.take_node_errors(found)
            self._apply_stored_state(stored)

    async def _omitted_outputs(self, lookup: PromptLookup) -> Mapping[str, Any] | None:
        """Return the outputs that are not executed; None: that was known, or cannot be seen now."""
        listed = None if lookup.item is None else lookup.item.outputs
        if self._evidence.node_errors is not None or listed is None:
            return None
        try:
            return await omitted_outputs(self._context.client, self.spec.workflow, listed)
        except errors.BackendError as error:
            self._context.request_failed(error)
            return None

    async def _absent(self) -> None:
        """Decide what an absence means: never arrived, deleted by us, or forgotten by the backend."""
        moment = time.monotonic()
        if self._absent_since is None:
            self._absent_since = moment
            # Another job may use the free slot.
            self._context.work_available.set()
        absent_for = moment - self._absent_since
        if self.state is AttemptState.UNCERTAIN:
            if self._answer is not None and await self._answer_is_final(self._answer):
                await self._refused_by_answer(self._answer)
            elif absent_for >= self._intervals.accept_timeout:
                await self._never_accepted()
            return
        # Once more after a moment: an end and its frames travel on two connections.
        if absent_for < self._intervals.stop_retry:
            self._next_lookup_at = moment + self._intervals.stop_retry
            return
        if self._deleted and self.state is AttemptState.ACCEPTED:
            await self._end(self._evidence.removed())
        else:
            await self._lost()

    async def _answer_is_final(self, answer: errors.PromptUnconfirmed) -> bool:
        """Return whether an answer that is no refusal in form is one, now that nothing is queued.

        An exception in ComfyUI's handler is one at once: the handler has ended. Any other answer is one
        the second time, another 500 also of another job. Its server may be a gateway that queues later, or a proxy whose
        login ended.
        """
        return answer.raised or await self._context.database.run_with_retry(
            work.was_unconfirmed_before, self.spec.attempt_id, self.spec.workflow_digest, answer.status == 500
        )

    async def _refused_by_answer(self, answer: errors.PromptUnconfirmed) -> None:
        await self._refused(
            message=result.unconfirmed_message(answer, self._context.backend_id),
            details=result.unconfirmed_details(answer),
            # For its workflow, or since no ComfyUI answers there.
            kind=FailureClass.WORKFLOW_REFUSED if answer.status == 500 else FailureClass.UNREACHABLE,
            remember_until=None if answer.raised else self._remember_until(),
        )

    async def _never_accepted(self) -> None:
        await self._store(attempts.attempt_never_accepted, remember_until=self._remember_until())
        self._done = True

    def _remember_until(self) -> dt.datetime:
        return now() + dt.timedelta(seconds=self._intervals.abandoned_ttl)

    async def _lost(self) -> None:
        backend = self._context.backend_id
        self._report.close()
        await self._store(
            attempts.attempt_lost, reason=f"{backend} lost the prompt: it restarted, or another client removed it"
        )
        self._done = True

    async def _read_result(self) -> None:
        """Read the result from the history after an end event; without a history the frames decide."""
        give_up_at = time.monotonic() + self._intervals.history_grace
        while True:
            try:
                entry = await self._context.client.history(self.prompt_id)
            except errors.BackendError as error:
                self._context.request_failed(error)
                entry = None
            if entry is not None:
                await self._ended(ended(entry))
                return
            if time.monotonic() >= give_up_at:
                break
            await asyncio.sleep(min(0.2, self._intervals.history_grace / 10))
        await self._result_without_history()

    async def _result_without_history(self) -> None:
        if (end := self._evidence.end_of_frame()) is not None:
            await self._end(end)
            return
        # The closing frame alone does not say how the prompt ended.
        self._evidence.is_closed = False
        lookup = await self._look_up()
        if lookup is None:
            return
        if lookup.location is PromptLocation.ABSENT:
            await self._lost()
        else:
            await self._handle_location(lookup)

    async def _ended(self, lookup: PromptLookup) -> None:
        assert lookup.entry is not None  # noqa: S101 a sight of the history has its entry
        self._evidence.take_history(lookup.entry)
        found = await self._omitted_outputs(lookup)
        if found is not None:
            self._evidence.take_node_errors(found)
        end = self._evidence.end_of_history(lookup.entry)
        await self._end(replace(end, node_errors=found))

    async def _end(self, end: AttemptResult) -> None:
        end = await self._completion.completed(end, self.prompt_id)
        self._evidence.warn(*end.warnings)
        end = replace(end, last_step=self._report.last_step, warnings=tuple(self._evidence.warnings))
        self._report.close()
        was_interrupted = False
        if end.state is AttemptState.INTERRUPTED and end.ran:
            self._context.interrupter.log.target_ended(self.prompt_id)
            stop_is_stored = self._stop_requested or await self._stop_is_in_rows()
            was_interrupted = not stop_is_stored and await self._was_interrupted_by_other()
        if end.failure in result.FREED_AFTER and self._context.lease_is_fresh:
            # Before the end is stored: the next prompt there may follow at once.
            await free_memory(self._context.client)
            self._context.loaded_models = None
        store = attempts.attempt_interrupted_by_other if was_interrupted else attempts.attempt_ended
        await self._store(store, end=end)
        self.pictures.stored()
        self._context.runner.captures_due.set()
        if end.state is AttemptState.SUCCESS and (sample := self._timer.sample()) is not None:
            self._context.runner.timings.append(sample)
            metrics.observe_job(sample.workflow_digest, sample.backend_id, sample.seconds)
        self._done = True

    async def _was_interrupted_by_other(self) -> bool:
        """Return whether the interrupt of another prompt was what ended this one.

        The window starts at the event of its end, not at the answer of a slow history; without an event, when
        the prompt was last seen at the backend.
        """
        has_event = isinstance(self._evidence.end_frame, protocol.ExecutionInterrupted)
        return await self._context.interrupter.ended_by_other(
            self.prompt_id,
            since=(self._end_heard_at if has_event else self._last_seen_at) - self._intervals.collateral_window,
            until=self._end_heard_at if has_event else time.monotonic(),
        )

    async def _time_out(self) -> None:
        """Store the timeout, unless the history shows that the prompt has just ended.

        If its backend is offline, or has forgotten it, it is no timeout but lost.
        """
        lookup = await self._look_up()
        if lookup is not None and lookup.location in (PromptLocation.ENDED, PromptLocation.ABSENT):
            await self._handle_location(lookup)
            # Absent: once more after a moment, and then it is lost.
            self._limits.put_off(self._next_lookup_at)
            return
        if not self._limits.is_up(time.monotonic()):
            # An event came during the look-up: this process may have been suspended.
            return
        offline = lookup is None and self._context.availability.offline_for() is not None
        if lookup is None and not offline and self._may_be_offline():
            return
        self._report.close()
        await self._store(
            attempts.attempt_timed_out, offline=offline, stalled=self._limits.is_stalled(time.monotonic())
        )
        self._limits.end()
        self.request_stop()

    def _may_be_offline(self) -> bool:
        """Put the timeout off for a moment, in which the observer finds out whether the backend answers."""
        self._limits.put_off(time.monotonic() + self._intervals.stop_retry / 2)
        return self._limits.unanswered_for(time.monotonic()) < self._intervals.suspect_after

    async def _stop(self) -> None:
        """Look up, delete or interrupt, wait, and look up again, until the end is seen."""
        self._stop_at = time.monotonic() + self._intervals.stop_retry
        await self._note_stalled()
        lookup = await self._look_up()
        if lookup is None:
            return
        await self._handle_location(lookup)
        if not self.stop_pending:
            return
        try:
            await self._remove(lookup)
        except errors.BackendError as error:
            self._context.request_failed(error)

    async def _note_stalled(self) -> None:
        """Store that the prompt still runs, or that its state is unknown, long after its timeout."""
        tried_for = time.monotonic() - self._stop_requested_at
        # A prompt that could not be interrupted runs on for a reason, while its backend is available.
        availability = self._context.availability
        can_interrupt = not self.sent_stop.left_running or not availability.is_available
        patience = self._intervals.stalled_after if can_interrupt else self.spec.shortest_limit_s
        if not self._is_stalled and tried_for >= patience:
            reachable = availability.offline_for() is None
            stalled = await self._store(attempts.attempt_stalled, reachable=reachable, can_interrupt=can_interrupt)
            # A prompt that could not be interrupted hangs only if it runs on after it was.
            self._is_stalled = stalled or can_interrupt

    async def _remove(self, lookup: PromptLookup) -> None:
        if not self._context.lease_is_fresh:
            return
        if lookup.location is PromptLocation.PENDING:
            self._deleted = True
            await self._context.client.delete_pending([self.prompt_id])
            # It may have started meanwhile, so that the deletion did nothing: look it up again at once.
            again = await look_up(self._context.client, self.prompt_id, version=self._context.version)
            # After a frame of its execution its start is stored first, although the history may have been cleared since.
            if again.location is PromptLocation.ABSENT and not self._evidence.has_started:
                await self._end(self._evidence.removed())
                return
            await self._handle_location(again)
            lookup = again
        if lookup.location is PromptLocation.RUNNING and self.stop_pending:
            if not await self._stop_is_in_rows():
                # It was read before the start of the prompt made its move void.
                self._withdraw_stop()
                return
            self.sent_stop = await self._context.interrupter.interrupt(self.prompt_id)
            if self.sent_stop.is_cancel:
                self._context.work_available.set()
            if self.sent_stop.is_targeted:
                moment, intervals = time.monotonic(), self._intervals
                tried_for = max(intervals.targeted_retry, moment - self._stop_requested_at)
                self._stop_at = moment + min(tried_for, intervals.stop_retry)

    async def _store(self, service: Any, **fields: Any) -> Any:
        return await self._context.store_of_group(
            self.spec.group_id, service, attempt_id=self.spec.attempt_id, **fields
        )

    async def _stop_is_in_rows(self) -> bool:
        stops = await self._context.database.run_with_retry(work.pending_stops, self._context.backend_id)
        return self.spec.attempt_id in stops

    def _new_report(self) -> ProgressReporter:
        return ProgressReporter(
            self._context.runner.progress,
            group_id=self.spec.group_id,
            child_id=self.spec.child_id,
            fence=self._context.fence,
            attempt_id=self.spec.attempt_id,
            number=self.spec.number,
        )
