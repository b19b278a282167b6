"""Moves and retries by a user."""

from typing import Any

import pytest

from backends.comfyui.client import ComfyClient
from backends.models import Backend
from jobgroups.domain.states import RetryScope
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries import work
from jobgroups.services.assignment import Choice
from jobgroups.services.moves import Moved, child_move
from jobgroups.services.retries import Retried, group_retry
from tests.harness.farm import Farm, both_versions, in_thread, until, until_row

pytestmark = pytest.mark.django_db(transaction=True)


async def pending(farm: Farm, **options: Any) -> tuple[JobGroup, Any]:
    """Have a job of a group stand in the queue of gpu-1 behind the group's other one, which runs."""
    await farm.backend("gpu-1", **{"seconds": 2.0, **options})
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner()
    group = await farm.running("gpu-1", "gpu-1")
    waiting = group.children.filter(status="queued", current_attempt__state="accepted")
    return group, await until_row(waiting)


async def move(farm: Farm, group: JobGroup, child: Any, backend_id: str = "gpu-2") -> Moved:
    done: Moved = await in_thread(child_move)(group_id=group.id, job_id=child.id, backend_id=backend_id, by="anna")
    farm.wake()
    return done


async def kill_all(farm: Farm) -> None:
    for service in list(farm._tasks):
        await farm.kill(service)


@both_versions
async def test_a_pending_prompt_is_removed_before_the_job_is_sent_elsewhere(farm: Farm, version: str) -> None:
    group, child = await pending(farm, version=version)
    done = await move(farm, group, child)
    assert done.removing_from == "gpu-1"
    assert (await farm.finished(group)).status == "completed"
    places = {one.pk: one.backend_id for one in await farm.children(group)}
    assert sorted(places.values()) == ["gpu-1", "gpu-2"]
    assert places[child.pk] == "gpu-2"
    assert len(farm.recorded("started", "gpu-1")) == 1, "what ran there was left alone"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert len(farm.recorded("started", "gpu-2")) == 1
    rows = [(one.backend_id, one.state, one.is_counted) for one in await farm.settled(group)]
    assert ("gpu-1", "interrupted", False) in rows
    removed = [one for one in await farm.attempts(group) if one.stop_reason == "moved"]
    sent = [one for one in await farm.attempts(group) if one.backend_id == "gpu-2"]
    assert removed[0].ended_at <= sent[0].created_at


@both_versions
async def test_a_prompt_that_starts_before_its_removal_stays_where_it_is(farm: Farm, version: str) -> None:
    group, child = await pending(farm, version=version, seconds=1.5)
    await kill_all(farm)
    await move(farm, group, child)
    await until(lambda: len(farm.recorded("started", "gpu-1")) == 2)
    await farm.runner()
    assert (await farm.finished(group)).status == "completed"
    assert {one.backend_id for one in await farm.children(group)} == {"gpu-1"}
    assert "interrupted" not in farm.kinds("gpu-1")
    assert farm.recorded("accepted", "gpu-2") == []
    assert len(await farm.settled(group)) == 2
    # The stop is withdrawn: its progress is sent, and another runner may take it over.
    assert all(not one.stop_reason for one in await farm.attempts(group))


async def test_a_stop_that_was_read_before_its_move_was_void_stops_nothing(farm: Farm) -> None:
    """One database thread reads the pending stops while another one stores the prompt's start."""
    group, child = await pending(farm, seconds=2.0)
    await kill_all(farm)
    await move(farm, group, child)
    _, stops = await in_thread(work.pending_work)()
    await until(lambda: len(farm.recorded("started", "gpu-1")) == 2)
    service = await farm.runner()
    attempts = Attempt.objects.filter(child__group=group)
    await until(in_thread(lambda: not attempts.exclude(stop_reason="").exists()))
    service._sessions["gpu-1"].session.stop_attempts(stops["gpu-1"])
    assert (await farm.finished(group)).status == "completed"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert farm.recorded("accepted", "gpu-2") == []


@both_versions
async def test_a_removal_that_was_not_stored_is_found_after_the_runner_was_killed(farm: Farm, version: str) -> None:
    group, child = await pending(farm, version=version, seconds=3.0)
    await kill_all(farm)
    await move(farm, group, child)
    prompt = (await in_thread(Attempt.objects.get)(stop_reason="moved")).prompt_id
    async with ComfyClient(farm.sims["gpu-1"].url) as client:
        await client.delete_pending([prompt])
    await farm.runner()
    assert (await farm.finished(group)).status == "completed"
    assert prompt not in farm.recorded("started", "gpu-1")
    assert len(farm.recorded("started", "gpu-2")) == 1


async def test_a_prompt_whose_answer_was_lost_is_looked_for_first(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=1.5)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner()
    busy = await farm.running("gpu-1")
    sim.fault("late_post", seconds=1.0)
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "uncertain")
    (child,) = await farm.children(group)
    assert (await move(farm, group, child)).removing_from == "gpu-1"
    assert (await farm.finished(group)).status == "completed"
    prompts = {attempt.prompt_id for attempt in await farm.attempts(group)}
    assert len(prompts & set(farm.recorded("started"))) == 1
    await farm.finished(busy)


async def retry(farm: Farm, group: JobGroup, **how: Any) -> Retried:
    done: Retried = await in_thread(group_retry)(group_id=group.id, **how)
    farm.wake()
    return done


@both_versions
async def test_one_that_finishes_after_the_retry_is_not_rendered_again(farm: Farm, version: str) -> None:
    sim = await farm.backend(seconds=2.0, version=version)
    sim.fault("interrupt_lost", count=0)
    await farm.runner()
    group = await farm.running("gpu-1")
    await farm.cancel(group)
    done = await retry(farm, group)
    assert (done.status, len(done.job_ids)) == ("running", 1)
    assert (await farm.finished(group)).status == "completed"
    assert len(farm.recorded("started")) == 1
    types = await farm.types(group)
    assert types[types.index("group_reopened") :] == [
        "group_reopened",
        "child_started",
        "child_completed",
        "group_complete",
    ]


async def test_what_was_cancelled_on_a_machine_that_died_is_rendered_elsewhere(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=60.0)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner(move_after_s=0.5)
    group = await farm.running("gpu-1")
    sim.crash()
    await until_row(Backend.objects.filter(pk="gpu-1", reachability="offline"))
    await farm.cancel(group)
    done = await retry(farm, group, choice=Choice(elsewhere=RetryScope.ANY))
    assert list(done.moved.values()) == ["gpu-2"]
    assert (await farm.finished(group)).status == "completed"
    assert (len(farm.recorded("started", "gpu-1")), len(farm.recorded("started", "gpu-2"))) == (1, 1)
