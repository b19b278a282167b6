"""Jobs of newer ComfyUI versions, and graphs that fail in odd ways."""

from typing import Any

import pytest

from backends.simulator import Simulator
from tests.harness.graphs import Graph, plain_image, sampler, text_to_image
from tests.simulator.artist import Artist, artist, the, types

UNKNOWN = "852594f4-55c9-47cc-b29d-a7bfcdf752da"


async def cancel(me: Artist, prompt_id: str) -> bool:
    async with me.session.post(f"/api/jobs/{prompt_id}/cancel") as answer:
        assert answer.status == 200
        return bool((await answer.json())["cancelled"])


async def status(me: Artist, prompt_id: str) -> str:
    return str((await me.get(f"/api/jobs/{prompt_id}"))["status"])


@pytest.mark.parametrize(
    ("version", "job", "cancelled"),
    [
        ("0.3.64", [404, "application/octet-stream"], [405, "text/plain"]),
        ("0.6.0", [404, "application/json"], [405, "text/plain"]),
        ("0.26.0", [404, "application/json"], [200, "application/json"]),
    ],
)
async def test_routes_exist_since_the_version_that_has_them(
    version: str, job: list[Any], cancelled: list[Any]
) -> None:
    async with Simulator(version=version) as sim, artist(sim) as me:
        async with me.session.get(f"/api/jobs/{UNKNOWN}") as answer:
            assert [answer.status, answer.content_type] == job
        async with me.session.post(f"/api/jobs/{UNKNOWN}/cancel") as answer:
            assert [answer.status, answer.content_type] == cancelled


async def test_cancel_signals_again_until_the_prompt_ends() -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        sim.fault("stuck", interruptible=False)
        prompt_id = await me.queue(text_to_image())
        await me.until(lambda frame: frame["type"] == "executing" and frame["data"]["node"] == "3")
        assert [await cancel(me, prompt_id), await cancel(me, prompt_id)] == [True, True]
        sim.clear_faults()
        assert "execution_interrupted" in types(await me.until_end(prompt_id))
        assert await cancel(me, prompt_id) is False
        assert await status(me, prompt_id) == "cancelled"
        assert [
            entry["hit"] for entry in sim.audit_log.entries if entry["kind"] == "interrupted"
        ] == [True, True]


async def test_cancel_before_the_execution_begins_is_answered_true_and_forgotten() -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        sim.fault("slow_start", seconds=60)
        prompt_id = await me.queue(sampler())
        for _ in ("queued", "taken"):
            await me.until_type("status")
        assert await status(me, prompt_id) == "in_progress"
        assert await cancel(me, prompt_id) is True
        sim.clear_faults()
        assert "execution_success" in types(await me.until_end(prompt_id))
        assert await status(me, prompt_id) == "completed"


@pytest.mark.parametrize(("version", "is_shown"), [("0.3.67", True), ("0.3.68", False)])
async def test_keys_of_partner_nodes_are_not_shown_in_newer_queues(
    version: str, is_shown: bool
) -> None:
    async with Simulator(version=version, seconds=600.0) as sim, artist(sim) as me:
        await me.queue(text_to_image(), extra_data={"api_key_comfy_org": "secret"})
        assert ("secret" in str(await me.get("/queue"))) is is_shown


async def failure(me: Artist, graph: Graph) -> tuple[Any, Any]:
    prompt_id, frames = await me.run(graph)
    entry = await me.history(prompt_id)
    event = the("execution_error", frames)
    assert entry["status"]["messages"][-1] == ["execution_error", event]
    return event, entry


async def test_cycle_is_an_error_on_the_socket_and_a_success_in_the_history(me: Artist) -> None:
    """As in a real one: it notes no failure of a node, for none ran."""
    graph = plain_image() | {
        "3": plain_image(7)["1"],
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    graph["1"]["inputs"]["extra"] = ["1", 0]
    event, entry = await failure(me, graph)
    assert event["exception_type"] == "graph.DependencyCycleError"
    assert event["exception_message"] == "Dependency cycle detected"
    assert event["executed"] == ["3", "4"]
    assert list(entry["outputs"]) == ["4"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert "execution_success" not in [name for name, _ in entry["status"]["messages"]]
