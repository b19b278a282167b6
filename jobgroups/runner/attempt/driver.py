"""One attempt, from the POST to its stored end: performs what its machine orders, and decides
nothing.

The sockets call :meth:`AttemptDriver.on_event`, which never waits; one task performs the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from backends.comfyui import errors, protocol
from backends.comfyui.answers import HistoryEntry
from jobgroups import metrics
from jobgroups.domain.clock import now
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt
from jobgroups.queries import work
from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.completion import Completion, free_memory
from jobgroups.runner.attempt.evidence import PromptLookup
from jobgroups.runner.attempt.lookup import look_up, omitted_outputs
from jobgroups.runner.attempt.machine import AttemptMachine, Moment, Output, Request, Stored
from jobgroups.runner.attempt.pictures import SentPictures
from jobgroups.runner.attempt.sender import Sender
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.attempt.timer import PromptTimer
from jobgroups.runner.context import SessionContext
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.progress import ProgressReporter
from jobgroups.services import attempts


class AttemptDriver:
    """Follows one prompt until its end is stored. One task runs :meth:`run`."""

    def __init__(self, context: SessionContext, spec: AttemptSpec) -> None:
        self.spec = spec
        self.pictures = SentPictures(spec.workflow)
        self.machine = AttemptMachine(
            spec,
            context.intervals,
            context.desired_state.name,
            context.client.url,
            now=time.monotonic(),
            gone=None if spec.started_at is None else (now() - spec.started_at).total_seconds(),
        )
        self._context = context
        #: Set when the pause of the machine ends before its moment.
        self._changed = asyncio.Event()
        self._timer = PromptTimer(context, spec, time.monotonic())
        self._report = self._new_report()
        self._sender = Sender(context, spec, lambda: self.machine.stop_requested)
        #: Held while the prompt is sent and its answer stored.
        self._turn = contextlib.AsyncExitStack()
        evidence = self.machine.evidence
        self._completion = Completion(context, evidence, self.pictures, self._timer)

    def on_event(self, event: protocol.Event) -> None:
        """Take in an event of this prompt. Never waits."""
        moment = time.monotonic()
        self._timer.on_event(event, moment)
        self.pictures.on_event(event)
        self._perform_orders(self.machine.on_event(event, moment))

    def request_stop(self) -> None:
        """Take in that a stop of this attempt was stored."""
        self._perform_orders(self.machine.request_stop(time.monotonic()))

    def socket_opened(self) -> None:
        """Take in that its events are received again: some may have been lost."""
        self._timer.events_missed()
        self._perform_orders(self.machine.socket_opened(time.monotonic()))

    def look_up_now(self) -> None:
        """Look the prompt up soon: its socket was lost, or the backend is available again."""
        self._perform_orders(self.machine.look_up_now(time.monotonic()))

    @property
    def can_hand_over(self) -> bool:
        """Whether another runner may resume it now without repeating a request or a decision, or
        losing a picture.
        """
        return self.machine.can_hand_over and not self.pictures

    async def run(self) -> None:
        """Send the prompt if it is fresh, then follow it until its end is stored.

        Raises ``LeaseLost`` if the backend is another runner's now; nothing more was written.
        """
        outputs = self.machine.begin(self._moment())
        async with self._turn:
            while self.machine.phase is m.Phase.SENDING:
                outputs = await self._perform(outputs)
        while outputs:
            outputs = await self._perform(outputs)

    def _moment(self) -> Moment:
        context, availability = self._context, self._context.availability
        is_offline = availability.offline_for() is not None
        return Moment(
            time.monotonic(), availability.is_available, is_offline, context.lease_is_fresh
        )

    async def _perform(self, outputs: Iterable[Output]) -> tuple[Output, ...]:
        """Perform outputs of the machine, and return the next ones; none: it is done."""
        self._perform_orders(outputs)
        if (request := self.machine.awaited) is None:
            return ()
        try:
            answer: object = await self._ANSWERS[type(request)](self, request)
        except errors.BackendError as error:
            if not isinstance(error, request.answers):
                raise
            self._context.request_failed(error)
            answer = error
        return self.machine.receive(answer, self._moment())

    def _perform_orders(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output is not self.machine.awaited:
                self._ORDERS[type(output)](self, output)

    _ORDERS: ClassVar[dict[type[Output], Callable[[AttemptDriver, Any], object]]] = {
        m.WakeAt: lambda self, _: self._changed.set(),
        m.ReportProgress: lambda self, _: self._report.update(self.machine.evidence.tracker),
        m.CloseProgress: lambda self, order: self._report.close(sends=order.sends),
        m.ReopenProgress: lambda self, _: setattr(self, "_report", self._new_report()),
        m.FreeSlot: lambda self, _: self._context.work_available.set(),
        m.RestClaims: lambda self, _: setattr(self._context, "refused_at", time.monotonic()),
        m.ConnectionFailed: lambda self, order: self._context.availability.connection_failed(
            order.reason
        ),
        m.ExpectStatus: lambda self, order: self._context.expect_status_since(order.sent_at),
        m.UseInterrupt: lambda self, _: self._context.interrupter.log.target_ended(
            self.machine.prompt_id
        ),
        m.Settle: lambda self, order: self._settle(order.end),
    }

    async def _pause(self, request: m.WakeAt) -> None:
        await wait_set(self._changed, within=max(0.0, request.moment - time.monotonic()))
        self._changed.clear()

    async def _look_up(self, request: m.LookUp) -> PromptLookup:
        return await look_up(
            self._context.client,
            self.machine.prompt_id,
            version=self._context.version if request.by_job else None,
            mark=self.spec.mark if request.is_uncertain else None,
        )

    async def _read_history(self, request: m.ReadHistory) -> HistoryEntry | None:
        return await self._context.client.history(self.machine.prompt_id)

    async def _find_same_answer(self, request: m.FindSameAnswer) -> bool:
        return await self._context.database.run_with_retry(
            work.was_unconfirmed_before,
            self.spec.attempt_id,
            self.spec.workflow_digest,
            request.is_500,
        )

    async def _complete(self, request: m.Complete) -> AttemptResult:
        end = await self._completion.completed(request.end, self.machine.prompt_id)
        return replace(end, last_step=self._report.last_step)

    async def _read_stop(self, _: m.ReadStop) -> bool:
        stops = await self._context.database.run_with_retry(
            work.pending_stops, self._context.backend_id
        )
        return self.spec.attempt_id in stops

    async def _free_memory(self, _: m.FreeMemory) -> None:
        await free_memory(self._context.client)
        self._context.loaded_models = None

    async def _store(self, request: m.Store) -> Any:
        fields: Mapping[str, Any] = request.fields
        if request.is_remembered:
            until = now() + dt.timedelta(seconds=self._context.intervals.abandoned_ttl)
            fields = {**fields, "remember_until": until}
        if request.write is m.Write.ACCEPTED:
            # What comes while the write waits is stored with it.
            fields = {**fields, "has_started": lambda: self.machine.evidence.has_started}
        stored = await self._context.store_of_group(
            self.spec.group_id,
            getattr(attempts, request.write),
            attempt_id=self.spec.attempt_id,
            **fields,
        )
        if isinstance(stored, Attempt):
            return Stored(AttemptState(stored.state), stored.stop_requested_at is not None)
        return stored

    def _settle(self, end: AttemptResult) -> None:
        self.pictures.stored()
        self._context.runner.captures_due.set()
        sample = self._timer.sample(end.seconds)
        if end.state is AttemptState.SUCCESS and sample is not None:
            self._context.runner.timings.append(sample)
            metrics.observe_job(sample.workflow_digest, sample.backend_id, sample.seconds)

    def _new_report(self) -> ProgressReporter:
        return ProgressReporter(
            self._context.runner.progress,
            group_id=self.spec.group_id,
            child_id=self.spec.child_id,
            fence=self._context.fence,
            attempt_id=self.spec.attempt_id,
            number=self.spec.number,
        )

    _ANSWERS: ClassVar[dict[type[Request], Callable[[AttemptDriver, Any], Awaitable[object]]]] = {
        m.WakeAt: _pause,
        m.SendPrompt: lambda self, _: self._sender.send(self._turn),
        m.LookUp: _look_up,
        m.ReadHistory: lambda self, request: self._read_history(request),
        m.FindOmitted: lambda self, request: omitted_outputs(
            self._context.client, self.spec.workflow, request.listed
        ),
        m.FindSameAnswer: _find_same_answer,
        m.Complete: _complete,
        m.ReadStop: _read_stop,
        m.FindOtherStop: lambda self, request: self._context.interrupter.ended_by_other(
            self.machine.prompt_id, since=request.since, until=request.until
        ),
        m.FreeMemory: _free_memory,
        m.RemovePending: lambda self, _: self._context.client.delete_pending(
            [self.machine.prompt_id]
        ),
        m.Interrupt: lambda self, _: self._context.interrupter.interrupt(self.machine.prompt_id),
        m.Store: _store,
    }
