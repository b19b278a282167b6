"""Retries within a run, by the policy of the group."""

from typing import Any

import pytest

from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from tests.harness.farm import Farm

pytestmark = pytest.mark.django_db(transaction=True)


async def submit(farm: Farm, *names: str, **fields: Any) -> JobGroup:
    """Submit a group that lets its children be tried three times, on any of its backends."""
    fields = {"max_attempts": 3, "retry_elsewhere": RetryScope.GROUP, **fields}
    return await farm.submit(*names, **fields)


async def outcome(farm: Farm, group: JobGroup, within: float = 30.0) -> list[tuple[str, str, str]]:
    """Wait for the group's end; return backend, state and failure class of each attempt."""
    await farm.finished(group, within)
    assert (await farm.types(group)).count("group_complete") == 1
    await farm.settled(group, within)
    return await farm.outcomes(group)


@pytest.mark.parametrize(
    ("fault", "options", "end"),
    [
        ("cuda_fatal", {}, ("error", "cuda_fatal")),
        ("restart", {"at": "step", "step": 2, "down": 0.3}, ("lost", "backend_lost")),
    ],
)
async def test_one_of_five_backends_fails_and_every_picture_is_made(
    farm: Farm, fault: str, options: dict[str, Any], end: tuple[str, str]
) -> None:
    names = [f"gpu-{number}" for number in range(1, 6)]
    for name in names:
        await farm.backend(name, seconds=0.3)
    farm.sims["gpu-3"].fault(fault, **options)
    await farm.runner(seen=names)
    group = await submit(farm, *names)
    seeds = [child.seed for child in await farm.children(group)]
    attempts = await outcome(farm, group)
    assert ("gpu-3", *end) in attempts
    assert len(attempts) == 6
    children = await farm.children(group)
    assert {child.status for child in children} == {"completed"}
    assert [child.seed for child in children] == seeds
    assert sorted(child.attempt_count for child in children) == [1, 1, 1, 1, 2]
    assert len(set(farm.recorded("started"))) == len(farm.recorded("started")) == 6


async def test_out_of_memory_is_tried_again_here_after_the_memory_was_freed(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", vram_gb=8)
    sim.fault("out_of_memory", count=1)
    await farm.runner()
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.NEVER)
    assert [state for _, state, _ in await outcome(farm, group)] == ["error", "success"]
    kinds = farm.kinds("gpu-1")
    again = len(kinds) - 1 - kinds[::-1].index("accepted")
    assert kinds.index("freed") < again
    freed = sim.audit_log.find("freed")
    assert freed is not None
    assert freed["body"] == {"unload_models": True, "free_memory": True}


async def test_a_backend_that_does_not_answer_to_freeing_keeps_no_end_from_being_stored(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    sim.fault("out_of_memory", count=1)
    sim.fault("hang_http", route="/free", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    assert await outcome(farm, group) == [("gpu-1", "error", "out_of_memory")]


async def test_a_timeout_is_made_good_elsewhere_after_its_prompt_was_stopped(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    sim.fault("stuck", step=2)
    await farm.runner(seen=["gpu-1", "gpu-2"])
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY, timeout_seconds=1)
    assert await outcome(farm, group) == [("gpu-1", "timeout", "timeout"), ("gpu-2", "success", "")]
    ended = sim.audit_log.find("ended")
    began = farm.sims["gpu-2"].audit_log.find("started")
    assert ended is not None
    assert began is not None
    assert ended["time"] < began["time"], "two prompts of one child ran at once"


async def test_a_machine_that_hangs_keeps_its_child_from_elsewhere_for_a_minute_only(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    sim.fault("stuck", step=2, interruptible=False)
    await farm.runner(seen=["gpu-1", "gpu-2"])
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY, timeout_seconds=1)
    done = await farm.finished(group, 40)
    assert done.status == "completed"
    rows = [(row.backend_id, row.failure_class) for row in await farm.attempts(group)]
    assert rows == [("gpu-1", "stalled"), ("gpu-2", "")]
    # It lets go in the end: what it made is kept with its attempt, and decides nothing.
    sim.clear_faults()
    [first, second] = await farm.settled(group)
    assert first.ended_at > second.ended_at
    assert (await farm.types(group)).count("child_completed") == 1


async def test_files_that_are_gone_are_made_again_after_the_cache_was_emptied(farm: Farm) -> None:
    sim = await farm.start("gpu-1")
    first = await farm.submit("gpu-1", base_seed=7)
    await farm.finished(first)
    for file in sim.output_folder.iterdir():
        file.unlink()
    # The same seed: ComfyUI answers from its cache, with a name behind which nothing is.
    group = await submit(farm, "gpu-1", base_seed=7, retry_elsewhere=RetryScope.NEVER)
    assert await outcome(farm, group) == [("gpu-1", "success", "output_gone"), ("gpu-1", "success", "")]
    [child] = await farm.children(group)
    assert (child.status, child.warnings_json) == ("completed", "[]")
    assert [file.suffix for file in sim.output_folder.iterdir()] == [".png"]
