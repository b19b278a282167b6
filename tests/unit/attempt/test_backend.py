"""What the attempts of a session know of their backend: its queue, which prompt an interrupt may
end, its absence.
"""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from backends.comfyui import answers
from jobgroups.domain.stops import SentStop
from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.evidence import PromptLocation
from jobgroups.runner.attempt.lookup import in_queue
from jobgroups.runner.availability import Availability
from jobgroups.runner.interrupts import InterruptLog, runs_alone
from jobgroups.runner.session.attempts import ActiveAttempts
from tests.unit.attempt.play import RUNNING, Play, stopping

ALWAYS: dict[str, float] = {"since": float("-inf"), "until": float("inf")}


def interrupted(*targets: str) -> InterruptLog:
    log = InterruptLog()
    for target in targets:
        with log.sending(target):
            pass
    return log


def test_interrupt_explains_the_end_of_one_other_prompt() -> None:
    log = interrupted("ours")
    assert not log.use("ours", **ALWAYS)
    assert [log.use(name, **ALWAYS) for name in ("next", "third")] == [True, False]


def test_interrupt_that_ended_its_target_explains_no_other_end() -> None:
    log = interrupted("ours")
    log.target_ended("ours")
    assert not log.use("next", **ALWAYS)
    # Of two interrupts, one ended the target; each is used once, however often the end is reported.
    log = interrupted("ours", "ours")
    log.target_ended("ours")
    log.target_ended("ours")
    assert [log.use(name, **ALWAYS) for name in ("next", "third")] == [True, False]


def test_interrupt_explains_no_end_before_it_was_sent_or_long_after_its_answer() -> None:
    log = interrupted("ours")
    assert not log.use("next", since=float("-inf"), until=0.0)
    assert not log.use("next", since=float("inf"), until=float("inf"))


def queue(running: list[str], pending: list[str]) -> answers.Queue:
    """Return a queue of prompts, each with its id as a mark."""
    items = [[[0, name, {}, {"mark": name}, []] for name in names] for names in (running, pending)]
    return answers.queue(
        json.dumps(dict(zip(("queue_running", "queue_pending"), items, strict=True))).encode()
    )


@pytest.mark.parametrize("sent", ["p", "q"])
def test_prompt_with_another_id_is_found_by_its_mark(sent: str) -> None:
    for names, location in (
        ((["r", "p"], []), PromptLocation.RUNNING),
        ((["r"], ["s", "p"]), PromptLocation.PENDING),
    ):
        lookup = in_queue(queue(*names), sent, {"mark": "p"})
        assert lookup is not None
        assert (lookup.location, lookup.other_id) == (location, None if sent == "p" else "p")
    assert in_queue(queue(["r"], ["s"]), sent, {"mark": "p"}) is None
    assert in_queue(queue(["p"], []), "q") is None


@pytest.mark.parametrize(
    ("running", "pending", "is_running", "others"),
    [
        (["p"], [], True, ""),
        (["p"], ["own"], True, ""),
        (["own"], ["p"], False, ""),
        (["p"], ["theirs"], True, "1 prompt of"),
        (["p", "theirs"], ["theirs too"], True, "2 prompts of"),
        (["p", "own"], [], False, ""),
    ],
)
def test_prompt_among_those_of_other_clients_is_not_interrupted_without_a_target(
    running: list[str], pending: list[str], is_running: bool, others: str
) -> None:
    found, why = runs_alone(queue(running, pending), "p", lambda name: name in ("p", "own"))
    assert (found, bool(why)) == (is_running, bool(others))
    assert why.startswith(others)


def stop_sent(sent: SentStop) -> Play:
    play = stopping()
    play.answer(RUNNING)
    play.answer(answer=True)
    assert isinstance(play.request, m.Interrupt)
    play.answer(sent)
    return play


def active_attempts() -> ActiveAttempts:
    context: Any = SimpleNamespace(runner=SimpleNamespace(progress=SimpleNamespace(hub=None)))
    return ActiveAttempts(context)


def test_nothing_is_claimed_beside_a_large_prompt() -> None:
    attempts = active_attempts()
    for is_large in (False, True):
        driver: Any = SimpleNamespace(spec=SimpleNamespace(is_large=is_large))
        attempts.drivers[int(is_large)] = driver
        assert attempts.has_large_prompt is is_large


def test_next_prompt_does_not_wait_for_a_stop_that_cannot_hit_it() -> None:
    attempts = active_attempts()
    stops = [
        SentStop("", is_targeted=True, is_cancel=True),
        SentStop("", is_targeted=True),
        SentStop("others wait"),
    ]
    for number, sent in enumerate(stops):
        driver: Any = SimpleNamespace(
            machine=stop_sent(sent).machine, spec=SimpleNamespace(attempt_id=number)
        )
        attempts.drivers[number] = driver
    assert attempts.cancelled == {0}


def test_backend_is_offline_while_neither_answers_nor_frames_come() -> None:
    availability = Availability("gpu-1", {})
    availability.probe_failed("it hangs", answers=True)
    assert availability.offline_for() is None
    availability.probe_failed("it is gone", answers=False)
    assert availability.offline_for() is not None
    availability.last_frame_at = float("inf")
    assert availability.offline_for() is None
    availability.last_frame_at = 0.0
    assert availability.offline_for() is not None
    availability.probe_answered(None)
    assert availability.offline_for() is None
