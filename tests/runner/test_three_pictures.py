"""The main job: children to their pictures, whatever some of the backends do."""

import asyncio
import itertools
import json

import pytest

from backends.comfyui.client import ComfyClient
from backends.models import Backend
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import Farm, in_thread, until_row
from tests.harness.graphs import text_to_image

pytestmark = pytest.mark.django_db(transaction=True)


async def test_three_children_become_three_pictures(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        await farm.backend(name, seconds=0.2)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-2", "gpu-3", seed_strategy="sequential", base_seed=7)
    done = await farm.finished(group)
    assert (done.status, done.completed_count) == ("completed", 3)
    for child in await farm.children(group):
        outputs = json.loads(child.outputs_json)
        assert outputs["images"][0]["filename"].endswith(".png")
        assert child.started_at is not None
        assert (child.progress, child.current_step) == (100.0, "SaveImage")
    types = await farm.types(group)
    assert types[0] == "group_created"
    assert types[-1] == "group_complete"
    assert sorted(types[1:-1]) == ["child_completed"] * 3 + ["child_started"] * 3
    for name, seed in (("gpu-1", 7), ("gpu-2", 8), ("gpu-3", 9)):
        (entry,) = farm.sims[name].prompts
        async with ComfyClient(farm.sims[name].url) as comfy:
            history = await comfy._get(f"/history/{entry['prompt_id']}", json.loads)
        (ended,) = history.values()
        assert ended["prompt"][2]["3"]["inputs"]["seed"] == seed


async def test_a_backend_that_refuses_at_once_is_not_asked_without_a_pause(farm: Farm) -> None:
    """Else it has a hundred prompts a second, which the runner cannot give to the others meanwhile."""
    await farm.backend()
    await farm.runner(depth=1, intervals=Intervals(refusal_backoff=0.2))
    wrong = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    group = await farm.submit(*["gpu-1"] * 4, workflow=wrong)
    await farm.finished(group)
    times = [(one.created_at, one.ended_at) for one in await farm.attempts(group)]
    assert len(times) == 4
    pauses = [
        (began - ended).total_seconds() for (_, ended), (began, _) in itertools.pairwise(times) if ended is not None
    ]
    assert all(0.19 <= one < 1.0 for one in pauses), pauses


async def test_a_graph_that_would_kill_the_backends_worker_is_never_sent(farm: Farm) -> None:
    await farm.start(seconds=0.05)
    poisoned = text_to_image()
    poisoned["3"]["inputs"]["extra"] = ["99", 0]
    group = await farm.submit("gpu-1", workflow=poisoned)
    await farm.finished(group)
    (child,) = await farm.children(group)
    assert (child.status, child.error_type) == ("failed", "ValidationError")
    assert "'extra' is linked to node 99" in child.error_message
    assert farm.kinds() == []
    assert (await farm.finished(await farm.submit("gpu-1"))).status == "completed"


async def test_cancel_interrupts_what_runs_deletes_what_waits_and_leaves_strangers(farm: Farm) -> None:
    sim = await farm.start(seconds=8)
    group = await farm.running("gpu-1", "gpu-1", "gpu-1")
    await farm.in_states(group, "running", "accepted")
    sim.fault("foreign_prompt", at="now", seconds=0.1)
    told = await farm.cancel(group)
    assert told.interrupted == 3
    rows = await farm.settled(group)
    assert [row.state for row in rows] == ["interrupted", "interrupted"]
    assert (await farm.group(group)).status == "cancelled"
    foreign = next(e for e in sim.prompts if "director" not in (e.get("extra_data") or {}))
    await sim.wait_for("ended", prompt_id=foreign["prompt_id"], outcome="success")


async def test_a_comfyui_that_would_render_twice_is_told_to_be_updated(farm: Farm) -> None:
    await farm.start(seconds=0.05, version="0.3.40")
    away = Backend.objects.filter(reachability="offline", status_reason__contains="too old")
    await until_row(away)
    await farm.submit("gpu-1")
    assert farm.kinds() == []


async def test_a_disabled_backend_fails_what_waits_and_finishes_what_was_sent(farm: Farm) -> None:
    await farm.backend(seconds=1)
    await farm.runner(depth=1)
    group = await farm.running("gpu-1", "gpu-1")
    await in_thread(Backend.objects.update)(enabled=False)
    await farm.finished(group)
    statuses = [child.status for child in await farm.children(group)]
    assert statuses == ["completed", "failed"]


async def test_progress_is_stored_as_it_comes_and_never_goes_back(farm: Farm) -> None:
    await farm.start(seconds=1.5)
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=15))
    seen: list[float] = []
    async with asyncio.timeout(20):
        while not (await farm.group(group)).completed_at:
            seen += [child.progress for child in await farm.children(group)]
            await asyncio.sleep(0.05)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
