"""Moves by a person, with a real runner and simulated ComfyUIs: what is rendered, by their audit log."""

from __future__ import annotations

from typing import Any

import pytest

from backends.comfyui.client import ComfyClient
from backends.models import Backend, Reachability
from jobgroups.domain.states import Where
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries import work
from jobgroups.services.assignment import Choice
from jobgroups.services.moves import Moved, child_move
from jobgroups.services.retries import child_retry
from tests.harness.farm import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


def recorded(farm: Farm, name: str, kind: str) -> list[str]:
    """Return the prompts that a backend's audit log has with this kind, in order."""
    entries = farm.sims[name].audit_log.entries
    return [entry["prompt_id"] for entry in entries if entry["kind"] == kind]


async def pending(farm: Farm, **options: Any) -> tuple[JobGroup, Any]:
    """Have a job of a group stand in the queue of gpu-1 behind the group's other one, which runs."""
    await farm.backend("gpu-1", **{"seconds": 2.0, **options})
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.status_of(group, "running")

    async def accepted() -> Any:
        for child in await farm.children(group):
            rows = await farm.attempts(group)
            states = {row.pk: row.state for row in rows}
            if child.status == "queued" and states.get(child.current_attempt_id) == "accepted":
                return child
        return None

    return group, await until(accepted)


async def move(farm: Farm, group: JobGroup, child: Any, backend_id: str = "gpu-2") -> Moved:
    """Move a job and ring."""
    done: Moved = await in_thread(child_move)(group_id=group.id, job_id=child.id, backend_id=backend_id, by="anna")
    farm.wake()
    return done


async def restarted(farm: Farm) -> None:
    """Start a runner under the name of the one that was killed."""
    await farm.runner()


async def kill_all(farm: Farm) -> None:
    for service in list(farm._tasks):
        await farm.kill(service)


async def test_a_pending_prompt_is_removed_before_the_job_is_sent_elsewhere(farm: Farm) -> None:
    group, child = await pending(farm)
    done = await move(farm, group, child)
    assert done.removing_from == "gpu-1"
    assert (await farm.finished(group)).status == "completed"
    places = {one.pk: one.backend_id for one in await farm.children(group)}
    assert sorted(places.values()) == ["gpu-1", "gpu-2"]
    assert places[child.pk] == "gpu-2"
    assert len(recorded(farm, "gpu-1", "started")) == 1, "what ran there was left alone"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert len(recorded(farm, "gpu-2", "started")) == 1
    rows = [(one.backend_id, one.state, one.is_counted) for one in await farm.settled(group)]
    assert ("gpu-1", "interrupted", False) in rows
    removed = [one for one in await farm.attempts(group) if one.stop_reason == "moved"]
    sent = [one for one in await farm.attempts(group) if one.backend_id == "gpu-2"]
    assert removed[0].ended_at <= sent[0].created_at


async def test_a_prompt_that_starts_before_its_removal_stays_where_it_is(farm: Farm) -> None:
    group, child = await pending(farm, seconds=0.8)
    await kill_all(farm)
    await move(farm, group, child)

    async def both_started() -> bool:
        return len(recorded(farm, "gpu-1", "started")) == 2

    await until(both_started)
    await restarted(farm)
    assert (await farm.finished(group)).status == "completed"
    assert {one.backend_id for one in await farm.children(group)} == {"gpu-1"}
    assert "interrupted" not in farm.kinds("gpu-1")
    assert recorded(farm, "gpu-2", "accepted") == []
    assert len(await farm.settled(group)) == 2
    # The stop is withdrawn: its progress is sent, and another runner may take it over.
    assert all(not one.stop_reason for one in await farm.attempts(group))


async def test_a_stop_that_was_read_before_its_move_was_void_stops_nothing(farm: Farm) -> None:
    """One database thread reads the pending stops while another one stores the prompt's start."""
    group, child = await pending(farm, seconds=2.0)
    await kill_all(farm)
    await move(farm, group, child)
    _, stops = await in_thread(work.pending_work)()

    async def both_started() -> bool:
        return len(recorded(farm, "gpu-1", "started")) == 2

    await until(both_started)
    service = await farm.runner()

    async def void() -> bool:
        return all(not one.stop_reason for one in await farm.attempts(group))

    await until(void)
    service._sessions["gpu-1"].session.stop_attempts(stops["gpu-1"])
    assert (await farm.finished(group)).status == "completed"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert recorded(farm, "gpu-2", "accepted") == []


async def test_a_move_is_carried_out_after_the_runner_was_killed(farm: Farm) -> None:
    group, child = await pending(farm, seconds=3.0)
    await kill_all(farm)
    await move(farm, group, child)
    await restarted(farm)
    assert (await farm.finished(group)).status == "completed"
    assert len(recorded(farm, "gpu-1", "started")) == 1
    assert len(recorded(farm, "gpu-2", "started")) == 1


async def test_a_removal_that_was_not_stored_is_found_after_the_runner_was_killed(farm: Farm) -> None:
    group, child = await pending(farm, seconds=3.0)
    await kill_all(farm)
    await move(farm, group, child)
    prompt = (await in_thread(Attempt.objects.get)(stop_reason="moved")).prompt_id
    async with ComfyClient(farm.sims["gpu-1"].url) as client:
        await client.delete_pending([prompt])
    await restarted(farm)
    assert (await farm.finished(group)).status == "completed"
    assert prompt not in recorded(farm, "gpu-1", "started")
    assert len(recorded(farm, "gpu-2", "started")) == 1


async def test_a_prompt_whose_answer_was_lost_is_looked_for_first(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=1.5)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner()
    busy = await farm.submit("gpu-1")
    await farm.status_of(busy, "running")
    sim.fault("late_post", seconds=1.0)
    group = await farm.submit("gpu-1")

    async def uncertain() -> bool:
        return [one.state for one in await farm.attempts(group)] == ["uncertain"]

    await until(uncertain)
    (child,) = await farm.children(group)
    assert (await move(farm, group, child)).removing_from == "gpu-1"
    assert (await farm.finished(group)).status == "completed"
    executed = [
        prompt
        for name in ("gpu-1", "gpu-2")
        for prompt in recorded(farm, name, "started")
        if prompt in {one.prompt_id for one in await farm.attempts(group)}
    ]
    assert len(executed) == 1
    await farm.finished(busy)


async def test_a_job_in_the_queue_of_a_dead_backend_is_rendered_elsewhere_at_once(farm: Farm) -> None:
    group, child = await pending(farm, seconds=60.0)
    farm.sims["gpu-1"].crash()

    async def away() -> bool:
        row = await in_thread(Backend.objects.get)(pk="gpu-1")
        return row.reachability == Reachability.OFFLINE

    await until(away)
    assert (await move(farm, group, child)).removing_from is None
    moved = await farm.status_of(group, "completed")
    assert (moved.pk, moved.backend_id) == (child.pk, "gpu-2")
    await farm.cancel(group)


async def test_a_job_that_ran_out_of_memory_is_rendered_on_a_larger_card_in_the_same_run(farm: Farm) -> None:
    small = await farm.backend("gpu-1", seconds=0.3)
    small.fault("out_of_memory", count=1)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner(depth=1)
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1", "gpu-1", "gpu-1")
    failed = await farm.status_of(group, "failed")
    assert failed.failure_class == "out_of_memory"
    await in_thread(child_retry)(group_id=group.id, job_id=failed.pk, choice=Choice(where=Where.AUTO))
    farm.wake()
    done = await farm.finished(group)
    assert (done.status, done.run) == ("completed", 1)
    assert len(recorded(farm, "gpu-2", "started")) == 1
    types = await farm.types(group)
    assert (types.count("group_complete"), types[-1]) == (1, "group_complete")
