"""A machine of an attempt, whose requests a test answers at moments of its choice."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from backends.comfyui import answers, errors, protocol
from backends.comfyui.answers import HistoryEntry
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState
from jobgroups.domain.stops import SentStop
from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.evidence import PromptLocation, PromptLookup, ended_lookup
from jobgroups.runner.attempt.machine import AttemptMachine, Moment, Output, Request, Stored, Write
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.intervals import Intervals

INTERVALS: Final = Intervals()
START: Final = 1000.0
WORKFLOW: Final = {
    "3": {"class_type": "KSampler", "inputs": {"steps": 4}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}
FILE: Final = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}


@functools.cache
def history(outcome: str = "success") -> HistoryEntry:
    """Return the history of the prompt; shared, so a test must not change it."""
    last = {
        "success": "execution_success",
        "error": "execution_error",
        "interrupted": "execution_interrupted",
    }
    entry = {
        "prompt": [0, "p", WORKFLOW, {}, ["9"]],
        "status": {
            "status_str": "success" if outcome == "success" else "error",
            "messages": [
                ("execution_cached", {"nodes": []}),
                (last[outcome], {"exception_type": "E", "exception_message": "broken"}),
            ],
        },
        "outputs": {"9": FILE},
    }
    found = answers.history_entry(json.dumps({"p": entry}).encode(), "p")
    assert found is not None
    return found


def seen(location: PromptLocation, *, other_id: str | None = None) -> PromptLookup:
    if location is PromptLocation.ENDED:
        return ended_lookup(history())
    item = None if location is PromptLocation.ABSENT else history().item
    return PromptLookup(location, other_id=other_id, item=item)


PENDING, RUNNING, ENDED, ABSENT = (seen(location) for location in PromptLocation)
LOST: Final = errors.ResponseLost("no answer")
AWAY: Final = errors.BackendUnreachable("refused")
BEGUN: Final = protocol.ExecutionStart(prompt_id="p")
NODE: Final = protocol.Executing(prompt_id="p", node="3")
STEP: Final = protocol.Progress(prompt_id="p", node="3", value=1, max=4)
OUTPUT: Final = protocol.Executed(prompt_id="p", node="9", output=FILE)
SUCCESS: Final = protocol.ExecutionSuccess(prompt_id="p")
INTERRUPTED: Final = protocol.ExecutionInterrupted(prompt_id="p")
BROKEN: Final = protocol.ExecutionError(
    prompt_id="p", exception_type="E", exception_message="broken"
)
BLOCKED: Final = protocol.ExecutionError(
    prompt_id="p",
    node_id="9",
    node_type="SaveImage",
    exception_type="ExecutionBlocked",
    exception_message="no face",
)
CLOSED: Final = protocol.Executing(prompt_id="p", node=None)
FRAMES: Final = (BEGUN, NODE, STEP, OUTPUT, SUCCESS, INTERRUPTED, BROKEN, BLOCKED, CLOSED)


def unconfirmed(status: int = 404, *, raised: bool = False) -> errors.PromptUnconfirmed:
    return errors.PromptUnconfirmed(f"{status}.", status=status, text="no", raised=raised)


def spec(**fields: Any) -> AttemptSpec:
    """Return a new claim; ``state`` makes it a stored attempt."""
    start = {
        "is_new": "state" not in fields,
        "attempt_id": 7,
        "number": 1,
        "prompt_id": "p",
        "client_id": "c",
    }
    group = {"group_id": "g", "child_id": "j", "timeout_s": 60.0, "workflow": WORKFLOW}
    return AttemptSpec(**start | group | fields)


class Play:
    """Plays driver and backend. Attributes of the backend, as of :class:`Moment`, are given to each
    input.
    """

    def __init__(
        self, *, gone: float | None = None, begins: Mapping[str, bool] | None = None, **fields: Any
    ) -> None:
        self.now = START
        self.machine = AttemptMachine(
            spec(**fields), INTERVALS, "gpu-1", "http://gpu-1", now=self.now, gone=gone
        )
        self.outputs: list[Output] = []  #: Of all inputs so far.
        self.wake_at = 0.0  #: When the pause ends.
        self.take(self.machine.begin(Moment(self.now, **begins or {})))

    def take(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        self.outputs += outputs
        self.wake_at = next(
            (output.moment for output in reversed(outputs) if isinstance(output, m.WakeAt)),
            self.wake_at,
        )
        return outputs

    @property
    def request(self) -> Request | None:
        return self.machine.awaited

    def answer(self, answer: Any = None, after: float = 0.0, **backend: bool) -> tuple[Output, ...]:
        """Answer the request after some seconds; a pause ends at its moment at the earliest."""
        self.now += after
        if isinstance(self.request, m.WakeAt):
            self.now = max(self.now, self.wake_at)
        return self.take(self.machine.receive(answer, Moment(self.now, **backend)))

    def frames(self, *events: protocol.Event, after: float = 0.0) -> tuple[Output, ...]:
        self.now += after
        return tuple(
            output
            for event in events
            for output in self.take(self.machine.on_event(event, self.now))
        )

    def stop(self) -> tuple[Output, ...]:
        return self.take(self.machine.request_stop(self.now))

    def stored(self, *writes: Write) -> "Play":
        """Answer these transitions, which are the next requests, as their services do."""
        for write in writes:
            assert isinstance(self.request, m.Store), self.request
            assert self.request.write is write, self.request
            self.answer(stored_as(self.machine, write))
        return self

    def until(self, kind: type[Request]) -> "Play":
        """Answer pauses until another request is awaited."""
        for _ in range(1000):
            if not isinstance(self.request, m.WakeAt):
                break
            self.answer()
        assert isinstance(self.request, kind), self.request
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the outputs of a type so far."""
        return [output for output in self.outputs if isinstance(output, kind)]

    @property
    def writes(self) -> list[Write]:
        return [output.write for output in self.of(m.Store)]


_STATE_OF: Final = {
    Write.UNCERTAIN: AttemptState.UNCERTAIN,
    Write.ACCEPTED: AttemptState.ACCEPTED,
    Write.STARTED: AttemptState.RUNNING,
}


def stored_as(machine: AttemptMachine, write: Write, *, stop: bool | None = None) -> Any:
    """Return what the service of a transition returns; ``stop``: whether the stop is pending, by
    default as it is known.
    """
    if write not in (*_STATE_OF, Write.PARTLY_REFUSED):
        return True if write is Write.STALLED else None
    state = (
        machine.state
        if machine.state is AttemptState.RUNNING
        else _STATE_OF.get(write, machine.state)
    )
    return Stored(state, machine.stop_requested if stop is None else stop)


def queued(**fields: Any) -> Play:
    """Return the play of a prompt that was just accepted, with nothing refused."""
    play = Play(**fields)
    play.answer(m.Sent("p", {}, play.now))
    return play.stored(Write.ACCEPTED)


def running(**fields: Any) -> Play:
    play = queued(**fields)
    play.frames(BEGUN)
    play.answer()
    return play.stored(Write.STARTED)


def uncertain(answer: errors.ResponseLost = LOST, **fields: Any) -> Play:
    """Return the play of a prompt that was just posted without a proper answer, at its first
    look-up.
    """
    play = Play(**fields)
    play.answer(answer)
    return play.stored(Write.UNCERTAIN).until(m.LookUp)


def stopping(**fields: Any) -> Play:
    """Return the play of a running prompt that is to be stopped, at its first look-up."""
    play = running(**fields)
    play.stop()
    return play.until(m.LookUp)


def _stores(machine: AttemptMachine, request: m.Store) -> Iterator[Any]:
    as_known = stored_as(machine, request.write)
    yield as_known
    if isinstance(as_known, Stored):
        yield Stored(as_known.state, stop_requested=not as_known.stop_requested)
        yield Stored(AttemptState.ERROR, stop_requested=False)  # by another writer


#: By request, answers that the driver may return.
_ANSWERS: Final[dict[type[Request], Callable[[AttemptMachine, Any], Iterable[Any]]]] = {
    m.WakeAt: lambda *_: (None,),
    m.SendPrompt: lambda *_: (
        m.Sent("p", {}, START),
        m.Sent("other", {"9": {}}, START),
        m.Refusal("no", {}),
        errors.SendAborted("late"),
        AWAY,
        LOST,
        unconfirmed(),
        unconfirmed(500, raised=True),
    ),
    m.LookUp: lambda *_: (
        PENDING,
        RUNNING,
        ENDED,
        ABSENT,
        ended_lookup(history("interrupted")),
        LOST,
        seen(PromptLocation.PENDING, other_id="other"),
        errors.AnswerTooLarge("long", path="/queue"),
    ),
    m.ReadHistory: lambda *_: (None, history("error"), history(), LOST),
    m.FindOmitted: lambda *_: ({}, {"9": {"class_type": "SaveImage", "errors": []}}, LOST),
    m.Complete: lambda _, request: (
        request.end,
        replace(request.end, failure=FailureClass.OUTPUT_GONE),
    ),
    m.Interrupt: lambda *_: (
        SentStop("others wait"),
        SentStop("", True),
        SentStop("", True, True),
        LOST,
    ),
    m.RemovePending: lambda *_: (None, LOST),
    m.FreeMemory: lambda *_: (None,),
    m.Store: _stores,
    **dict.fromkeys((m.FindSameAnswer, m.ReadStop, m.FindOtherStop), lambda *_: (False, True)),
}


def _answers(play: Play) -> Iterable[Any]:
    request = play.request
    return () if request is None else _ANSWERS[type(request)](play.machine, request)


def inputs(play: Play) -> list[Callable[[Play], Any]]:
    """Return what may happen next: answers to the request, and what comes by itself."""
    return [
        *(lambda one, answer=answer: one.answer(answer) for answer in _answers(play)),
        *(
            lambda one, answer=answer: one.answer(answer, after=20.0, is_offline=True)
            for answer in _answers(play)
        ),
        *(lambda one, event=event: one.frames(event) for event in FRAMES),
        lambda one: one.stop(),
        lambda one: one.take(one.machine.socket_opened(one.now)),
        lambda one: one.take(one.machine.look_up_now(one.now)),
    ]


STARTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    *(
        {"state": state}
        for state in (AttemptState.INTENT, AttemptState.UNCERTAIN, AttemptState.ACCEPTED)
    ),
    {"state": AttemptState.RUNNING, "gone": 10.0, "node_errors": {}},
    {"state": AttemptState.RUNNING, "gone": 10.0, "stop_requested": True},
    {"state": AttemptState.NEVER_ACCEPTED},
)
