"""Every phase of an attempt: what it awaits, what it takes, and what follows."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from backends.comfyui import errors
from backends.comfyui.protocol import Event
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState
from jobgroups.domain.stops import SentStop
from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.machine import PHASES, IllegalInput, Moment, Phase, Request, Write
from jobgroups.services import attempts
from tests.unit.attempt.play import (
    ABSENT,
    BEGUN,
    CLOSED,
    ENDED,
    INTERVALS,
    LOST,
    OUTPUT,
    PENDING,
    RUNNING,
    STARTS,
    Play,
    history,
    inputs,
    queued,
    running,
    stopping,
    uncertain,
    unconfirmed,
)

Cell = tuple[Phase, type[Request] | None]
ENDS = {
    Write.NOT_SENT,
    Write.REFUSED,
    Write.NEVER_ACCEPTED,
    Write.LOST,
    Write.ENDED,
    Write.INTERRUPTED_BY_OTHER,
}


def after(play: Play, *answers: Any) -> Play:
    for answer in answers:
        play.answer(answer)
    return play


def with_frames(play: Play, *events: Event) -> Play:
    """Return the play after these frames have come and were noticed."""
    play.frames(*events)
    return after(play, None)


def stopped(play: Play) -> Play:
    play.stop()
    return play.until(m.LookUp)


def resumed(state: AttemptState, **fields: Any) -> Play:
    return Play(state=state, **fields).until(m.LookUp)


def completing(outcome: str = "success", **fields: Any) -> Play:
    return after(with_frames(running(**fields), CLOSED), history(outcome))


def completed(outcome: str = "success", **changes: Any) -> Play:
    play = completing(outcome)
    assert isinstance(play.request, m.Complete)
    return after(play, replace(play.request.end, **changes))


STARTED_AT_ONCE = m.Stored(AttemptState.RUNNING, stop_requested=False)
#: By phase and awaited request, how a play gets there.
REACH: dict[Cell, Callable[[], Play]] = {
    (Phase.SENDING, m.SendPrompt): Play,
    (Phase.SENDING, m.Store): lambda: after(Play(), m.Sent("p", {}, 0.0)),
    (Phase.UNCERTAIN, m.Store): lambda: Play(state=AttemptState.INTENT),
    (Phase.UNCERTAIN, m.LookUp): uncertain,
    (Phase.UNCERTAIN, m.WakeAt): lambda: after(uncertain(), ABSENT),
    (Phase.UNCERTAIN, m.FindSameAnswer): lambda: after(uncertain(unconfirmed()), ABSENT),
    (Phase.UNCERTAIN, m.FindOmitted): lambda: after(resumed(AttemptState.NEVER_ACCEPTED), RUNNING),
    (Phase.QUEUED, m.WakeAt): queued,
    (Phase.QUEUED, m.LookUp): lambda: queued().until(m.LookUp),
    (Phase.QUEUED, m.FindOmitted): lambda: after(resumed(AttemptState.ACCEPTED), PENDING),
    (Phase.QUEUED, m.Store): lambda: with_frames(queued(), BEGUN),
    (Phase.RUNNING, m.WakeAt): running,
    (Phase.RUNNING, m.LookUp): lambda: running().until(m.LookUp),
    (Phase.RUNNING, m.FindOmitted): lambda: after(resumed(AttemptState.RUNNING), RUNNING),
    (Phase.RUNNING, m.Store): lambda: with_frames(running(), OUTPUT),
    (Phase.STOPPING, m.WakeAt): lambda: after(stopping(), LOST),
    (Phase.STOPPING, m.LookUp): stopping,
    (Phase.STOPPING, m.FindOmitted): lambda: after(
        resumed(AttemptState.RUNNING, stop_requested=True), RUNNING
    ),
    (Phase.STOPPING, m.Store): lambda: after(stopped(queued()), RUNNING),
    (Phase.STOPPING, m.FindSameAnswer): lambda: after(
        resumed(AttemptState.UNCERTAIN, stop_requested=True, answer=unconfirmed()), ABSENT
    ),
    (Phase.STOPPING, m.RemovePending): lambda: after(stopped(queued()), PENDING),
    (Phase.STOPPING, m.ReadStop): lambda: after(stopping(), RUNNING),
    (Phase.STOPPING, m.Interrupt): lambda: after(stopping(), RUNNING, True),
    (Phase.ENDING, m.ReadHistory): lambda: with_frames(running(), CLOSED),
    (Phase.ENDING, m.WakeAt): lambda: after(with_frames(running(), CLOSED), None),
    (Phase.ENDING, m.FindOmitted): lambda: after(resumed(AttemptState.RUNNING), ENDED),
    (Phase.ENDING, m.Complete): completing,
    (Phase.ENDING, m.ReadStop): lambda: completed("interrupted"),
    (Phase.ENDING, m.FindOtherStop): lambda: after(completed("interrupted"), False),
    (Phase.ENDING, m.FreeMemory): lambda: completed(failure=FailureClass.OUTPUT_GONE),
    (Phase.ENDING, m.Store): completed,
    (Phase.DONE, None): lambda: completed().stored(Write.ENDED),
}
each_cell = pytest.mark.parametrize(
    "at", REACH, ids=lambda at: f"{at[0]}-{at[1].__name__ if at[1] else None}"
)


def test_table_has_what_each_phase_awaits() -> None:
    assert set(REACH) == {
        (phase, request) for phase, rules in PHASES.items() for request in rules.requests or {None}
    }


@each_cell
def test_phase_awaits_what_the_table_says(at: Cell) -> None:
    play = REACH[at]()
    assert (play.machine.phase, play.request and type(play.request)) == at


def moves_of(reach: Callable[[], Play]) -> set[tuple[Phase, Phase]]:
    """Return the moves that one input, and the pause after it, make from a moment of an attempt."""
    moves = set()
    for index in range(len(inputs(reach()))):
        play = reach()
        phases = [play.machine.phase]
        inputs(play)[index](play)
        phases.append(play.machine.phase)
        if isinstance(play.request, m.WakeAt):
            play.answer()
            phases.append(play.machine.phase)
        moves |= {(before, then) for before, then in pairwise(phases) if before is not then}
    return moves


def without_history(play: Play) -> Play:
    """Return the play of a prompt whose history stays empty, at the last read of it."""
    play.frames(CLOSED)
    after(play, None, None)
    play.now += INTERVALS.history_grace
    return after(play, None)


def test_table_has_the_moves_between_phases() -> None:
    ways = [
        *REACH.values(),
        lambda: without_history(running()),
        lambda: without_history(after(stopping(), LOST)),
    ]
    ways += [
        lambda: without_history(Play(state=AttemptState.NEVER_ACCEPTED)),
        lambda: after(Play(), LOST),
    ]
    ways += [
        lambda location=location: after(uncertain(), location) for location in (PENDING, RUNNING)
    ]
    ways += [lambda: after(after(resumed(AttemptState.RUNNING), ABSENT).until(m.LookUp), ABSENT)]
    table = {(phase, target) for phase, rules in PHASES.items() for target in rules.next}
    made = set().union(*map(moves_of, ways))
    # The start came before the acceptance was stored.
    play = after(Play(), m.Sent("p", {}, 0.0))
    made.add((play.machine.phase, after(play, STARTED_AT_ONCE).machine.phase))
    assert made - table == set()
    assert table - made == set()


def contents(machine: Any) -> dict[str, Any]:
    """Return what a machine remembers."""
    tracker = vars(machine.evidence.tracker)
    limits, evidence = vars(machine._limits), {**vars(machine.evidence), "tracker": None}
    return {
        **vars(machine),
        "evidence": repr(evidence),
        "tracker": repr(tracker),
        "_limits": repr(limits),
    }


#: One of each kind of answer.
SAMPLES = (
    None,
    True,
    m.Sent("p", {}, 0.0),
    m.Refusal("no", {}),
    errors.SendAborted("late"),
    PENDING,
    history(),
    {},
)
SAMPLES += (SentStop(), m.Stored(AttemptState.RUNNING, False), errors.ResponseLost("no answer"))


@each_cell
def test_answer_of_another_kind_is_illegal_and_changes_nothing(at: Cell) -> None:
    legal = () if at[1] is None else at[1].answers
    play = REACH[at]()
    for answer in SAMPLES:
        if not isinstance(answer, legal):
            before = contents(play.machine)
            with pytest.raises(IllegalInput):
                play.machine.receive(answer, Moment(play.now))
            assert contents(play.machine) == before


@each_cell
def test_frames_stops_and_sockets_are_taken_in_every_phase(at: Cell) -> None:
    for take in (
        lambda play: play.frames(BEGUN),
        lambda play: play.frames(CLOSED),
        lambda play: play.stop(),
        lambda play: play.take(play.machine.socket_opened(play.now)),
        lambda play: play.take(play.machine.look_up_now(play.now)),
    ):
        play = REACH[at]()
        request = play.request
        outputs = take(play)
        # No second request before the answer to the first one; a pause alone may end earlier.
        assert play.request is request
        assert {type(one) for one in outputs if isinstance(one, Request)} <= {m.WakeAt}
        if any(isinstance(one, m.WakeAt) for one in outputs):
            assert at[1] is m.WakeAt
            assert at[0] is not Phase.ENDING, "a read of the history that pauses is not hurried"
        assert at[0] is not Phase.DONE or not outputs


def test_machine_begins_once() -> None:
    with pytest.raises(IllegalInput):
        queued().machine.begin(Moment(0.0))


def checked(play: Play) -> None:
    """Assert the laws of every attempt."""
    machine = play.machine
    assert (play.request is None) == machine.is_done, (
        "without a request or a pause nothing would follow"
    )
    if play.request is not None:
        assert type(play.request) in PHASES[machine.phase].requests
    assert len(play.of(m.SendPrompt)) == machine.spec.is_new, "sent twice"
    assert sum(write in ENDS for write in play.writes) <= 1, "two ends"
    for index, output in enumerate(play.outputs):
        if isinstance(output, m.Interrupt | m.RemovePending):
            before = play.outputs[:index]
            assert not any(isinstance(one, m.Store) and one.write in ENDS for one in before), (
                "stopped after its end"
            )
        if isinstance(output, m.Interrupt):
            assert isinstance(play.outputs[index - 1], m.ReadStop), (
                "interrupted without a stop in its row"
            )


@settings(max_examples=60)
@given(st.sampled_from(range(len(STARTS))), st.lists(st.integers(0, 10_000), max_size=40))
def test_random_inputs_break_no_law_and_the_attempt_ends(start: int, choices: list[int]) -> None:
    play = Play(**STARTS[start])
    for choice in choices:
        checked(play)
        possible = inputs(play)
        possible[choice % len(possible)](play)
    # After any inputs it ends once the backend answers and has forgotten the prompt.
    for _ in range(200):
        checked(play)
        if play.machine.is_done:
            return
        inputs(play)[3 if isinstance(play.request, m.LookUp) else 0](play)
    raise AssertionError(f"{play.machine.phase} does not end: {play.outputs[-10:]}")


@pytest.mark.parametrize("write", Write)
def test_transition_names_a_service(write: Write) -> None:
    assert callable(getattr(attempts, write))
