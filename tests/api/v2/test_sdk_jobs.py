"""Jobs of the Comfy API v2 with ComfyUI's own SDK, unchanged, against a whole Director with
simulated backends.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.graphs import node, png, sampler, text_to_image
from tests.harness.machines import simulated
from tests.harness.processes import Served

comfy_sdk = pytest.importorskip("comfy_sdk")
from comfy_low import models  # noqa: E402

TOKEN = "correct-horse-battery"
SIGNED = {"x-api-key": TOKEN}
EVENTS = {
    "status": models.StatusEvent,
    "progress": models.Progress,
    "preview": models.PreviewEvent,
    "output": models.Output,
}
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def director(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("v2")
    with simulated(folder, count=1, seconds=1.0, preview_fps=8.0) as gpus:
        served = Served(
            folder, gpus.urls, environment={"DIRECTOR_TOKEN": TOKEN, "DIRECTOR_DISCOVER": "0"}
        )
        try:
            yield served
        finally:
            served.close()


@pytest.fixture(params=["AsyncComfy", pytest.param("Comfy", marks=pytest.mark.slow)])
def comfy(request: pytest.FixtureRequest, director: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COMFY_BASE_URL", director.url)
    monkeypatch.setenv("COMFY_API_KEY", TOKEN)
    return getattr(comfy_sdk, request.param)()


async def settled(value: Any) -> Any:
    """Return a result of either client."""
    return await value if inspect.isawaitable(value) else value


async def all_of(values: Any) -> list[Any]:
    return [one async for one in values] if hasattr(values, "__aiter__") else list(values)


def fits(model: Any, value: dict[str, Any]) -> None:
    """Check a JSON object against the contract; labels are not in its published version."""
    model.model_validate(value)
    assert value.keys() - {"metadata"} <= model.model_fields.keys()


async def the_whole_way(comfy: Any, director: Served, gpu: str) -> None:
    low, name = comfy._low, type(comfy).__name__
    asset = comfy.assets.from_bytes(png(name=name), filename="photo.png")
    graph = text_to_image(seed=2**63, steps=12, prefix=name)
    graph |= {
        "10": node("LoadImage"),
        "11": node("SaveImage", images=["10", 0], filename_prefix=name),
    }
    workflow = comfy.workflows.from_json(graph)
    workflow.set_input("10", "image", asset)
    of_backend = f"/api/backends/{gpu}"
    # It waits until its events are received.
    director.ask("POST", f"{of_backend}/pause", json={}, headers=SIGNED)
    job = await settled(
        comfy.submit(workflow, metadata={"client": name, "shot": "1"}, idempotency_key=name)
    )
    with pytest.raises(comfy_sdk.IdempotencyKeyReuse):
        await settled(comfy.submit(workflow, idempotency_key=name))
    events = low.get_job_events(job.id)
    raw = [await anext(events) if hasattr(events, "__anext__") else next(events)]
    director.ask("POST", f"{of_backend}/resume", json={}, headers=SIGNED)
    raw += await all_of(events)
    for one in raw:
        fits(EVENTS[one.event], one.data)
    assert {one.event for one in raw} == EVENTS.keys()
    assert [raw[0].data, raw[-1].data] == [
        {"status": "queued", "queue_position": 0},
        {"status": "succeeded", "queue_position": None},
    ]
    steps = [one.data for one in raw if one.event == "progress" and one.data["current_node"] == "3"]
    assert ("KSampler", 12, 9) in {
        (one["current_node_class"], one["steps"], one["nodes_total"]) for one in steps
    }
    assert [one["value"] for one in steps] == sorted(one["value"] for one in steps)
    [preview] = [one.data for one in raw if one.event == "preview"][:1]
    assert (preview["node_id"], preview["content_type"]) == ("3", "image/jpeg")

    # The end comes first to a client that connects later.
    assert [type(one).__name__ for one in await all_of(job.events())] == [
        "Progress",
        "OutputReady",
        "OutputReady",
        "StatusChange",
    ]
    job = await settled(job.result())
    assert job.metadata == {"client": name, "shot": "1"}
    assert {one.node_id for one in job.outputs} == {"9", "11"}
    for one in job.outputs:
        content = await settled(one.to_bytes())
        assert (content[:4], len(content), one.job_id) == (b"\x89PNG", one.size_bytes, job.id)
    stored = await settled(job.get_workflow())
    reference = stored.graph["10"]["inputs"].pop("image")
    assert (stored.format, reference["__type"]) == ("api", "core/ASSET")
    assert stored.graph["3"] == graph["3"]
    again = comfy.workflows.from_json(
        {"1": node("LoadImage", image=reference), "2": node("SaveImage", images=["1", 0])}
    )
    again.set_input("2", "filename_prefix", name)
    assert (await settled((await settled(comfy.submit(again))).result())).get_outputs("2")

    answer = await settled(low.raw_request("GET", f"/api/v2/jobs/{job.id}"))
    fits(models.Job, answer.json())
    assert answer.json()["metrics"].keys() == {"queue_ms", "execution_ms"}
    fits(
        models.JobWorkflowResponse,
        (await settled(low.raw_request("GET", f"/api/v2/jobs/{job.id}/workflow"))).json(),
    )

    slow = comfy.workflows.from_json(sampler(steps=100, delay=0.2, prefix=name))
    running, waiting, next_one = [
        await settled(comfy.submit(slow, metadata={"client": name, "shot": str(number)}))
        for number in (2, 3, 4)
    ]
    places = [
        (await settled(comfy.jobs.get(one.id)))._model.queue_position for one in (waiting, next_one)
    ]
    assert places[0] in (0, None)
    assert places[1] in (0, 1)
    for one in (next_one, waiting, running):
        await settled(one.cancel())
        assert one.status in ("canceling", "canceled")
        await settled(one.wait(timeout=20))
        await settled(one.cancel())
        assert one.status == "canceled"
    found = await all_of(comfy.list_jobs(metadata={"client": name}, limit=3))
    assert [one.metadata["shot"] for one in found] == ["4", "3", "2", "1"]
    assert [one.status for one in found] == ["canceled"] * 3 + ["succeeded"]
    assert all(one.create_time <= one.update_time for one in found)
    assert [
        one.id for one in await all_of(comfy.list_jobs(metadata={"client": name, "shot": "1"}))
    ] == [job.id]
    assert len(await all_of(comfy.list_jobs())) >= 5

    broken = node("TestFail", image=["1", 0], kind="value", after=0.0)
    failing = sampler(prefix=name) | {"7": broken, "8": node("PreviewImage", images=["7", 0])}
    with pytest.raises(comfy_sdk.JobFailed) as failed:
        await settled((await settled(comfy.submit(comfy.workflows.from_json(failing)))).result())
    error = failed.value.error
    assert (error.code, error.node_id, error.class_type) == (
        "node_execution_error",
        "7",
        "TestFail",
    )
    assert error.message == "bad value on purpose"
    assert "Traceback" in error.traceback or "File" in error.traceback
    with pytest.raises(comfy_sdk.InvalidWorkflow) as invalid:
        await settled(
            comfy.submit(comfy.workflows.from_json(sampler() | {"9": node("NoSuchNode")}))
        )
    [reason] = invalid.value.details["node_errors"]["9"]
    assert (reason["reason"], reason["class_type"]) == ("node_missing", "NoSuchNode")
    unknown = {"__type": "core/ASSET", "info": {"id": "9f8a1c0d-2b3e-4f56-8a7b-1c2d3e4f5a6b"}}
    with pytest.raises(comfy_sdk.MissingAsset):
        await settled(
            comfy.submit(comfy.workflows.from_json({"1": node("LoadImage", image=unknown)}))
        )
    with pytest.raises(comfy_sdk.NotFound):
        await settled(comfy.jobs.get("jg_000000000000"))
    answer = director.ask("GET", "/api/v2/jobs/jg_000000000000/events", headers=SIGNED)
    fits(models.ErrorEnvelope, answer.json())
    await settled(comfy.aclose() if hasattr(comfy, "aclose") else comfy.close())


def test_sdk_runs_jobs_the_whole_way(comfy: Any, director: Served) -> None:
    [backend] = director.ask("GET", "/api/backends", headers=SIGNED).json()["backends"]
    asyncio.run(the_whole_way(comfy, director, backend["backend_id"]))
