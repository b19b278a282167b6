"""Backends that go offline in a render: crashed for good, or alive behind a broken network."""

import contextlib
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db.models import F

from backends.models import Backend
from backends.simulator import Simulator
from jobgroups.domain.states import RetryScope
from jobgroups.models import Attempt, JobGroup, Timing
from tests.harness.cable import Cable
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.graphs import text_to_image
from tests.harness.simulator_thread import SimulatorThread


@contextlib.asynccontextmanager
async def cabled(farm: Farm, name: str = "gpu-1", **options: Any) -> AsyncIterator[Cable]:
    """Start a backend that the Director reaches through a cable."""
    sim = await farm._stack.enter_async_context(Simulator(name=name, **options))
    farm.sims[name] = sim
    target = urlsplit(sim.url)
    cable = Cable(target.hostname, target.port)
    await cable.plug()
    await farm.register(name, f"http://127.0.0.1:{cable.port}")
    try:
        yield cable
    finally:
        await cable.cut()


async def submit(farm: Farm, *names: str, **fields: Any) -> JobGroup:
    fields = {"max_attempts": 3, "retry_elsewhere": RetryScope.ANY, **fields}
    return await farm.submit(*names or ("gpu-1",), **fields)


async def ended(farm: Farm, group: JobGroup, within: float = 20.0) -> JobGroup:
    done = await farm.finished(group, within)
    assert (await farm.types(group)).count("group_complete") == 1
    return done


async def test_crash_without_retry_elsewhere_fails_the_job_as_lost_at_its_timeout(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2")
    await farm.runner(move_after_s=0.3, seen=["gpu-1", "gpu-2"])
    group = await farm.running("gpu-1", timeout_seconds=3)
    sim.crash()
    await ended(farm, group)
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("failed", "backend_lost")
    assert (child.error_type, child.attempt_count) == ("ConnectionError", 1)
    assert "gpu-1 went offline at " in child.error_message
    assert child.error_message.endswith(", while it rendered this job")
    assert (child.completed_at - child.started_at).total_seconds() >= 3
    assert farm.recorded("started", "gpu-2") == []
    # Back without a memory of the prompt: the first cause stays, and counts once.
    await sim.restart()
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.failure_class) == ("lost", "backend_lost")
    assert "went offline" in attempt.error_message


async def test_crash_with_retry_elsewhere_moves_the_running_and_the_accepted_job(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner(move_after_s=0.5, seen=["gpu-1", "gpu-2"])
    group = await submit(farm, "gpu-1", "gpu-1", max_attempts=2, timeout_seconds=60)
    await farm.in_states(group, "running", "accepted")
    sim.crash()
    done = await ended(farm, group)
    assert (done.status, done.completed_count) == ("completed", 2)
    assert sorted(await farm.outcomes(group)) == [
        ("gpu-1", "accepted", "unreachable"),
        ("gpu-1", "running", "backend_lost"),
        ("gpu-2", "success", ""),
        ("gpu-2", "success", ""),
    ]
    charged = {row.failure_class: row.is_counted for row in await farm.attempts(group)}
    assert (charged["backend_lost"], charged["unreachable"]) == (True, False)
    assert len(farm.recorded("started", "gpu-2")) == 2
    await sim.restart()
    assert {row.state for row in await farm.settled(group)} == {"lost", "success"}
    assert (await farm.types(group))[-1] == "group_complete"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_dead_backend_is_noticed_by_the_next_runner_too(farm: Farm, end: str) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2", seconds=0.2)
    first = await farm.runner(move_after_s=600.0, seen=["gpu-1", "gpu-2"])
    moves = await submit(farm, "gpu-1", timeout_seconds=60)
    stays = await farm.submit("gpu-1", timeout_seconds=4)
    await farm.status_of(moves, "running")
    sim.crash()
    await (farm.stop(first) if end == "stop" else farm.kill(first))
    await farm.runner(move_after_s=0.5)
    assert (await ended(farm, moves)).status == "completed"
    assert [row[2] for row in await farm.outcomes(moves)] == ["backend_lost", ""]
    # What never began is sent again once its backend is back, and is no second render.
    await sim.restart()
    assert (await farm.status_of(stays, "running")).backend_id == "gpu-1"
    prompts = farm.recorded("started")
    assert len(prompts) == len(set(prompts)) == 3


async def test_picture_finished_behind_a_cut_network_is_adopted_while_the_job_waits(
    farm: Farm,
) -> None:
    async with cabled(farm) as cable:
        farm.sims["gpu-1"].fault("stuck")
        (await farm.backend("gpu-2")).fault("stuck")
        await farm.runner(move_after_s=0.5, depth=1, seen=["gpu-1", "gpu-2"])
        # Its only other backend is busy, so the moved job waits there.
        busy = await farm.running("gpu-2", timeout_seconds=60)
        group = await submit(farm, timeout_seconds=60)
        await farm.status_of(group, "running")
        await cable.cut()
        moved = await farm.status_of(group, "queued")
        assert moved.backend_id == "gpu-2"
        farm.sims["gpu-1"].clear_faults()
        await farm.sims["gpu-1"].wait_for("ended")
        await cable.plug()
        assert (await ended(farm, group)).status == "completed"
        (child,) = await farm.children(group)
        assert (child.backend_id, child.attempt_count) == ("gpu-1", 1)
        assert await farm.outcomes(group) == [("gpu-1", "success", "")]
        assert len(farm.recorded("started", "gpu-2")) == 1
        await farm.cancel(busy)


async def test_prompt_that_still_runs_when_its_backend_is_back_is_stopped(farm: Farm) -> None:
    async with cabled(farm, seconds=600) as cable:
        await farm.backend("gpu-2", seconds=0.5)
        await farm.runner(move_after_s=0.5, seen=["gpu-1", "gpu-2"])
        group = await submit(farm, timeout_seconds=60)
        await farm.status_of(group, "running")
        await cable.cut()
        assert (await ended(farm, group)).status == "completed"
        (child,) = await farm.children(group)
        assert child.backend_id == "gpu-2"
        await cable.plug()
        rows = await farm.settled(group)
        assert [(row.state, row.failure_class) for row in rows] == [
            ("interrupted", "backend_lost"),
            ("success", ""),
        ]
        # It takes work again.
        later = await farm.running("gpu-1", timeout_seconds=60)
        await farm.cancel(later)


async def test_short_cut_moves_nothing(farm: Farm) -> None:
    async with cabled(farm) as cable:
        farm.sims["gpu-1"].fault("stuck")
        await farm.backend("gpu-2")
        await farm.runner(move_after_s=60.0, seen=["gpu-1", "gpu-2"])
        group = await submit(farm, "gpu-1", "gpu-1", timeout_seconds=60)
        await farm.in_states(group, "running", "accepted")
        await cable.cut()
        await until_row(Backend.objects.filter(pk="gpu-1", reachability="offline"))
        await cable.plug()
        farm.sims["gpu-1"].clear_faults()
        assert (await ended(farm, group)).status == "completed"
        assert await farm.outcomes(group) == [("gpu-1", "success", "")] * 2
        assert farm.recorded("started", "gpu-2") == []


async def test_backend_whose_events_arrive_is_not_offline_when_its_answers_do_not(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=600.0)
    service = await farm.runner()
    group = await farm.running(workflow=text_to_image(steps=10_000))
    availability = service._sessions["gpu-1"].context.availability
    sim.fault("reset_http", count=0)
    await until(lambda: availability._offline_since is not None)
    # An event of progress follows within 0.06 s.
    await until(lambda: availability.offline_for() is None)
    sim.clear_faults()
    await farm.cancel(group)
    assert (await ended(farm, group)).status == "cancelled"


async def test_time_for_which_the_runner_was_suspended_is_no_time_of_a_workflow(farm: Farm) -> None:
    with SimulatorThread(name="gpu-1", seconds=1.0) as sims:
        await farm.register("gpu-1", sims.url)
        await farm.runner(seen=["gpu-1"])
        group = await farm.submit("gpu-1")
        await farm.in_states(group, "running")
        time.sleep(4)  # as a machine that sleeps
        await ended(farm, group)
        timing = await until_row(Timing.objects.all())
    [attempt] = await farm.attempts(group)
    assert 0.5 < timing.seconds < 2
    assert attempt.execution_seconds == pytest.approx(timing.seconds)
    # Nodes began and ended unseen.
    assert json.loads(attempt.execution_json)["node_seconds"] == {}


async def test_seconds_of_a_prompt_that_ended_without_a_runner_are_those_of_its_backend(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=0.5)
    runner = await farm.runner(seen=["gpu-1"])
    group = await farm.running("gpu-1")
    await farm.kill(runner)
    await sim.wait_for("ended")
    # For so long no runner is there.
    await in_thread(Attempt.objects.update)(
        created_at=F("created_at") - dt.timedelta(hours=1),
        started_at=F("started_at") - dt.timedelta(hours=1),
    )
    await farm.runner()
    await ended(farm, group)
    [attempt] = await farm.attempts(group)
    assert 0.3 < attempt.execution_seconds < 60
