"""The bench judges figures rightly."""

import pytest

from tests.bench import throughput
from tests.bench.figures import Figure, table
from tests.harness.cases import cases


@pytest.mark.parametrize(
    ("value", "limits", "verdict"), cases(__file__, "figure_is_judged_by_its_gate_and_its_goal")
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
