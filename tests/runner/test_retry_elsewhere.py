"""Machines that fail, and groups that say what is to be done then: by the machines' own audit log."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend
from jobgroups.domain.states import RetryScope
from jobgroups.models import Attempt, JobGroup
from tests.harness.farm import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_pause(settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.05


def started(farm: Farm, *names: str) -> list[str]:
    """Return the prompts that backends began to execute, by their audit logs."""
    return [
        entry["prompt_id"]
        for name in names or tuple(farm.sims)
        for entry in farm.sims[name].audit_log.entries
        if entry["kind"] == "started"
    ]


async def seen(farm: Farm, *names: str) -> None:
    """Wait until the runner has seen each backend: what it has not seen is no candidate."""

    async def all_seen() -> bool:
        rows = Backend.objects.filter(pk__in=names, reachability="online").exclude(devices=[])
        return bool(await in_thread(rows.count)() == len(names))

    await until(all_seen)


async def submit(farm: Farm, *names: str, **fields: Any) -> JobGroup:
    """Submit a group that lets its children be tried three times, on any of its backends."""
    fields = {"max_attempts": 3, "retry_elsewhere": RetryScope.GROUP, **fields}
    return await farm.submit(*names, **fields)


async def outcome(farm: Farm, group: JobGroup, within: float = 30.0) -> list[tuple[str, str, str]]:
    """Wait for the group's end; return backend, state and failure class of each attempt."""
    await farm.finished(group, within)
    assert (await farm.types(group)).count("group_complete") == 1
    rows: list[Attempt] = await farm.settled(group, within)
    return [(row.backend_id, row.state, row.failure_class) for row in rows]


async def test_one_of_five_machines_is_on_fire_and_every_picture_is_made(farm: Farm) -> None:
    names = [f"gpu-{number}" for number in range(1, 6)]
    for name in names:
        await farm.backend(name, seconds=0.2)
    farm.sims["gpu-3"].fault("cuda_fatal")
    await farm.runner()
    await seen(farm, *names)
    group = await submit(farm, *names)
    seeds = [child.seed for child in await farm.children(group)]
    attempts = await outcome(farm, group)
    done = await farm.group(group)
    assert (done.status, done.completed_count, done.failed_count) == ("completed", 5, 0)
    assert ("gpu-3", "error", "cuda_fatal") in attempts
    assert len(attempts) == 6
    children = await farm.children(group)
    assert [child.seed for child in children] == seeds
    assert sorted(child.attempt_count for child in children) == [1, 1, 1, 1, 2]
    assert len(started(farm)) == len(set(started(farm))) == 6


async def test_out_of_memory_on_the_small_card_is_done_on_the_big_one(farm: Farm) -> None:
    small = await farm.backend("gpu-1", vram_gb=8)
    await farm.backend("gpu-2", vram_gb=12)
    await farm.backend("gpu-3", vram_gb=48)
    small.fault("out_of_memory", count=0)
    await farm.runner()
    await seen(farm, "gpu-1", "gpu-2", "gpu-3")
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY)
    assert await outcome(farm, group) == [("gpu-1", "error", "out_of_memory"), ("gpu-3", "success", "")]
    assert small.audit_log.find("freed") is not None
    assert started(farm, "gpu-2") == []


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
    assert freed["asked"] == {"unload_models": True, "free_memory": True}


async def test_a_backend_that_does_not_answer_to_freeing_keeps_no_end_from_being_stored(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    sim.fault("out_of_memory", count=1)
    sim.fault("hang_http", route="/free", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    assert await outcome(farm, group) == [("gpu-1", "error", "out_of_memory")]


async def test_a_model_that_one_backend_lacks_is_found_on_another(farm: Farm) -> None:
    await farm.backend("gpu-1", checkpoints=("other.safetensors",))
    await farm.backend("gpu-2")
    await farm.runner()
    await seen(farm, "gpu-1", "gpu-2")
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY)
    assert await outcome(farm, group) == [("gpu-1", "refused", "node_or_model_missing"), ("gpu-2", "success", "")]
    types = await farm.types(group)
    assert types == ["group_created", "child_retrying", "child_started", "child_completed", "group_complete"]


async def test_a_graph_that_is_wrong_is_refused_once(farm: Farm) -> None:
    await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    await farm.runner()
    await seen(farm, "gpu-1", "gpu-2")
    wrong = {"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "out"}}}
    group = await submit(farm, "gpu-1", workflow=wrong, retry_elsewhere=RetryScope.ANY)
    assert await outcome(farm, group) == [("gpu-1", "refused", "workflow_refused")]


async def test_a_node_that_raises_is_tried_three_times_and_no_more(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    sim.fault("node_error", count=0, message="bad latent")
    await farm.runner()
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.NEVER)
    assert await outcome(farm, group) == [("gpu-1", "error", "node_error")] * 3
    assert len(set(started(farm))) == 3
    [child] = await farm.children(group)
    assert (child.status, child.error_message) == ("failed", "bad latent")
    assert (child.failure_class, child.attempt_count) == ("node_error", 3)


async def test_a_crash_in_the_middle_of_a_render_is_made_good_elsewhere(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=1.0)
    await farm.backend("gpu-2")
    sim.fault("crash", at="step", step=2)
    await farm.runner(depth=1)
    await seen(farm, "gpu-1", "gpu-2")
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY, timeout_seconds=3)
    attempts = await outcome_of_children(farm, group)
    assert attempts[-1] == ("gpu-2", "success", "")
    assert attempts[0][0] == "gpu-1"


async def test_what_ran_and_what_waited_at_a_machine_that_died_for_good_is_made_elsewhere(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=1.0)
    await farm.backend("gpu-2")
    sim.fault("crash", at="step", step=2)
    await farm.runner(give_up_s=2.0)
    await seen(farm, "gpu-1", "gpu-2")
    backends = ["gpu-1"] * 3
    group = await submit(farm, *backends, retry_elsewhere=RetryScope.ANY, timeout_seconds=3)
    attempts = await outcome_of_children(farm, group)
    made = [backend_id for backend_id, state, _ in attempts if state == "success"]
    assert made == ["gpu-2"] * 3
    # One was running there; the second stood in its queue, the third was never sent.
    failures = [failure for backend_id, _, failure in attempts if backend_id == "gpu-1"]
    assert sorted(failures) == ["backend_lost", "unreachable"]
    assert len(started(farm, "gpu-2")) == 3


async def outcome_of_children(farm: Farm, group: JobGroup) -> list[tuple[str, str, str]]:
    """As ``outcome``, without waiting for attempts of which nobody can say how they ended."""
    done = await farm.finished(group, 40)
    assert done.status == "completed"
    rows = await farm.attempts(group)
    return [(row.backend_id, row.state, row.failure_class) for row in rows]


async def test_a_restart_in_the_middle_of_a_render_is_made_good_there(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=0.5)
    sim.fault("restart", at="step", step=2, down=0.3)
    await farm.runner()
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.NEVER)
    assert await outcome(farm, group) == [("gpu-1", "lost", "backend_lost"), ("gpu-1", "success", "")]


async def test_a_timeout_is_made_good_elsewhere_after_its_prompt_was_stopped(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    sim.fault("stuck", step=2)
    await farm.runner()
    await seen(farm, "gpu-1", "gpu-2")
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
    await farm.runner()
    await seen(farm, "gpu-1", "gpu-2")
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
    sim = await farm.backend("gpu-1")
    await farm.runner()
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


async def test_files_that_are_gone_are_a_warning_where_nothing_is_said(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    await farm.runner()
    await farm.finished(await farm.submit("gpu-1", base_seed=7))
    for file in sim.output_folder.iterdir():
        file.unlink()
    group = await farm.submit("gpu-1", base_seed=7)
    assert len(await outcome(farm, group)) == 1
    [child] = await farm.children(group)
    assert child.status == "completed"
    assert "is gone from the backend" in child.warnings_json
