"""What is known of an execution when its attempt has ended, how long it took, and which prompts
order previews.
"""

import json
import os
import platform
from typing import Any

import httpx
import pytest
from PIL import Image

from backends.simulator import Simulator
from jobgroups.models import JobGroup, Timing
from jobgroups.queries.provenance import job_provenance
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.graphs import picture, text_to_image


async def record_of(farm: Farm, group: JobGroup) -> dict[str, Any]:
    (child,) = await farm.children(group)
    return await in_thread(job_provenance)(group.id, child.id)


async def sent_to(sim: Simulator, prompt_id: str) -> dict[str, Any]:
    """Return the workflow of a prompt as ComfyUI has it, without the empty ``_meta`` of its nodes."""
    async with httpx.AsyncClient() as client:
        history = (await client.get(f"{sim.url}/history/{prompt_id}")).json()
    graph = history[prompt_id]["prompt"][2]
    return {
        node_id: {key: one for key, one in node.items() if key != "_meta" or one}
        for node_id, node in graph.items()
    }


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "history alone"])
async def test_job_of_which_every_node_was_cached_reuses_outputs(farm: Farm, frames: bool) -> None:
    sim = await farm.backend(seconds=0.05)
    await farm.runner(depth=1)
    first = await farm.submit(workflow=picture(), base_seed=1)
    await farm.finished(first)
    if not frames:
        sim.fault("deaf", at="accepted")
    again = await farm.submit(workflow=picture(), base_seed=1)
    await farm.finished(again)
    # Most of its nodes are cached.
    other = await farm.submit(workflow=picture(), base_seed=2)
    await farm.finished(other)
    reused = [(await farm.children(group))[0].outputs_reused for group in (first, again, other)]
    assert reused == [False, True, False]


async def test_record_has_the_workflow_as_sent_and_the_facts_of_the_execution(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.6, vram_gb=24, version="0.3.70")
    await farm.runner(depth=1)
    fields = {"workflow": picture(), "parameters": {"steps": 3}, "submitter": "ann"}
    first = await farm.submit(base_seed=7, **fields)
    await farm.finished(first)
    record = await record_of(farm, first)
    assert (record["seed"], record["submitter"], record["inputs"]) == (7, "ann", [])
    attempt = record["attempt"]
    assert record["workflow"] == await sent_to(sim, attempt["prompt_id"])
    assert record["workflow"]["3"]["inputs"]["steps"] == 3
    assert (attempt["number"], attempt["backend_id"], attempt["outcome"]) == (1, "gpu-1", "success")
    assert attempt["machine"] == {
        "comfyui_version": "0.3.70",
        "python_version": f"{platform.python_version()} (simulator)",
        "pytorch_version": "2.13.0+cu130",
        "os": os.name,
        "devices": [{"name": "cuda:0 Simulated 24 GB", "vram_total": 24 * 2**30}],
    }
    assert attempt["cached_nodes"] == []
    assert set(attempt["node_seconds"]) == set(record["workflow"])
    assert 0.5 < attempt["node_seconds"]["3"] < 5
    second = await farm.submit(base_seed=8, **fields)
    await farm.finished(second)
    attempt = (await record_of(farm, second))["attempt"]
    assert set(attempt["cached_nodes"]) == {"4", "5", "6", "7"}
    assert set(attempt["node_seconds"]) == {"3", "8", "9"}


async def test_record_of_a_resumed_job_has_no_seconds_of_a_node_that_began_before(
    farm: Farm,
) -> None:
    sim = await farm.backend()
    sim.fault("stuck")
    first = await farm.runner()
    group = await farm.running(workflow=picture())
    await farm.kill(first)
    await farm.runner()
    sim.clear_faults()
    await farm.finished(group)
    attempt = (await record_of(farm, group))["attempt"]
    assert set(attempt["node_seconds"]) <= {"8", "9"}
    assert (attempt["number"], attempt["machine"]["os"]) == (1, os.name)


@pytest.mark.parametrize("marks_outputs", [True, False])
async def test_png_has_the_ids_of_its_job_beside_the_prompt(
    farm: Farm, marks_outputs: bool
) -> None:
    sim = await farm.backend(seconds=0.05)
    await farm.runner(marks_outputs=marks_outputs)
    group = await farm.submit(workflow=picture())
    await farm.finished(group)
    (child,), (file,) = await farm.children(group), sim.output_folder.iterdir()
    with Image.open(file) as image:
        texts = dict(image.info)
    mark = json.loads(texts.pop("director", "null"))
    assert mark == ({"group": group.id, "job": child.id, "attempt": 1} if marks_outputs else None)
    # No empty workflow, which ComfyUI's editor would open in the place of the prompt.
    assert set(texts) == {"prompt"}


async def test_seconds_and_loads_of_jobs_are_measured_unless_every_node_was_cached(
    farm: Farm,
) -> None:
    await farm.start()

    async def render(seed: int, checkpoint: str) -> str:
        graph = text_to_image(checkpoint=checkpoint)
        group = await farm.completes(workflow=graph, seed_strategy="sequential", base_seed=seed)
        return group.workflow_digest

    one, other = "tiny_sd15.safetensors", "random_sd15.safetensors"
    digest = await render(1, one)
    row = await until_row(Timing.objects.filter(workflow_digest=digest))
    assert (row.backend_id, row.load_seconds, row.runs) == ("gpu-1", None, 0)
    # The same once more: cached. The round that would store it is over when the next job is stored.
    await in_thread(Timing.objects.all().delete)()
    await render(1, one)
    assert await render(2, one) == digest
    await until(in_thread(Timing.objects.filter(runs=1).exists))
    assert await render(3, other) != digest
    await render(4, one)
    row = await until_row(Timing.objects.filter(load_seconds__isnull=False))
    assert (row.workflow_digest, row.runs) == (digest, 1)
    unknown = await until_row(Timing.objects.exclude(workflow_digest=digest))
    assert (unknown.runs, unknown.models_digest == row.models_digest) == (0, False)


@pytest.mark.parametrize(
    ("version", "of_command_line", "ordered"),
    [("0.33.0", 0.0, "auto"), ("0.33.0", 5.0, None), ("0.3.64", 0.0, None)],
)
async def test_prompts_of_a_watched_group_order_previews(
    farm: Farm, version: str, of_command_line: float, ordered: str | None
) -> None:
    sim = await farm.backend(version=version, preview_fps=of_command_line)
    watched, other = await farm.submit("gpu-1"), await farm.submit("gpu-1")
    await farm.hub.subscribe(watched.id, previews=True)
    await farm.runner()
    for group, expected in ((watched, ordered), (other, None)):
        assert (await farm.finished(group)).status == "completed"
        (attempt,) = await farm.attempts(group)
        extra_data = sim.state.queue.history[attempt.prompt_id]["prompt"][3]
        assert extra_data.get("preview_method") == expected
