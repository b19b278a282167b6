"""The bench judges figures rightly, and its client measures a real server."""

from __future__ import annotations

import pytest

from tests.bench import floors, frames, sockets, throughput
from tests.bench.figures import Figure, p50, p99, table
from tests.bench.wire import Connection, at_once, request


@pytest.mark.parametrize(
    ("value", "more_is_better", "verdict"),
    [
        (2.9, False, "pass, goal"),
        (3.1, False, "pass"),
        (8.1, False, "MISS"),
        (8.1, True, "pass, goal"),
        (2.9, True, "MISS"),
    ],
)
def test_a_figure_is_judged_by_its_gate_and_its_goal(value: float, more_is_better: bool, verdict: str) -> None:
    gate, goal = (3, 8) if more_is_better else (8, 3)
    one = Figure(name="x", value=value, gate=gate, goal=goal, more_is_better=more_is_better)
    assert one.verdict() == verdict
    assert one.reaches(one.gate) == (verdict != "MISS")


def test_what_has_no_gate_is_only_watched() -> None:
    watched = Figure(name="x", value=10, floor=4)
    assert watched.verdict() == ""
    assert watched.reaches(watched.gate)
    head, line, row = table([watched]).splitlines()
    assert head.startswith("| figure")
    assert set(line) == {"|", "-"}
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["x", "10.00 ms", "4.00 ms", "2.50"]


def test_medians_and_percentiles_are_in_milliseconds() -> None:
    seconds = [number / 1000 for number in range(1, 101)]
    assert p50(seconds) == pytest.approx(50.5)
    assert p99(seconds) == pytest.approx(100)


def test_gate_and_goal_may_be_multiples_of_the_floor() -> None:
    asked = {"floor": 2.0, "of_floor": True, "gate": 2, "goal": 1.3}
    values = [Figure(name="x", value=value, **asked) for value in (2.5, 3.9, 4.1)]
    assert [one.verdict() for one in values] == ["pass, goal", "pass", "MISS"]
    assert values[0].cells()[3:6] == ["1.25", "≤ 2.00 ×", "≤ 1.30 ×"]


def test_the_age_of_the_newest_value_grows_until_the_next_one_comes() -> None:
    # One every tenth of a second, 10 ms old when it arrives: from 10 to 110 ms, 60 on average.
    arrivals = [(count / 10, 0.01) for count in range(11)]
    assert frames.mean_age(arrivals) == pytest.approx(60)


def test_frames_are_whole_however_they_are_cut() -> None:
    bodies = [b'{"a": 1}', b'{"a": "' + b"x" * 70_000 + b'"}', b'{"a": 3}']
    sent = b"".join(
        b"\x81" + (bytes([len(one)]) if len(one) < 126 else b"\x7f" + len(one).to_bytes(8, "big")) + one
        for one in bodies
    )
    pieces = [(float(place), sent[place : place + 999]) for place in range(0, len(sent), 999)]
    assert [body for _, opcode, body in sockets._split(pieces) if opcode == 1] == bodies


def test_a_prompt_that_was_sent_or_started_twice_is_counted() -> None:
    marks = [{"director": {"group": "g", "job": job}} for job in ("1", "2", "2")]
    seen = [{"kind": "accepted", "prompt_id": str(number), "extra_data": mark} for number, mark in enumerate(marks)]
    seen += [{"kind": "started", "prompt_id": prompt_id} for prompt_id in ("0", "1", "0")]
    assert throughput.doubled(seen) == 2


def test_the_client_counts_whole_answers_of_a_real_server() -> None:
    with floors.empty_server() as url, Connection(url) as one:
        seconds, body = one.ask(request(url))
        assert body.startswith(b'{"filler"')
        assert 0 < seconds < 5
        with pytest.raises(AssertionError, match="200 instead of 201"):
            one.ask(request(url, b"{}"), 201)
        rate, each = at_once(url, request(url), connections=5, seconds=0.5)
    assert len(each) > 5
    assert rate == pytest.approx(len(each) / 0.5, rel=0.5)
