"""The bench starts, judges figures rightly, and reads whole frames."""

import math

import pytest

from tests.bench import sockets, throughput
from tests.bench.__main__ import MEASURES
from tests.bench.figures import Figure, table


@pytest.mark.parametrize(
    ("value", "asked", "verdict"),
    [
        (2.9, {"gate": 8, "goal": 3}, "pass, goal"),
        (3.1, {"gate": 8, "goal": 3}, "pass"),
        (8.1, {"gate": 8, "goal": 3}, "MISS"),
        (8.1, {"gate": 3, "goal": 8, "more_is_better": True}, "pass, goal"),
        (2.9, {"gate": 3, "goal": 8, "more_is_better": True}, "MISS"),
        (3.9, {"gate": 2, "goal": 1.3, "floor": 2.0, "of_floor": True}, "pass"),
        (4.1, {"gate": 2, "goal": 1.3, "floor": 2.0, "of_floor": True}, "MISS"),
        (10.0, {"floor": 4.0}, ""),
        (math.nan, {"gate": 8, "floor": 4.0}, "MISS"),
    ],
)
def test_figure_is_judged_by_its_gate_and_its_goal(value: float, asked: dict[str, float], verdict: str) -> None:
    one = Figure("x", value, **asked)
    assert one.verdict() == verdict
    assert one.reaches(one.gate) == (verdict != "MISS")
    assert table([one]).splitlines()[2].split("|")[-2].strip() == verdict


def test_every_part_of_the_bench_can_be_imported() -> None:
    assert {"api", "farm", "frames", "groups", "list"} <= MEASURES.keys()


def test_frames_are_whole_however_they_are_cut() -> None:
    bodies = [b'{"a": 1}', b'{"a": "' + b"x" * 70_000 + b'"}', b'{"a": 3}']
    sent = b"".join(
        b"\x81" + (bytes([len(one)]) if len(one) < 126 else b"\x7f" + len(one).to_bytes(8, "big")) + one
        for one in bodies
    )
    pieces = [(float(place), sent[place : place + 999]) for place in range(0, len(sent), 999)]
    assert [body for _, opcode, body in sockets._split(pieces) if opcode == 1] == bodies


def test_prompt_that_was_sent_or_started_twice_is_counted() -> None:
    marks = [{"director": {"group": "g", "job": job}} for job in ("1", "2", "2")]
    seen = [{"kind": "accepted", "prompt_id": str(number), "extra_data": mark} for number, mark in enumerate(marks)]
    seen += [{"kind": "started", "prompt_id": prompt_id} for prompt_id in ("0", "1", "0")]
    assert throughput.doubled(seen) == 2
