"""Workflows that a machine answers with a 500 that is not aiohttp's own: they fail, and hold no
other job up.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from backends.simulator import Simulator
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import SCALE, Farm
from tests.harness.graphs import Graph, picture, text_to_image

#: An uncertain prompt is looked up for a second, or for as long as a test lasts.
QUICK = replace(Intervals.scaled(SCALE), accept_timeout=1.0)
PATIENT = replace(Intervals.scaled(SCALE), accept_timeout=300.0)
ANSWER = '500: "no such key"'


def bad() -> Graph:
    """Return a workflow that no machine of these tests takes."""
    return text_to_image(steps=7)


async def machine(farm: Farm, name: str = "gpu-1", **options: Any) -> Simulator:
    sim = await farm.backend(name, seconds=0.1, **options)
    sim.fault("other_500", count=0, body="no such key", workflow='"steps": 7')
    return sim


async def to_pool(farm: Farm, count: int, workflow: Graph) -> JobGroup:
    return await farm.submit(
        "*", count=count, workflow=workflow, retry_elsewhere=RetryScope.GROUP, max_attempts=2
    )


async def test_twelve_bad_jobs_do_not_hold_twenty_good_ones_up(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2"):
        await machine(farm, name)
    broken = await to_pool(farm, 12, bad())
    good = await to_pool(farm, 20, picture())
    await farm.runner(intervals=PATIENT)
    # All this time each machine has an uncertain prompt of the bad workflow, and gets no second
    # one.
    assert (await farm.finished(good)).status == "completed"
    assert await farm.states(broken) == ["uncertain"] * 2
    assert {row.backend_id for row in await farm.attempts(broken)} == {"gpu-1", "gpu-2"}


async def test_bad_jobs_of_the_pool_fail_after_two_tries_at_each_machine(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2"):
        await machine(farm, name)
    broken = await to_pool(farm, 12, bad())
    await farm.runner(intervals=QUICK)
    assert (await farm.finished(broken)).status == "failed"
    children = await farm.children(broken)
    assert {(child.status, child.failure_class, child.error_type) for child in children} == {
        ("failed", "workflow_refused", "ValidationError")
    }
    assert all(ANSWER in child.error_message for child in children)
    tries = sorted((row.backend_id, row.state) for row in await farm.attempts(broken))
    assert tries == [
        (name, state) for name in ("gpu-1", "gpu-2") for state in ("never_accepted", "refused")
    ]


async def test_bad_jobs_of_one_machine_are_sent_one_at_a_time_and_others_meanwhile(
    farm: Farm,
) -> None:
    await machine(farm)
    broken = [await farm.submit("gpu-1", workflow=bad()) for _ in range(3)]
    good = await farm.submit("gpu-1", "gpu-1")
    await farm.runner(intervals=PATIENT)
    assert (await farm.finished(good)).status == "completed"
    await farm.dispatched()
    states = [state for group in broken for state in await farm.states(group)]
    assert states.count("uncertain") == 1
    assert set(states) <= {"uncertain", "not_sent"}


async def test_bound_job_is_refused_by_the_500_of_another_job(farm: Farm) -> None:
    await machine(farm)
    broken = [await farm.submit("gpu-1", workflow=bad()) for _ in range(3)]
    await farm.runner(intervals=QUICK)
    children = [await farm.failed(group) for group in broken]
    assert all(
        child.failure_class == "workflow_refused" and ANSWER in child.error_message
        for child in children
    )
    rows = [
        row for group in broken for row in await farm.attempts(group) if row.state != "not_sent"
    ]
    # The first one waits for a late arrival, each other one for a single lookup.
    assert sorted(row.state for row in rows) == ["never_accepted", *["refused"] * 3]
    sent = sorted(rows, key=lambda row: row.uncertain_since)
    assert all(older.ended_at <= newer.uncertain_since for older, newer in pairwise(sent))
