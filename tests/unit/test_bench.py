"""The bench judges figures rightly."""

import pytest

from tests.bench import throughput
from tests.bench.figures import Figure, table


@pytest.mark.parametrize(
    ("value", "limits", "verdict"),
    [
        (2.9, {"gate": 8, "goal": 3}, "pass, goal"),
        (3.1, {"gate": 8, "goal": 3}, "pass"),
        (8.1, {"gate": 8, "goal": 3}, "MISS"),
        (8.1, {"gate": 3, "goal": 8, "more_is_better": True}, "pass, goal"),
        (2.9, {"gate": 3, "goal": 8, "more_is_better": True}, "MISS"),
        (3.9, {"gate": 2, "goal": 1.3, "floor": 2.0, "of_floor": True}, "pass"),
        (4.1, {"gate": 2, "goal": 1.3, "floor": 2.0, "of_floor": True}, "MISS"),
        (10.0, {"floor": 4.0}, ""),
    ],
)
def test_figure_is_judged_by_its_gate_and_its_goal(
    value: float, limits: dict[str, float], verdict: str
) -> None:
    one = Figure("x", value, **limits)
    assert one.verdict() == verdict
    assert one.reaches(one.gate) == (verdict != "MISS")
    assert table([one]).splitlines()[2].split("|")[-2].strip() == verdict


def test_prompt_that_was_sent_or_started_twice_is_counted() -> None:
    marks = [{"director": {"group": "g", "job": job}} for job in ("1", "2", "2")]
    seen = [
        {"kind": "accepted", "prompt_id": str(number), "extra_data": mark}
        for number, mark in enumerate(marks)
    ]
    seen += [{"kind": "started", "prompt_id": prompt_id} for prompt_id in ("0", "1", "0")]
    assert throughput.doubled(seen) == 2
