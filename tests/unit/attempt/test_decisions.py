"""What the Director decides about a prompt: "Life of an attempt" in docs/architecture.md, sentence
by sentence.
"""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from backends.comfyui import errors
from backends.comfyui.protocol import Executing, ExecutionCached
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState
from jobgroups.domain.stops import SentStop
from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.evidence import PromptLocation, ended_lookup
from jobgroups.runner.attempt.machine import Phase, Stored, Write
from tests.unit.attempt.play import (
    ABSENT,
    AWAY,
    BEGUN,
    BLOCKED,
    BROKEN,
    CLOSED,
    ENDED,
    FILE,
    INTERRUPTED,
    INTERVALS,
    LOST,
    NODE,
    OUTPUT,
    PENDING,
    RUNNING,
    STEP,
    SUCCESS,
    Play,
    history,
    queued,
    running,
    seen,
    stopping,
    uncertain,
    unconfirmed,
)


def last_store(play: Play) -> m.Store:
    store: m.Store = play.of(m.Store)[-1]
    return store


def looked_up(play: Play, answer: Any, **backend: bool) -> Play:
    """Return the play after its next look-up was answered."""
    play.until(m.LookUp).answer(answer, **backend)
    return play


def idle(play: Play, seconds: float, answer: Any = RUNNING) -> Play:
    """Return the play after some seconds in which each look-up had this answer."""
    until = play.now + seconds
    while play.now < until:
        assert isinstance(play.request, m.WakeAt | m.LookUp), play.request
        play.answer(answer if isinstance(play.request, m.LookUp) else None)
    return play


# Send.


def test_new_prompt_is_sent_once_and_its_answer_stored() -> None:
    play = Play()
    assert play.outputs == [m.SendPrompt()]
    play.answer(m.Sent("p", {"9": {}}, sent_at=1.0))
    assert last_store(play) == m.Store(
        Write.ACCEPTED, {"prompt_id": None, "node_errors": {"9": {}}}
    )
    play.stored(Write.ACCEPTED)
    assert m.ExpectStatus(1.0) in play.outputs


def test_start_that_is_stored_with_the_acceptance_is_not_stored_again() -> None:
    play = Play()
    play.answer(m.Sent("p", {}, sent_at=play.now))
    play.frames(BEGUN)
    play.answer(Stored(AttemptState.RUNNING, stop_requested=False))
    assert play.machine.phase is Phase.RUNNING
    assert play.until(m.LookUp).writes == [Write.ACCEPTED]
    assert play.of(m.ReportProgress)


def test_prompt_with_the_id_of_an_old_comfyui_is_followed_by_that_id() -> None:
    play = Play()
    play.answer(m.Sent("other", {}, 0.0))
    assert last_store(play).fields["prompt_id"] == "other"
    assert play.stored(Write.ACCEPTED).until(m.LookUp).machine.prompt_id == "other"


@pytest.mark.parametrize(
    ("answer", "write", "order"),
    [
        (errors.SendAborted("late"), Write.NOT_SENT, None),
        (AWAY, Write.NOT_SENT, m.ConnectionFailed("refused")),
        (m.Refusal("bad", {"status": 400}), Write.REFUSED, m.RestClaims()),
    ],
)
def test_prompt_that_did_not_arrive_or_was_refused_ends(
    answer: Any, write: Write, order: Any
) -> None:
    play = Play()
    play.answer(answer)
    play.stored(write)
    assert play.machine.is_done
    assert order is None or order in play.outputs


def test_refusal_is_stored_with_its_cause() -> None:
    play = Play()
    play.answer(m.Refusal("bad", {"status": 400}))
    fields = {"message": "bad", "details": {"status": 400}, "kind": FailureClass.WORKFLOW_REFUSED}
    assert last_store(play) == m.Store(Write.REFUSED, fields)


def test_prompt_with_a_dangling_link_is_refused_and_not_sent() -> None:
    graph = {"9": {"class_type": "SaveImage", "inputs": {"images": ["404", 0]}}}
    play = Play(workflow=graph)
    assert play.writes == [Write.REFUSED]
    assert "linked to node 404" in last_store(play).fields["message"]


def test_prompt_is_not_sent_while_the_lease_may_be_anothers() -> None:
    assert Play(begins={"lease_is_fresh": False}).outputs == [m.Store(Write.NOT_SENT)]


def test_intent_of_a_sender_that_died_is_looked_up_and_not_sent() -> None:
    play = Play(state=AttemptState.INTENT).stored(Write.UNCERTAIN)
    assert play.until(m.LookUp).request == m.LookUp(by_job=False, is_uncertain=True)
    assert play.now < 1001.0
    assert play.of(m.SendPrompt) == []


def test_stop_that_came_while_the_prompt_was_sent_follows_its_acceptance() -> None:
    play = Play()
    play.stop()
    assert play.machine.phase is Phase.SENDING
    play.answer(m.Sent("p", {}, 0.0))
    play.stored(Write.ACCEPTED)
    assert looked_up(play, PENDING).request == m.RemovePending()


# Uncertain.


@pytest.mark.parametrize("answer", [LOST, unconfirmed(), unconfirmed(500)])
def test_lost_answer_is_uncertain_and_never_accepted_after_30_s_of_absence(
    answer: errors.ResponseLost,
) -> None:
    play = uncertain(answer)
    began, lookups = play.now, 0
    while isinstance(play.request, m.LookUp | m.FindSameAnswer):
        lookups += isinstance(play.request, m.LookUp)
        play.answer(ABSENT if isinstance(play.request, m.LookUp) else False)
        if isinstance(play.request, m.WakeAt):
            play.until(m.LookUp)
    assert play.request == m.Store(Write.NEVER_ACCEPTED, is_remembered=True)
    assert (play.now - began, lookups) == (30.0, 7)


def test_failed_lookups_are_no_absence() -> None:
    play = uncertain()
    for _ in range(8):
        looked_up(play, ABSENT)
        looked_up(play, LOST)
    assert play.now > 1070.0
    assert play.writes == [Write.UNCERTAIN]


def test_exception_of_comfyui_is_a_refusal_after_one_lookup() -> None:
    play = looked_up(uncertain(unconfirmed(500, raised=True)), ABSENT)
    store = last_store(play)
    assert (store.write, store.fields["kind"], store.is_remembered) == (
        Write.REFUSED,
        FailureClass.WORKFLOW_REFUSED,
        False,
    )
    assert "raised an exception" in store.fields["message"]


@pytest.mark.parametrize(
    ("status", "kind"), [(404, FailureClass.UNREACHABLE), (500, FailureClass.WORKFLOW_REFUSED)]
)
def test_same_answer_for_the_second_time_is_a_refusal(status: int, kind: FailureClass) -> None:
    play = looked_up(uncertain(unconfirmed(status)), ABSENT)
    assert play.request == m.FindSameAnswer(status == 500)
    play.answer(True)
    store = last_store(play)
    assert (store.write, store.fields["kind"], store.is_remembered) == (Write.REFUSED, kind, True)


def test_prompt_found_by_its_mark_is_followed_by_its_own_id() -> None:
    play = looked_up(uncertain(), seen(PromptLocation.PENDING, other_id="other"))
    assert last_store(play).fields["prompt_id"] == "other"
    play.stored(Write.ACCEPTED)
    assert play.machine.prompt_id == "other"
    assert play.machine.phase is Phase.QUEUED


def test_slot_of_an_uncertain_prompt_is_free_while_it_is_absent() -> None:
    play = uncertain()
    assert m.FreeSlot() in play.outputs
    before = len(play.of(m.FreeSlot))
    looked_up(looked_up(play, ABSENT), ABSENT)
    assert play.machine.is_absent
    assert len(play.of(m.FreeSlot)) == before + 1


# Follow.


def test_prompt_whose_events_arrive_is_not_looked_up() -> None:
    play = running()
    for _ in range(50):
        play.frames(STEP, after=1.0)
        assert isinstance(play.request, m.WakeAt)
        if play.wake_at <= play.now:
            play.answer()
    assert play.of(m.LookUp) == []


@pytest.mark.parametrize("make", [queued, running])
def test_silent_prompt_is_looked_up_every_5_s(make: Any) -> None:
    play = make(timeout_s=600.0)
    idle(play, 60.0, RUNNING if make is running else PENDING)
    assert len(play.of(m.LookUp)) == 12


def test_lookup_reads_the_job_if_the_refused_outputs_are_known() -> None:
    assert queued().until(m.LookUp).request == m.LookUp(by_job=True)
    assert Play(state=AttemptState.ACCEPTED).until(m.LookUp).request == m.LookUp(by_job=False)


def test_lost_socket_causes_a_lookup_at_once() -> None:
    play = queued()
    assert play.take(play.machine.look_up_now(play.now)) == (m.WakeAt(play.now),)
    play.answer()
    assert isinstance(play.request, m.LookUp)


def test_progress_is_reported_while_the_prompt_runs_and_is_not_stopped() -> None:
    play = queued()
    assert play.frames(STEP) == (m.WakeAt(play.now),)
    play.answer()
    play.stored(Write.STARTED)
    assert play.frames(STEP) == (m.ReportProgress(),)
    assert play.stop()[0] == m.CloseProgress(sends=False)
    assert play.frames(STEP) == ()


def test_output_and_warning_are_stored_as_they_come() -> None:
    play = running()
    play.frames(OUTPUT, BLOCKED)
    play.answer()
    warning = "ComfyUI did not execute node 9 (SaveImage): no face"
    assert play.request == m.Store(
        Write.OUTPUTS, {"node_outputs": {"9": FILE}, "warnings": [warning]}
    )
    play.stored(Write.OUTPUTS)
    assert isinstance(play.request, m.WakeAt)


def test_refused_outputs_of_a_lost_answer_are_found_and_stored() -> None:
    play = looked_up(Play(state=AttemptState.ACCEPTED), PENDING)
    assert play.request == m.FindOmitted(("9",))
    play.answer({"9": {"class_type": "SaveImage", "errors": []}})
    assert last_store(play).write is Write.PARTLY_REFUSED
    play.answer(Stored(AttemptState.ACCEPTED, stop_requested=True))
    assert play.machine.phase is Phase.STOPPING
    assert play.machine.evidence.warnings


def test_too_long_queue_of_other_clients_is_no_failed_lookup_of_an_accepted_prompt() -> None:
    long_queue = errors.AnswerTooLarge("long", path="/queue")
    assert looked_up(queued(), long_queue).machine.unanswered_since is None
    assert looked_up(uncertain(), long_queue).machine.unanswered_since is not None
    assert looked_up(queued(), LOST).machine.unanswered_since is not None


def test_prompt_that_is_absent_twice_is_lost() -> None:
    play = looked_up(running(), ABSENT)
    assert isinstance(play.request, m.WakeAt)
    assert play.wake_at == play.now + INTERVALS.stop_retry
    looked_up(play, ABSENT)
    assert (last_store(play).write, play.machine.is_done) == (Write.LOST, False)
    assert last_store(play).fields["reason"].startswith("gpu-1 lost the prompt")


def test_end_that_one_lookup_misses_is_no_loss() -> None:
    play = looked_up(looked_up(running(), ABSENT), ENDED)
    assert isinstance(play.request, m.Complete)


@pytest.mark.parametrize("make", [queued, running])
def test_attempt_is_handed_over_while_it_waits_or_runs(make: Any) -> None:
    play = make()
    assert play.machine.can_hand_over
    play.frames(SUCCESS)
    assert not play.machine.can_hand_over
    assert not Play().machine.can_hand_over
    assert not stopping().machine.can_hand_over


# End.


def closed(play: Play, *frames: Any) -> Play:
    play.frames(*frames, CLOSED)
    play.answer()
    return play


@pytest.mark.parametrize("frame", [BROKEN, BLOCKED, SUCCESS, INTERRUPTED])
def test_frame_of_an_end_decides_nothing(frame: Any) -> None:
    play = running()
    play.frames(frame)
    play.answer()
    if isinstance(play.request, m.Store):
        play.stored(Write.OUTPUTS)
    assert isinstance(play.request, m.WakeAt)
    # The closing frame follows at once. If it does not, the prompt is looked up.
    if frame is not BLOCKED:
        assert play.wake_at == play.now + INTERVALS.stop_retry / 2
    looked_up(play, RUNNING)
    assert play.machine.phase is Phase.RUNNING


def test_status_of_the_history_decides_and_not_the_frame() -> None:
    play = closed(running(), BROKEN)
    assert play.request == m.ReadHistory()
    play.answer(history())
    assert isinstance(play.request, m.Complete)
    assert play.request.end.state is AttemptState.SUCCESS


def test_empty_history_is_read_for_5_s_and_then_the_frames_decide() -> None:
    play = closed(running(), OUTPUT, BROKEN)
    began, reads = play.now, 0
    while not isinstance(play.request, m.Complete):
        reads += isinstance(play.request, m.ReadHistory)
        play.answer(None)
    assert (round(play.now - began, 1), reads) == (5.0, 26)
    end = play.request.end
    assert (end.state, end.error_message, end.node_outputs) == (
        AttemptState.ERROR,
        "broken",
        {"9": FILE},
    )


@pytest.mark.parametrize(("answer", "is_lost"), [(ABSENT, True), (RUNNING, False)])
def test_closing_frame_alone_does_not_end_a_prompt_without_history(
    answer: Any, is_lost: bool
) -> None:
    play = closed(running(timeout_s=600.0))
    while not isinstance(play.request, m.LookUp):
        play.answer(None)
    play.answer(answer)
    assert (play.writes[-1] is Write.LOST) == is_lost
    assert is_lost or play.machine.phase is Phase.RUNNING


def test_prompt_that_ended_unseen_is_stored_without_a_start() -> None:
    play = looked_up(queued(), ENDED)
    assert isinstance(play.request, m.Complete)
    play.answer(play.request.end)
    play.stored(Write.ENDED)
    assert play.writes == [Write.ACCEPTED, Write.ENDED]
    assert play.outputs[-2:] == [m.Settle(last_store(play).fields["end"]), m.CloseProgress()]


def test_end_has_the_warnings_of_frames_and_history_once() -> None:
    play = closed(running(), BLOCKED)
    play.answer(history())
    assert isinstance(play.request, m.Complete)
    warning = "ComfyUI did not execute node 9 (SaveImage): no face"
    play.answer(replace(play.request.end, warnings=(warning, "gone")))
    assert last_store(play).fields["end"].warnings == (warning, "gone")


@pytest.mark.parametrize(
    ("outputs", "warnings"),
    [({"9": FILE}, ()), ({}, ("ComfyUI reports a success without any output.",))],
)
def test_success_without_any_output_has_a_warning(
    outputs: dict[str, Any], warnings: tuple[str, ...]
) -> None:
    play = closed(running())
    play.answer(history())
    assert isinstance(play.request, m.Complete)
    play.answer(replace(play.request.end, node_outputs=outputs))
    assert last_store(play).fields["end"].warnings == warnings


@pytest.mark.parametrize(("is_fresh", "frees"), [(True, True), (False, False)])
def test_memory_is_freed_before_the_end_is_stored_while_the_lease_is_certain(
    is_fresh: bool, frees: bool
) -> None:
    play = closed(running())
    play.answer(history("error"))
    assert isinstance(play.request, m.Complete)
    play.answer(
        replace(play.request.end, failure=FailureClass.OUT_OF_MEMORY), lease_is_fresh=is_fresh
    )
    assert isinstance(play.request, m.FreeMemory) == frees
    if frees:
        play.answer()
    play.stored(Write.ENDED)


@pytest.mark.parametrize("was_other", [True, False])
def test_prompt_that_another_stop_interrupted_is_not_counted(was_other: bool) -> None:
    play = running()
    play.frames(INTERRUPTED)
    heard_at = play.now
    closed(play)
    play.answer(history("interrupted"), after=3.0)
    assert isinstance(play.request, m.Complete)
    play.answer(play.request.end)
    assert play.outputs[-2:] == [m.UseInterrupt(), m.ReadStop()]
    play.answer(False)
    # The window ends at the event, not at the answer of a slow history.
    assert play.request == m.FindOtherStop(
        since=heard_at - INTERVALS.collateral_window, until=heard_at
    )
    play.answer(was_other)
    play.stored(Write.INTERRUPTED_BY_OTHER if was_other else Write.ENDED)


def test_interrupted_prompt_with_a_pending_stop_was_ended_by_it() -> None:
    play = looked_up(stopping(), ended_lookup(history("interrupted")))
    assert isinstance(play.request, m.Complete)
    play.answer(play.request.end)
    play.stored(Write.ENDED)
    assert play.of(m.ReadStop) == []


# Time limits.


def test_timeout_counts_from_the_start_of_the_prompt() -> None:
    play = looked_up(idle(queued(timeout_s=60.0), 300.0, PENDING), PENDING)
    assert Write.TIMED_OUT not in play.writes
    play.frames(BEGUN)
    play.answer()
    play.stored(Write.STARTED)
    began = play.now
    while Write.TIMED_OUT not in play.writes:
        play.answer(RUNNING if isinstance(play.request, m.LookUp) else None)
    assert last_store(play) == m.Store(Write.TIMED_OUT, {"offline": False, "stalled": False})
    assert play.now - began == 60.0
    play.stored(Write.TIMED_OUT)
    assert play.machine.phase is Phase.STOPPING


def test_timeout_of_a_resumed_prompt_counts_from_its_start() -> None:
    play = Play(state=AttemptState.RUNNING, gone=50.0, node_errors={})
    idle(play, 9.0)
    assert Write.TIMED_OUT not in play.writes
    while Write.TIMED_OUT not in play.writes:
        play.answer(RUNNING if isinstance(play.request, m.LookUp) else None)
    assert play.now == 1010.0


@pytest.mark.parametrize("answer", [ENDED, ABSENT])
def test_end_or_loss_that_races_the_timeout_wins(answer: Any) -> None:
    play = idle(running(timeout_s=62.0), 61.0)
    looked_up(play, answer)
    assert play.now == 1062.0
    if answer is ABSENT:
        looked_up(play, ABSENT)
        assert play.writes[-1] is Write.LOST
    else:
        assert isinstance(play.request, m.Complete)
    assert Write.TIMED_OUT not in play.writes


def test_offline_backend_loses_the_prompt_at_its_timeout() -> None:
    play = idle(running(timeout_s=62.0), 61.0)
    looked_up(play, LOST, is_offline=True)
    assert last_store(play) == m.Store(Write.TIMED_OUT, {"offline": True, "stalled": False})


def test_timeout_waits_until_it_is_known_whether_the_backend_is_offline() -> None:
    play = idle(running(timeout_s=62.0), 61.0)
    while Write.TIMED_OUT not in play.writes:
        looked_up(play, LOST)
    assert 1062.0 + INTERVALS.suspect_after <= play.now <= 1064.0 + INTERVALS.suspect_after
    assert last_store(play).fields["offline"] is False


def test_stall_counts_from_the_last_event() -> None:
    play = running(timeout_s=math.inf, stall_s=20.0)
    for _ in range(10):
        play.frames(STEP, after=15.0)
    heard_at = play.now
    while Write.TIMED_OUT not in play.writes:
        play.answer(RUNNING if isinstance(play.request, m.LookUp) else None)
    assert (play.now - heard_at, last_store(play).fields["stalled"]) == (20.0, True)


def test_timeout_counts_beside_the_stall() -> None:
    play = running(timeout_s=60.0, stall_s=45.0)
    play.frames(STEP, after=30.0)
    while Write.TIMED_OUT not in play.writes:
        play.answer(RUNNING if isinstance(play.request, m.LookUp) else None)
    assert (play.now, last_store(play).fields["stalled"]) == (1060.0, False)


def test_stall_counts_from_the_moment_at_which_events_are_received_again() -> None:
    play = running(timeout_s=math.inf, stall_s=20.0)
    idle(play, 15.0)
    opened_at = play.now
    play.take(play.machine.socket_opened(opened_at))
    resumed = Play(
        state=AttemptState.RUNNING, gone=1000.0, timeout_s=math.inf, stall_s=20.0, node_errors={}
    )
    for each, since in ((play, opened_at), (resumed, 1000.0)):
        while Write.TIMED_OUT not in each.writes:
            each.answer(RUNNING if isinstance(each.request, m.LookUp) else None)
        assert each.now == since + 20.0


def test_event_that_comes_while_the_time_is_up_puts_the_stall_off() -> None:
    play = running(timeout_s=math.inf, stall_s=20.0)
    idle(play, 19.0).until(m.LookUp)
    assert play.now == 1020.0
    play.frames(STEP)
    play.answer(RUNNING)
    assert isinstance(play.request, m.WakeAt)


# Stop.


def test_cancelled_prompt_that_waits_is_deleted_and_looked_up_at_once() -> None:
    play = queued()
    play.stop()
    looked_up(play, PENDING)
    assert play.request == m.RemovePending()
    play.answer()
    assert play.request == m.LookUp()
    play.answer(ABSENT)
    assert isinstance(play.request, m.Complete)
    assert (play.request.end.state, play.request.end.ran) == (AttemptState.INTERRUPTED, False)
    assert play.of(m.Interrupt) == []


def test_prompt_that_starts_before_its_deletion_is_interrupted_or_withdrawn() -> None:
    for stop_stays in (True, False):
        play = queued()
        play.stop()
        looked_up(play, PENDING).answer()
        play.answer(RUNNING)
        assert last_store(play).write is Write.STARTED
        play.answer(Stored(AttemptState.RUNNING, stop_stays))
        # A move or a recall is void once the prompt has started.
        assert isinstance(play.request, m.ReadStop if stop_stays else m.WakeAt)
        assert (m.ReopenProgress() in play.outputs) == (not stop_stays)


def test_deleted_prompt_whose_frames_came_is_started_first() -> None:
    play = queued()
    play.stop()
    looked_up(play, PENDING).answer()
    play.frames(BEGUN)
    play.answer(ABSENT)
    assert isinstance(play.request, m.WakeAt)
    play.answer()
    assert last_store(play).write is Write.STARTED


def test_running_prompt_is_interrupted_if_its_stop_is_still_in_its_row() -> None:
    play = looked_up(stopping(), RUNNING)
    assert play.request == m.ReadStop()
    play.answer(False)
    assert (play.of(m.Interrupt), play.machine.phase) == ([], Phase.RUNNING)
    play = looked_up(stopping(), RUNNING)
    play.answer(True)
    assert play.request == m.Interrupt()


@pytest.mark.parametrize("location", [PENDING, RUNNING])
def test_nothing_is_stopped_while_the_lease_may_be_anothers(location: Any) -> None:
    play = queued() if location is PENDING else running()
    play.stop()
    for _ in range(5):
        looked_up(play, location, lease_is_fresh=False)
        assert isinstance(play.request, m.WakeAt)
    assert play.of(m.RemovePending) == play.of(m.ReadStop) == play.of(m.Interrupt) == []


def pauses(play: Play, sent: SentStop, times: int) -> list[float]:
    """Return the seconds between interrupts, each answered by ``sent``."""
    moments = []
    for _ in range(times):
        looked_up(play, RUNNING).answer(True)
        assert isinstance(play.request, m.Interrupt)
        moments.append(play.now)
        play.answer(sent)
    return [round(later - earlier, 3) for earlier, later in pairwise(moments)]


def test_stop_by_id_is_repeated_soon_and_then_ever_slower() -> None:
    assert pauses(stopping(), SentStop(is_targeted=True), 9) == [
        0.1,
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        2.0,
        2.0,
    ]
    assert pauses(stopping(), SentStop(), 3) == [2.0, 2.0]


def test_stop_is_repeated_only_after_a_lookup_that_shows_the_prompt_running() -> None:
    play = stopping()
    pauses(play, SentStop(is_targeted=True), 1)
    for answer in (LOST, ABSENT, LOST):
        looked_up(play, answer)
    assert len(play.of(m.Interrupt)) == 1


def test_next_prompt_is_claimed_once_a_cancel_is_answered() -> None:
    for sent in (SentStop(is_targeted=True, is_cancel=True), SentStop(is_targeted=True)):
        play = looked_up(stopping(), RUNNING)
        play.answer(True)
        play.answer(sent)
        assert (m.FreeSlot() in play.outputs) == sent.is_cancel


def test_prompt_that_runs_a_minute_after_its_stop_is_stalled_once() -> None:
    play = stopping()
    for _ in range(60):
        if isinstance(play.request, m.WakeAt):
            play.answer()
        if isinstance(play.request, m.Store):
            assert play.now >= 1060.0
            assert play.request.fields == {"reachable": True, "can_interrupt": True}
            play.stored(Write.STALLED)
        looked_up(play, RUNNING).answer(True)
        play.answer(SentStop())
    assert play.writes.count(Write.STALLED) == 1


def test_prompt_that_cannot_be_interrupted_is_stalled_after_its_own_limit() -> None:
    play = running(timeout_s=600.0)
    play.stop()
    while not isinstance(play.request, m.Store):
        looked_up(play, RUNNING).answer(True)
        play.answer(SentStop("other clients wait"))
        play.answer()
    assert play.now >= 1600.0
    assert play.request.fields == {"reachable": True, "can_interrupt": False}


def test_unreachable_backend_is_stalled_as_such() -> None:
    play = stopping()
    while Write.STALLED not in play.writes:
        play.answer(
            LOST if isinstance(play.request, m.LookUp) else None,
            is_offline=True,
            is_available=False,
        )
    assert last_store(play).fields == {"reachable": False, "can_interrupt": True}


def test_prompt_that_another_writer_ended_is_left_alone() -> None:
    play = queued()
    play.frames(BEGUN)
    play.answer()
    play.answer(Stored(AttemptState.LOST, stop_requested=False))
    assert play.machine.is_done
    assert play.request is None
    assert play.frames(NODE, CLOSED) == ()


@pytest.mark.parametrize(
    ("frames", "executed", "is_reused"),
    [
        ((), set(), False),
        ((ExecutionCached(prompt_id="p", nodes=()),), {"9"}, False),
        ((ExecutionCached(prompt_id="p", nodes=("3", "9")),), set(), True),
        ((ExecutionCached(prompt_id="p", nodes=("3", "9")), NODE), set(), False),
        (
            (ExecutionCached(prompt_id="p", nodes=("3", "9")), Executing(prompt_id="p", node="9")),
            {"9"},
            False,
        ),
    ],
)
def test_node_has_written_its_files_only_if_it_was_certainly_executed(
    frames: Any, executed: set[str], is_reused: bool
) -> None:
    evidence = queued().machine.evidence
    for frame in frames:
        evidence.apply(frame)
    assert evidence.executed({"9": FILE}) == executed
    assert evidence.are_reused({"9": FILE}) == is_reused
