"""The decisions of one attempt, from the POST to its stored end. Pure: the driver performs what
they order.

Inputs have their moment; outputs are frozen. The last output of an input is a pause
(:class:`WakeAt`) or a request (:class:`Request`), and the driver returns its answer by
:meth:`AttemptMachine.receive`. Frames are hints, the history decides. All times are monotonic.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    NamedTuple,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

from backends.comfyui import errors, protocol
from backends.comfyui.answers import HistoryEntry
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import ATTEMPT_ENDED, AttemptState
from jobgroups.domain.stops import SentStop
from jobgroups.runner.attempt import result
from jobgroups.runner.attempt.evidence import Evidence, PromptLocation, PromptLookup, ended_lookup
from jobgroups.runner.attempt.limits import TimeLimits
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.workflow import dangling_link

if TYPE_CHECKING:
    from jobgroups.runner.intervals import Intervals

_BEFORE_RUNNING: Final = (AttemptState.INTENT, AttemptState.UNCERTAIN, AttemptState.ACCEPTED)
_AT_BACKEND: Final = (AttemptState.ACCEPTED, AttemptState.RUNNING)
_HISTORY_PAUSE: Final = 0.2  #: Seconds between two reads of a history that is late.


class Moment(NamedTuple):
    """The clock and the backend when an input came."""

    now: float
    is_available: bool = True  #: Whether the backend can take work.
    is_offline: bool = False  #: Whether neither an answer nor a frame comes from it.
    lease_is_fresh: bool = True  #: Whether this runner certainly holds the lease.


class Stored(NamedTuple):
    """The attempt after a transaction: another writer may have changed it."""

    state: AttemptState
    stop_requested: bool


class Sent(NamedTuple):
    """ComfyUI accepted the prompt."""

    prompt_id: str
    node_errors: Mapping[str, Any]
    sent_at: float


class Refusal(NamedTuple):
    """The prompt was refused, or cannot be sent."""

    message: str
    details: Mapping[str, Any]
    kind: FailureClass = FailureClass.WORKFLOW_REFUSED


class Write(StrEnum):
    """A transition that is stored; the value is the name of its service."""

    NOT_SENT = "attempt_not_sent"
    REFUSED = "attempt_refused"
    UNCERTAIN = "attempt_uncertain"
    NEVER_ACCEPTED = "attempt_never_accepted"
    ACCEPTED = "attempt_accepted"
    PARTLY_REFUSED = "attempt_partly_refused"
    STARTED = "attempt_started"
    OUTPUTS = "attempt_outputs_stored"
    TIMED_OUT = "attempt_timed_out"
    STALLED = "attempt_stalled"
    LOST = "attempt_lost"
    ENDED = "attempt_ended"
    INTERRUPTED_BY_OTHER = "attempt_interrupted_by_other"


@dataclass_transform(frozen_default=True)
class Output:
    """What the driver is to perform. Each kind is a frozen dataclass."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)


class Request(Output):
    """An output with an answer of one of these types. Nothing else is ordered before the answer."""

    answers: ClassVar[tuple[type, ...]] = ()


class WakeAt(Request):
    """Answer with None at this moment, or as soon as another :class:`WakeAt` follows an input."""

    answers = (type(None),)
    moment: float


class SendPrompt(Request):
    """Send the prompt, once and only now."""

    answers = (Sent, Refusal, errors.SendAborted, errors.BackendUnreachable, errors.ResponseLost)


class LookUp(Request):
    answers = (PromptLookup, errors.BackendError)
    by_job: bool = True  #: Whether ComfyUI's route of jobs says enough.
    #: Whether its server may have chosen another id, and the connection may be broken.
    is_uncertain: bool = False


class ReadHistory(Request):
    answers = (HistoryEntry, type(None), errors.BackendError)


class FindOmitted(Request):
    """Find the outputs that are not among those that ComfyUI lists for the prompt."""

    answers = (dict, errors.BackendError)
    listed: tuple[str, ...]


class FindSameAnswer(Request):
    """Find out whether another POST of the workflow had the answer of this one."""

    answers = (bool,)
    is_500: bool


class Complete(Request):
    """Complete an end by files and rows."""

    answers = (AttemptResult,)
    end: AttemptResult


class ReadStop(Request):
    """Read whether the stop of the attempt is pending in its row."""

    answers = (bool,)


class FindOtherStop(Request):
    """Find out whether the stop of another prompt ended this one, between two moments."""

    answers = (bool,)
    since: float
    until: float


class FreeMemory(Request):
    answers = (type(None),)


class RemovePending(Request):
    answers = (type(None), errors.BackendError)


class Interrupt(Request):
    answers = (SentStop, errors.BackendError)


class Store(Request):
    """Store a transition; the answer is :class:`Stored`, or what else its service returns."""

    answers = (Stored, bool, type(None))
    write: Write
    fields: Mapping[str, Any] = field(default_factory=dict)
    is_remembered: bool = False  #: Whether the prompt id stays on the abandoned list.


class ReportProgress(Output):
    pass


class CloseProgress(Output):
    sends: bool = True  #: Whether pending progress is still sent.


class ReopenProgress(Output):
    pass


class FreeSlot(Output):
    """Another job may be claimed now."""


class RestClaims(Output):
    """The backend refused a prompt, and may refuse the next as fast."""


class ConnectionFailed(Output):
    reason: str


class ExpectStatus(Output):
    """A status frame must follow the POST."""

    sent_at: float


class UseInterrupt(Output):
    """The prompt ended as interrupted: it used one of the interrupts that were sent for it."""


class Settle(Output):
    """The end is stored."""

    end: AttemptResult


T = TypeVar("T")
Steps: TypeAlias = Generator[Output, Any, T]


_REPORT: Final[tuple[Output, ...]] = (ReportProgress(),)


class Phase(StrEnum):
    """Where an attempt is in its life."""

    SENDING = "sending"  #: Its files are placed, the prompt is posted, and the answer is stored.
    #: The prompt may have arrived: it is looked up until it is seen, or long enough absent.
    UNCERTAIN = "uncertain"
    QUEUED = "queued"  #: ComfyUI has it and has not begun.
    RUNNING = "running"  #: ComfyUI has begun to execute it.
    #: Its stop is pending: it is looked up, deleted or interrupted until its end is seen.
    STOPPING = "stopping"
    ENDING = "ending"  #: Its end was seen: the result is read, completed and stored.
    DONE = "done"  #: Its end is stored, by this driver or another writer.


class PhaseRules(NamedTuple):
    requests: set[type[Request]]  #: What may be awaited.
    next: set[Phase]


_FOLLOWED: Final[set[type[Request]]] = {WakeAt, LookUp, FindOmitted, Store}
#: The only table of the phases: what each may await, and which may follow. ``docs/states.md`` has
#: its diagram.
PHASES: Final = {
    Phase.SENDING: PhaseRules(
        {SendPrompt, Store},
        {Phase.UNCERTAIN, Phase.QUEUED, Phase.RUNNING, Phase.STOPPING, Phase.DONE},
    ),
    Phase.UNCERTAIN: PhaseRules(
        {*_FOLLOWED, FindSameAnswer},
        {Phase.QUEUED, Phase.RUNNING, Phase.STOPPING, Phase.ENDING, Phase.DONE},
    ),
    Phase.QUEUED: PhaseRules(_FOLLOWED, {Phase.RUNNING, Phase.STOPPING, Phase.ENDING, Phase.DONE}),
    Phase.RUNNING: PhaseRules(_FOLLOWED, {Phase.STOPPING, Phase.ENDING, Phase.DONE}),
    # A stop that only a queue was to carry out is void once the prompt has started.
    Phase.STOPPING: PhaseRules(
        {*_FOLLOWED, FindSameAnswer, RemovePending, ReadStop, Interrupt},
        {Phase.RUNNING, Phase.ENDING, Phase.DONE},
    ),
    # Without a history and a frame of its end it is followed again.
    Phase.ENDING: PhaseRules(
        {ReadHistory, WakeAt, FindOmitted, Complete, ReadStop, FindOtherStop, FreeMemory, Store},
        {Phase.UNCERTAIN, Phase.RUNNING, Phase.STOPPING, Phase.DONE},
    ),
    Phase.DONE: PhaseRules(set(), set()),
}
#: The phases of a new claim, and of stored attempts that come back.
FIRST: Final = (Phase.SENDING, Phase.UNCERTAIN, Phase.QUEUED, Phase.RUNNING, Phase.STOPPING)
#: The phase of an attempt that is neither stopped nor ending.
_OF_STATE: Final = {AttemptState.ACCEPTED: Phase.QUEUED, AttemptState.RUNNING: Phase.RUNNING}


class IllegalInput(Exception):
    """The phase of the attempt does not have this input; nothing has changed."""


class AttemptMachine:
    """Decides about one attempt: a new claim, or a stored one that came back."""

    is_done = False  #: Whether its end is stored.
    awaited: Request | None = None  #: The request whose answer is the next one.
    sent_stop = SentStop()  #: How it was last to be stopped while it ran.
    #: Since when its look-ups have failed in a row, and why; None: the last one succeeded, or an
    #: event came since.
    unanswered_since: float | None = None
    unanswered_reason = ""
    _is_ending = _is_stalled = _was_deleted = False
    _has_news = False  #: Whether an input came that ends the next pause at once.
    _absent_since: float | None = None

    def __init__(
        self,
        spec: AttemptSpec,
        intervals: Intervals,
        backend: str,
        base_url: str,
        *,
        now: float,
        gone: float | None = None,
    ) -> None:
        """Start in the state of ``spec``. ``backend`` is its name for users. ``gone``: seconds since
        its start, by the wall clock; None: it has none.
        """
        self.spec, self._intervals, self._backend = spec, intervals, backend
        self.prompt_id, self.state = spec.prompt_id, spec.state
        self.stop_requested = spec.stop_requested
        self.evidence = Evidence(spec, base_url)
        #: Whether it was looked up once, answered or not; a new attempt need not be.
        self.was_looked_up = spec.is_new
        self._limits = TimeLimits(spec.timeout_s, spec.stall_s)
        if gone is not None:
            self._limits.start(now, gone)
        self._at, self._steps = Moment(now), self._run()
        self._heard_at = self._end_heard_at = now
        self._last_seen_at = now  #: When it was last seen at the backend without having ended.
        self._next_lookup_at = now if not spec.is_new else now + intervals.lookup_interval
        self._stop_at = self._stop_requested_at = now
        #: What the POST was answered with, where that neither accepts nor refuses the prompt.
        self._answer = spec.answer

    @property
    def phase(self) -> Phase:
        if self.is_done:
            return Phase.DONE
        if self._is_ending:
            return Phase.ENDING
        if self.spec.is_new and self.state is AttemptState.INTENT:
            return Phase.SENDING
        return Phase.STOPPING if self.stop_requested else _OF_STATE.get(self.state, Phase.UNCERTAIN)

    @property
    def stop_pending(self) -> bool:
        """Whether the prompt is to be stopped and was not seen to end."""
        return self.stop_requested and not self.is_done

    @property
    def is_pending(self) -> bool:
        """Whether it was accepted and no sign of execution was seen."""
        return self.state is AttemptState.ACCEPTED and not self.evidence.has_started

    @property
    def is_absent(self) -> bool:
        """Whether it is uncertain, and the last lookup did not find it."""
        return self.state is AttemptState.UNCERTAIN and self._absent_since is not None

    @property
    def can_hand_over(self) -> bool:
        """Whether another runner may resume it now without repeating a request or a decision."""
        return (
            self.state in _AT_BACKEND
            and self.was_looked_up
            and not self.stop_requested
            and not self.evidence.is_closed
            and self.evidence.end_frame is None
        )

    def begin(self, at: Moment) -> tuple[Output, ...]:
        """Return the first outputs. Other inputs may have come before."""
        if self.awaited is not None or self.is_done:
            raise IllegalInput("It has begun.")
        return self._resume(None, at)

    def receive(self, answer: Any, at: Moment) -> tuple[Output, ...]:
        """Take in the answer to the awaited request; raise ``IllegalInput`` for any other one."""
        if self.awaited is None or not isinstance(answer, self.awaited.answers):
            raise IllegalInput(f"{answer!r} answers no {self.awaited!r} ({self.phase}).")
        return self._resume(answer, at)

    def _resume(self, answer: Any, at: Moment) -> tuple[Output, ...]:
        self._at, self.awaited = at, None
        outputs: list[Output] = []
        try:
            while self.awaited is None:
                outputs.append(output := self._steps.send(answer))
                answer = None
                if isinstance(output, Request):
                    self.awaited = output
        except StopIteration:
            pass
        return tuple(outputs)

    def on_event(self, event: protocol.Event, now: float) -> tuple[Output, ...]:
        """Take in an event of this prompt."""
        if self.is_done:
            return ()
        self._heard_at = now
        self._limits.restart_stall(now)
        self.unanswered_since = None
        evidence = self.evidence
        if not evidence.apply(event):
            return ()
        if evidence.end_frame is event:
            # No end yet: the history decides. The closing frame follows at once; if it does not,
            # the history is queried.
            self._end_heard_at = now
            self._next_lookup_at = now + self._intervals.stop_retry / 2
        if self.state is not AttemptState.RUNNING:
            return self._news(now)
        outputs = () if self.stop_requested else _REPORT
        if evidence.is_closed or evidence.end_frame is not None or not evidence.is_stored:
            outputs += self._news(now)
        return outputs

    def request_stop(self, now: float) -> tuple[Output, ...]:
        """Take in that a stop of this attempt was stored."""
        if self.stop_requested or self.is_done:
            return ()
        return self._take_stop(now), *self._news(now)

    def socket_opened(self, now: float) -> tuple[Output, ...]:
        """Take in that its events are received again: some may have been lost."""
        self._limits.restart_stall(now)
        return ()

    def look_up_now(self, now: float) -> tuple[Output, ...]:
        """Look the prompt up soon: its socket was lost, or the backend is available again."""
        self._next_lookup_at = now
        return self._news(now)

    def _news(self, now: float) -> tuple[Output, ...]:
        self._has_news = True
        # A read of the history that pauses is not hurried.
        return (WakeAt(now),) if isinstance(self.awaited, WakeAt) and not self._is_ending else ()

    def _take_stop(self, now: float) -> CloseProgress:
        self.stop_requested = self._has_news = True
        self._stop_at = self._stop_requested_at = now
        return CloseProgress(sends=False)

    @property
    def _now(self) -> float:
        return self._at.now

    def _run(self) -> Steps[None]:
        """Send the prompt if it is new, then follow it until its end is stored."""
        if self.spec.is_new:
            yield from self._send()
        elif self.state is AttemptState.INTENT:
            # Its sender died somewhere around the POST: it may have arrived, or may still.
            yield from self._uncertain()
        while not self.is_done:
            due = self._due()
            yield WakeAt(self._now if self._has_news else due)
            if not self._has_news:
                # Events that changed nothing postpone the look-up.
                self._next_lookup()
            self._has_news = False
            yield from self._step()
            self.was_looked_up = True
        yield CloseProgress()

    def _due(self) -> float:
        return min(
            self._next_lookup(), self._stop_at if self.stop_requested else self._limits.check_at
        )

    def _next_lookup(self) -> float:
        # A prompt whose events arrive needs no look-up, unless the event was its end.
        if self.evidence.end_frame is None and self.state in _AT_BACKEND:
            quiet = self._heard_at + self._intervals.lookup_interval
            if self._next_lookup_at < quiet and self.evidence.has_started:
                self._next_lookup_at = quiet
        return self._next_lookup_at

    def _step(self) -> Steps[None]:
        """Do what is due, the most urgent first."""
        if self.evidence.has_started and self.state in _BEFORE_RUNNING:
            yield from self._store_started()
        if self.evidence.is_closed and not self.is_done:
            yield from self._read_result()
        if self.is_done:
            return
        if not self.evidence.is_stored:
            yield Store(Write.OUTPUTS, self.evidence.to_store())
        if self._now >= self._limits.check_at and not self.stop_requested:
            yield from self._time_out()
        elif self.stop_requested and self._now >= self._stop_at:
            yield from self._stop()
        elif (
            self._now >= self._next_lookup_at
            and (lookup := (yield from self._look_up())) is not None
        ):
            yield from self._apply_lookup(lookup)

    def _send(self) -> Steps[None]:
        if (loose := dangling_link(self.spec.workflow)) is not None:
            # It would kill the backend's worker.
            yield from self._end_as(Write.REFUSED, result.dangling(*loose))
            return
        if not self._at.lease_is_fresh:
            # Another runner may hold the lease by now, and send this child itself.
            yield from self._end_as(Write.NOT_SENT)
            return
        answer = yield SendPrompt()
        match answer:
            case Sent(prompt_id, node_errors, sent_at):
                other = prompt_id if prompt_id != self.prompt_id else None
                self.prompt_id = prompt_id
                yield from self._store_accepted(other, node_errors)
                yield ExpectStatus(sent_at)
            case Refusal():
                yield from self._end_refused(answer)
            case errors.ResponseLost():
                self._answer = answer if isinstance(answer, errors.PromptUnconfirmed) else None
                yield from self._uncertain()
            case _:
                yield from self._end_as(Write.NOT_SENT)
                if isinstance(answer, errors.BackendUnreachable):
                    yield ConnectionFailed(answer.detail)

    def _end_as(
        self, write: Write, fields: Mapping[str, Any] | None = None, *, is_remembered: bool = False
    ) -> Steps[None]:
        yield Store(write, fields or {}, is_remembered)
        self.is_done = True

    def _end_refused(self, refusal: Refusal, *, is_remembered: bool = False) -> Steps[None]:
        yield from self._end_as(Write.REFUSED, refusal._asdict(), is_remembered=is_remembered)
        yield RestClaims()

    def _uncertain(self) -> Steps[None]:
        answer = self._answer
        message, details = (
            (None, None) if answer is None else (answer.detail, result.unconfirmed_details(answer))
        )
        yield from self._apply(
            (yield Store(Write.UNCERTAIN, {"message": message, "details": details}))
        )
        self._next_lookup_at = self._now

    def _store_accepted(
        self, other_id: str | None = None, node_errors: Mapping[str, Any] | None = None
    ) -> Steps[None]:
        stored = yield Store(Write.ACCEPTED, {"prompt_id": other_id, "node_errors": node_errors})
        if node_errors is not None:
            self.evidence.take_node_errors(node_errors)
        if stored.state is AttemptState.RUNNING:
            # A sign of execution was stored with the acceptance.
            yield from self._note_start(stored)
        else:
            yield from self._apply(stored)
        self._next_lookup_at = self._now + self._intervals.lookup_interval

    def _store_started(self) -> Steps[None]:
        yield from self._note_start((yield Store(Write.STARTED)))

    def _note_start(self, stored: Stored) -> Steps[None]:
        if self.stop_requested and not stored.stop_requested:
            # It was to be removed from the queue for a move or a recall, and has started: it runs
            # to its end.
            yield self._withdraw_stop()
        yield from self._apply(stored)
        self._limits.start(self._now)
        # After a stop request the attempt no longer reports progress: its child is queued again or
        # final.
        if not self.stop_requested:
            yield ReportProgress()

    def _withdraw_stop(self) -> ReopenProgress:
        self.stop_requested = self._was_deleted = False
        return ReopenProgress()

    def _apply(self, stored: Stored) -> Steps[None]:
        """Apply the state that the transaction stored: another writer may have requested a stop."""
        known, self.state = self.state, stored.state
        if AttemptState.UNCERTAIN in {known, self.state}:
            # Other jobs of its workflow wait while it is uncertain.
            yield FreeSlot()
        # Another writer may have ended it: an administrator, or a runner that took the lease over.
        self.is_done = self.state in ATTEMPT_ENDED
        if stored.stop_requested and not self.stop_requested:
            yield self._take_stop(self._now)

    def _look_up(self) -> Steps[PromptLookup | None]:
        """Look the prompt up; return None if the backend did not answer."""
        self._next_lookup_at = self._now + self._intervals.lookup_interval
        is_uncertain = self.state is AttemptState.UNCERTAIN
        # A job lists neither its mark nor its outputs.
        by_job = not is_uncertain and self.evidence.node_errors is not None
        lookup = yield LookUp(by_job, is_uncertain)
        if isinstance(lookup, errors.BackendError):
            self._note_unanswered(lookup)
            # A delayed request may still arrive when the network recovers. Restart the absence
            # timer.
            self._absent_since = None
            return None
        self.unanswered_since = None
        if lookup.location is not PromptLocation.ABSENT:
            self._absent_since = None
        if lookup.location in (PromptLocation.PENDING, PromptLocation.RUNNING):
            self._last_seen_at = self._now
        return lookup  # type: ignore[no-any-return]

    def _note_unanswered(self, error: errors.BackendError) -> None:
        # Behind a queue longer than the limit it waits for other work, as long as it was accepted
        # and may stay there.
        long_queue = isinstance(error, errors.AnswerTooLarge) and error.path == "/queue"
        if long_queue and self.state in _AT_BACKEND and not self.stop_requested:
            return
        self.unanswered_since = self.unanswered_since or self._now
        self.unanswered_reason = error.detail

    def _apply_lookup(self, lookup: PromptLookup) -> Steps[None]:
        if lookup.other_id is not None:
            self.prompt_id = lookup.other_id
            yield from self._store_accepted(lookup.other_id)
        match lookup.location:
            case PromptLocation.ENDED:
                yield from self._end_by_history(lookup)
            case PromptLocation.ABSENT:
                yield from self._absent()
            case PromptLocation.RUNNING:
                self.evidence.has_started = True
                if self.state in _BEFORE_RUNNING:
                    yield from self._store_started()
                yield from self._find_refused(lookup)
            case PromptLocation.PENDING:
                if self.state is AttemptState.UNCERTAIN:
                    yield from self._store_accepted()
                yield from self._find_refused(lookup)

    def _find_refused(self, lookup: PromptLookup) -> Steps[None]:
        """Find out which outputs are not executed if the answer that named them was lost."""
        # Another writer may have ended it when its start was stored.
        omitted = None if self.is_done else (yield from self._omitted_outputs(lookup))
        if omitted is not None:
            stored = yield Store(Write.PARTLY_REFUSED, {"node_errors": omitted})
            self.evidence.take_node_errors(omitted)
            yield from self._apply(stored)

    def _omitted_outputs(self, lookup: PromptLookup) -> Steps[Mapping[str, Any] | None]:
        """Return the outputs that are not executed; None: that was known, or cannot be seen now."""
        listed = None if lookup.item is None else lookup.item.outputs
        if self.evidence.node_errors is not None or listed is None:
            return None
        omitted = yield FindOmitted(listed)
        return None if isinstance(omitted, errors.BackendError) else omitted

    def _absent(self) -> Steps[None]:
        """Decide what an absence means: never arrived, deleted by us, or forgotten by the backend."""
        if self._absent_since is None:
            self._absent_since = self._now
            # Another job may use the free slot.
            yield FreeSlot()
        absent_for = self._now - self._absent_since
        if self.state is AttemptState.UNCERTAIN:
            yield from self._absent_uncertain(absent_for)
        elif absent_for < self._intervals.stop_retry:
            # Once more after a moment: an end and its frames travel on two connections.
            self._next_lookup_at = self._now + self._intervals.stop_retry
        elif self._was_deleted and self.state is AttemptState.ACCEPTED:
            yield from self._end(self.evidence.removed())
        else:
            yield from self._end_lost()

    def _absent_uncertain(self, absent_for: float) -> Steps[None]:
        """End an uncertain prompt that was absent for long enough, or whose answer is a refusal.

        An exception in ComfyUI's handler is one at once: the handler has ended. Any other answer is
        one the second time, another 500 also of another job. Its server may be a gateway that
        queues later, or a proxy whose login ended.
        """
        answer = self._answer
        if answer is not None and (answer.raised or (yield FindSameAnswer(answer.status == 500))):
            # For its workflow, or since no ComfyUI answers there.
            kind = (
                FailureClass.WORKFLOW_REFUSED if answer.status == 500 else FailureClass.UNREACHABLE
            )
            message = result.unconfirmed_message(answer, self._backend)
            refusal = Refusal(message, result.unconfirmed_details(answer), kind)
            yield from self._end_refused(refusal, is_remembered=not answer.raised)
        elif absent_for >= self._intervals.accept_timeout:
            yield from self._end_as(Write.NEVER_ACCEPTED, is_remembered=True)

    def _end_lost(self) -> Steps[None]:
        yield CloseProgress()
        reason = f"{self._backend} lost the prompt: it restarted, or another client removed it"
        yield from self._end_as(Write.LOST, {"reason": reason})

    def _read_result(self) -> Steps[None]:
        """Read the result from the history after an end event; without a history the frames decide."""
        self._is_ending = True
        grace = self._intervals.history_grace
        give_up_at = self._now + grace
        while True:
            entry = yield ReadHistory()
            if isinstance(entry, HistoryEntry):
                yield from self._end_by_history(ended_lookup(entry))
                return
            if self._now >= give_up_at:
                break
            yield WakeAt(self._now + min(_HISTORY_PAUSE, grace / 10))
        if (end := self.evidence.end_of_frame()) is not None:
            yield from self._end(end)
            return
        # The closing frame alone does not say how the prompt ended.
        self._is_ending = self.evidence.is_closed = False
        if (lookup := (yield from self._look_up())) is None:
            return
        yield from (
            self._end_lost()
            if lookup.location is PromptLocation.ABSENT
            else self._apply_lookup(lookup)
        )

    def _end_by_history(self, lookup: PromptLookup) -> Steps[None]:
        assert lookup.entry is not None  # noqa: S101 a sight of the history has its entry
        self._is_ending = True
        self.evidence.take_history(lookup.entry)
        omitted = yield from self._omitted_outputs(lookup)
        if omitted is not None:
            self.evidence.take_node_errors(omitted)
        yield from self._end(
            replace(self.evidence.end_of_history(lookup.entry), node_errors=omitted)
        )

    def _end(self, end: AttemptResult) -> Steps[None]:
        """Complete an end and store it, unless another prompt's stop was what ended this one."""
        self._is_ending = True
        end = yield Complete(end)
        self.evidence.warn(*end.warnings)
        has_output = any(end.node_outputs.values()) or self.evidence.warnings
        if end.state is AttemptState.SUCCESS and not has_output:
            self.evidence.warn(result.NO_OUTPUT)
        end = replace(end, warnings=tuple(self.evidence.warnings))
        yield CloseProgress()
        was_interrupted = False
        if end.state is AttemptState.INTERRUPTED and end.ran:
            yield UseInterrupt()
            stop_is_stored = self.stop_requested or (yield ReadStop())
            was_interrupted = not stop_is_stored and (yield self._find_other_stop())
        if end.failure in result.FREED_AFTER and self._at.lease_is_fresh:
            # Before the end is stored: the next prompt there may follow at once.
            yield FreeMemory()
        yield from self._end_as(
            Write.INTERRUPTED_BY_OTHER if was_interrupted else Write.ENDED, {"end": end}
        )
        yield Settle(end)

    def _find_other_stop(self) -> FindOtherStop:
        """Return the search for the stop of another prompt that may have ended this one.

        The window starts at the event of its end, not at the answer of a slow history; without an
        event, when the prompt was last seen at the backend.
        """
        has_event = isinstance(self.evidence.end_frame, protocol.ExecutionInterrupted)
        return FindOtherStop(
            since=(self._end_heard_at if has_event else self._last_seen_at)
            - self._intervals.collateral_window,
            until=self._end_heard_at if has_event else self._now,
        )

    def _time_out(self) -> Steps[None]:
        """Store the timeout, unless the history shows that the prompt has just ended.

        If its backend is offline, or has forgotten it, it is no timeout but lost.
        """
        lookup = yield from self._look_up()
        if lookup is not None and lookup.location in (PromptLocation.ENDED, PromptLocation.ABSENT):
            yield from self._apply_lookup(lookup)
            # Absent: once more after a moment, and then it is lost.
            self._limits.put_off(self._next_lookup_at)
            return
        if not self._limits.is_up(self._now):
            # An event came during the look-up: this process may have been suspended.
            return
        is_offline = lookup is None and self._at.is_offline
        if lookup is None and not is_offline and self._may_be_offline():
            return
        yield CloseProgress()
        is_stalled = self._limits.is_stalled(self._now)
        yield Store(Write.TIMED_OUT, {"offline": is_offline, "stalled": is_stalled})
        self._limits.end()
        if not self.stop_requested:
            yield self._take_stop(self._now)

    def _may_be_offline(self) -> bool:
        """Put the timeout off for a moment, in which the observer finds out whether the backend
        answers.
        """
        self._limits.put_off(self._now + self._intervals.stop_retry / 2)
        return self._limits.unanswered_for(self._now) < self._intervals.suspect_after

    def _stop(self) -> Steps[None]:
        """Look up, delete or interrupt, wait, and look up again, until the end is seen."""
        self._stop_at = self._now + self._intervals.stop_retry
        yield from self._note_stalled()
        if (lookup := (yield from self._look_up())) is None:
            return
        yield from self._apply_lookup(lookup)
        if not self.stop_pending or not self._at.lease_is_fresh:
            return
        location: PromptLocation | None = lookup.location
        if location is PromptLocation.PENDING:
            location = yield from self._remove_pending()
        if location is PromptLocation.RUNNING and self.stop_pending:
            yield from self._interrupt()

    def _note_stalled(self) -> Steps[None]:
        """Store that the prompt still runs, or that its state is unknown, long after its timeout."""
        # A prompt that could not be interrupted runs on for a reason, while its backend is
        # available.
        can_interrupt = not self.sent_stop.left_running or not self._at.is_available
        patience = self._intervals.stalled_after if can_interrupt else self.spec.shortest_limit_s
        if not self._is_stalled and self._now - self._stop_requested_at >= patience:
            fields = {"reachable": not self._at.is_offline, "can_interrupt": can_interrupt}
            is_stored = yield Store(Write.STALLED, fields)
            # A prompt that could not be interrupted hangs only if it runs on after it was.
            self._is_stalled = is_stored or can_interrupt

    def _remove_pending(self) -> Steps[PromptLocation | None]:
        """Delete a prompt that waits; return where it is now, None if that is not known or it has
        ended.
        """
        self._was_deleted = True
        if (yield RemovePending()) is not None:
            return None
        # It may have started meanwhile, so that the deletion did nothing: look it up again at once.
        again = yield LookUp()
        if isinstance(again, errors.BackendError):
            return None
        # After a frame of its execution its start is stored first, although the history may have
        # been cleared since.
        if again.location is PromptLocation.ABSENT and not self.evidence.has_started:
            yield from self._end(self.evidence.removed())
            return None
        yield from self._apply_lookup(again)
        return again.location  # type: ignore[no-any-return]

    def _interrupt(self) -> Steps[None]:
        if not (yield ReadStop()):
            # It was read before the start of the prompt made its move void.
            yield self._withdraw_stop()
            return
        sent = yield Interrupt()
        if isinstance(sent, errors.BackendError):
            return
        self.sent_stop = sent
        if sent.is_cancel:
            yield FreeSlot()
        if sent.is_targeted:
            intervals = self._intervals
            tried_for = max(intervals.targeted_retry, self._now - self._stop_requested_at)
            self._stop_at = self._now + min(tried_for, intervals.stop_retry)
