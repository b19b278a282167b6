"""The plan, of any line on any backends: complete, finite, and no later than simpler ways."""

import datetime as dt
from itertools import chain
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.domain.plan import Plan, Worker

NOON: Final = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
LOAD: Final = 15.0
#: Of a workflow: its jobs, and whether it uses the models that each backend has loaded, others, or none.
works = st.tuples(st.integers(1, 60), st.sampled_from(["", "sdxl", "flux"]))
#: Of a backend: seconds until it is free, its models, and its seconds of each of three workflows.
machines = st.tuples(
    st.floats(0, 500), st.sampled_from(["", "sdxl", "flux"]), st.tuples(*[st.floats(0.01, 300) for _ in range(3)])
)
Machine = tuple[float, str, tuple[float, float, float]]
lines = st.lists(works, min_size=1, max_size=3)
farms = st.lists(machines, min_size=1, max_size=6)


def planned(line: list[tuple[int, str]], farm: list[Machine]) -> Plan:
    rows = [
        TimingRow(f"w{at}", f"gpu-{name}", models, seconds[at], LOAD, NOON)
        for name, (_, _, seconds) in enumerate(farm)
        for at, (_, models) in enumerate(line)
    ]
    plan = Plan(Estimates(rows))
    workers = [Worker(f"gpu-{name}", free_in, models) for name, (free_in, models, _) in enumerate(farm)]
    for at, (jobs, models) in enumerate(line):
        plan.add(at, f"w{at}", models, jobs, workers)
    return plan


def last_end(plan: Plan) -> float:
    return max(one.last for one in plan.ends.values() if one is not None)


@given(lines, farms)
def test_each_job_is_planned_once_and_ends_no_later_than_on_any_backend_alone(
    line: list[tuple[int, str]], farm: list[Machine]
) -> None:
    plan = planned(line, farm)
    for at, (jobs, _) in enumerate(line):
        assert sum(plan.allotted.get((at, f"gpu-{name}"), 0) for name in range(len(farm))) == jobs
        ends = plan.ends[at]
        assert ends is not None
        assert 0 < ends.first <= ends.last < float("inf")
        assert sorted(ends_of := [ends.of(rank) for rank in range(1, jobs + 1)]) == ends_of
    for one in farm:
        assert last_end(plan) <= last_end(planned(line, [one])) * (1 + 1e-9)


@given(works, farms)
def test_a_workflow_ends_as_soon_as_possible_and_no_later_with_another_backend(
    work: tuple[int, str], farm: list[Machine]
) -> None:
    jobs, models = work
    ends = sorted(
        chain.from_iterable(
            [free_in + (LOAD if models not in ("", loaded) else 0) + seconds[0] * n for n in range(1, jobs + 1)]
            for free_in, loaded, seconds in farm
        )
    )
    plan = planned([work], farm)
    assert last_end(plan) == pytest.approx(ends[jobs - 1])
    assert last_end(plan) <= last_end(planned([work], farm[1:] or farm)) * (1 + 1e-9)
