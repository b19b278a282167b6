"""Pictures of a workflow in the editor's format open in ComfyUI as it was drawn, with the values of
their jobs.
"""

import io
import json
from typing import Any

import httpx
import pytest
from django.test import Client
from PIL import Image

from backends.node_classes import node_class
from jobgroups.models import JobGroup
from jobgroups.workflow.editor import convert
from tests.harness.farm import Farm, in_thread
from tests.harness.graphs import EDITOR_FILE

EDITOR = json.loads(EDITOR_FILE.read_text(encoding="utf-8"))


async def chunks_of(outputs_json: str) -> dict[str, Any]:
    """Return the texts of the only picture of a job."""
    [file] = json.loads(outputs_json)["images"]
    async with httpx.AsyncClient() as client:
        content = (await client.get(file["url"])).content
    with Image.open(io.BytesIO(content)) as image:
        return {key: json.loads(text) for key, text in image.info.items() if isinstance(text, str)}


@pytest.mark.parametrize(("version", "marks"), [("0.3.64", False), ("0.33.0", True)])
async def test_picture_has_the_editors_workflow_with_the_values_of_its_job(
    farm: Farm, version: str, marks: bool
) -> None:
    sim = await farm.backend(version=version)
    await farm.runner(["gpu-1"], marks_outputs=marks)
    body = {
        "workflow_json": EDITOR,
        "backend_ids": ["gpu-1"],
        "parameters": {"5.width": 64, "5.height": 64},
        "sweep": {"axes": [{"input": "3.cfg", "values": [5, 6.5]}]},
    }
    post = in_thread(Client(headers={"host": "localhost"}).post)
    made = await post("/api/job-group", body, content_type="application/json")
    assert made.status_code == 201, made.content
    group = await in_thread(JobGroup.objects.get)(pk=made.json()["job_group_id"])
    farm.wake()
    assert (await farm.finished(group)).status == "completed"
    async with httpx.AsyncClient() as client:
        described = (await client.get(f"{sim.url}/object_info")).json()
        # A workflow that is null would be answered with 500.
        jobs = await client.get(f"{sim.url}/api/jobs")
    assert jobs.status_code == (200 if version == "0.33.0" else 404)
    classes = {name: node_class(one) for name, one in described.items()}
    seen = []
    for child in await farm.children(group):
        chunks = await chunks_of(child.outputs_json)
        assert ("director" in chunks) is marks
        drawn = chunks["workflow"]
        assert [node["id"] for node in drawn["nodes"]] == [node["id"] for node in EDITOR["nodes"]]
        again = convert(drawn, classes)[0]
        assert {key: one["inputs"] for key, one in again.items()} == {
            key: one["inputs"] for key, one in chunks["prompt"].items()
        }
        assert again["3"]["inputs"]["seed"] == child.seed
        seen.append((again["3"]["inputs"]["cfg"], again["5"]["inputs"]["width"]))
    assert sorted(seen) == [(5, 64), (6.5, 64)]


async def test_picture_of_the_api_format_has_no_workflow_of_the_editor(farm: Farm) -> None:
    await farm.start()
    [child] = await farm.children(await farm.completes())
    assert "workflow" not in await chunks_of(child.outputs_json)
