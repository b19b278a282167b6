"""A retry by a person, with a real runner and simulated ComfyUIs: what is rendered, by their audit log."""

from __future__ import annotations

from typing import Any

import pytest

from backends.models import Backend, Reachability
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from jobgroups.services.assignment import Choice
from jobgroups.services.retries import Retried, group_retry
from tests.harness.farm import Farm, in_thread, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)


async def retry(farm: Farm, group: JobGroup, **how: Any) -> Retried:
    """Retry a group and ring."""
    done: Retried = await in_thread(group_retry)(group_id=group.id, **how)
    farm.wake()
    return done


def started(farm: Farm, name: str = "gpu-1") -> list[str]:
    """Return the prompts that a backend began to execute, by its audit log."""
    entries = farm.sims[name].audit_log.entries
    return [entry["prompt_id"] for entry in entries if entry["kind"] == "started"]


async def test_what_failed_is_rendered_again_with_its_seed_and_nothing_else(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.2)
    sim.fault("node_error", count=1, message="bad latent")
    await farm.runner(depth=1)
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1")
    assert (await farm.finished(group)).status == "partial_complete"
    before = await farm.children(group)
    assert len(started(farm)) == 3

    done = await retry(farm, group)
    assert list(done.job_ids) == [before[0].id]
    assert (await farm.finished(group)).status == "completed"
    assert len(set(started(farm))) == 4
    after = await farm.children(group)
    assert [one.seed for one in after] == [one.seed for one in before]
    assert [one.outputs_json for one in after[1:]] == [one.outputs_json for one in before[1:]]
    rows = [(row.number, row.run, row.state) for row in await farm.attempts(group)]
    assert (2, 2, "success") in rows


async def test_a_cancelled_prompt_that_finished_all_the_same_is_not_rendered_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    sim.fault("interrupt_lost", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.cancel(group)
    (attempt,) = await farm.settled(group)
    assert attempt.state == "success"

    done = await retry(farm, group)
    assert (done.status, len(done.adopted_job_ids)) == ("completed", 1)
    (child,) = await farm.children(group)
    assert ".png" in child.outputs_json
    # Time enough for whoever would send it again.
    assert await farm.settled(await farm.submit("gpu-1", workflow=text_to_image(seed=9)))
    assert len([one for one in started(farm) if one == attempt.prompt_id]) == 1
    assert len(await farm.attempts(group)) == 1


async def test_one_that_finishes_after_the_retry_is_not_rendered_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=2.0)
    sim.fault("interrupt_lost", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.cancel(group)
    done = await retry(farm, group)
    assert (done.status, len(done.job_ids)) == ("running", 1)
    assert (await farm.finished(group)).status == "completed"
    assert len(started(farm)) == 1
    types = await farm.types(group)
    assert types[types.index("group_reopened") :] == [
        "group_reopened",
        "child_started",
        "child_completed",
        "group_complete",
    ]


async def test_the_earlier_prompt_has_ended_before_the_next_is_sent(farm: Farm) -> None:
    sim = await farm.backend(seconds=30.0)
    sim.fault("interrupt_lost", count=2)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.cancel(group)
    await retry(farm, group)

    async def two() -> bool:
        return len(started(farm)) == 2

    await until(two)
    kinds = [(entry["kind"], entry.get("prompt_id")) for entry in sim.audit_log.entries]
    first, second = started(farm)
    assert kinds.index(("ended", first)) < kinds.index(("accepted", second))
    await farm.cancel(group)
    await farm.settled(group)


async def test_a_retry_elsewhere_is_rendered_there(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=0.2)
    await farm.backend("gpu-2", seconds=0.2)
    sim.fault("node_error", count=0, message="bad card")
    await farm.runner()
    group = await farm.submit("gpu-1")
    assert (await farm.finished(group)).status == "failed"
    done = await retry(farm, group, choice=Choice(elsewhere=RetryScope.ANY))
    assert list(done.moved.values()) == ["gpu-2"]
    assert (await farm.finished(group)).status == "completed"
    assert (len(started(farm, "gpu-1")), len(started(farm, "gpu-2"))) == (1, 1)


async def test_what_was_cancelled_on_a_machine_that_died_is_rendered_elsewhere(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=60.0)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner(move_after_s=0.5)
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.crash()

    async def away() -> bool:
        row = await in_thread(Backend.objects.get)(pk="gpu-1")
        return row.reachability == Reachability.OFFLINE

    await until(away)
    await farm.cancel(group)
    done = await retry(farm, group, choice=Choice(elsewhere=RetryScope.ANY))
    assert list(done.moved.values()) == ["gpu-2"]
    assert (await farm.finished(group)).status == "completed"
    assert (len(started(farm, "gpu-1")), len(started(farm, "gpu-2"))) == (1, 1)
