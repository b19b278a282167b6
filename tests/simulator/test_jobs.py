"""Jobs of newer ComfyUI versions, and graphs that fail in odd ways."""

from typing import Any

import pytest

from backends.simulator import Simulator
from backends.simulator.catalog import call_of
from tests.harness.cases import cases
from tests.harness.graphs import Graph, partner, plain_image, sampler, text_to_image
from tests.simulator.artist import Artist, artist, the, types

UNKNOWN = "852594f4-55c9-47cc-b29d-a7bfcdf752da"


async def cancel(me: Artist, prompt_id: str) -> bool:
    async with me.session.post(f"/api/jobs/{prompt_id}/cancel") as answer:
        assert answer.status == 200
        return bool((await answer.json())["cancelled"])


async def status(me: Artist, prompt_id: str) -> str:
    return str((await me.get(f"/api/jobs/{prompt_id}"))["status"])


@pytest.mark.parametrize(
    ("version", "job", "cancelled"), cases(__file__, "routes_exist_since_the_version_that_has_them")
)
async def test_routes_exist_since_the_version_that_has_them(version: str, job: list[Any], cancelled: list[Any]) -> None:
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
        assert [entry["hit"] for entry in sim.audit_log.entries if entry["kind"] == "interrupted"] == [True, True]


async def test_cancel_before_the_execution_begins_is_answered_true_and_forgotten() -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        sim.fault("slow_start", seconds=2.0)
        prompt_id = await me.queue(sampler())
        for _ in ("queued", "taken"):
            await me.until_type("status")
        assert await status(me, prompt_id) == "in_progress"
        assert await cancel(me, prompt_id) is True
        assert "execution_success" in types(await me.until_end(prompt_id))
        assert await status(me, prompt_id) == "completed"


async def test_interrupted_jobs_are_failures_before_there_were_cancelled_ones() -> None:
    async with Simulator(version="0.8.0", seconds=5.0) as sim, artist(sim) as me:
        prompt_id = await me.queue(text_to_image())
        await me.until_type("executing")
        await me.interrupt(prompt_id)
        await me.until_end(prompt_id)
        job = await me.get(f"/api/jobs/{prompt_id}")
        assert job["status"] == "failed"
        assert "previewable_outputs_count" not in job


@pytest.mark.parametrize(("version", "is_shown"), [("0.3.67", True), ("0.3.68", False)])
async def test_keys_of_partner_nodes_are_not_shown_in_newer_queues(version: str, is_shown: bool) -> None:
    async with Simulator(version=version, seconds=5.0) as sim, artist(sim) as me:
        await me.queue(text_to_image(), extra_data={"api_key_comfy_org": "secret"})
        assert ("secret" in str(await me.get("/queue"))) is is_shown


@pytest.mark.parametrize(("key", "outcome"), [("", "error"), ("secret", "success")])
async def test_partner_node_needs_a_key(key: str, outcome: str) -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        assert (await me.get("/object_info/TestPartner"))["TestPartner"]["api_node"] is True
        await me.run(partner(), extra_data={"api_key_comfy_org": key} if key else {})
        history = await me.get("/history")
    ended = sim.audit_log.find("ended")
    assert ended is not None
    assert ended["outcome"] == outcome
    assert ended.get("message", "") == ("" if key else "Unauthorized: Please login first to use this node.")
    assert "secret" not in str([entry["prompt"] for entry in history.values()])


async def failure(me: Artist, graph: Graph) -> tuple[Any, Any]:
    prompt_id, frames = await me.run(graph)
    entry = await me.history(prompt_id)
    told = the("execution_error", frames)
    assert entry["status"]["messages"][-1] == ["execution_error", told]
    return told, entry


async def test_cycle_is_an_error_on_the_socket_and_a_success_in_the_history(me: Artist) -> None:
    """As in a real one: it notes no failure of a node, for none ran."""
    graph = plain_image() | {
        "3": plain_image(7)["1"],
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    graph["1"]["inputs"]["extra"] = ["1", 0]
    told, entry = await failure(me, graph)
    assert told["exception_type"] == "graph.DependencyCycleError"
    assert told["exception_message"] == "Dependency cycle detected"
    assert told["executed"] == ["3", "4"]
    assert list(entry["outputs"]) == ["4"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert "execution_success" not in [name for name, _ in entry["status"]["messages"]]


@pytest.mark.parametrize(
    ("class_type", "inputs", "kind", "message"), cases(__file__, "node_fails_at_an_input_that_it_cannot_use")
)
async def test_node_fails_at_an_input_that_it_cannot_use(
    class_type: str, inputs: dict[str, Any], kind: str, message: str, me: Artist
) -> None:
    graph = plain_image()
    graph["2"]["class_type"] = class_type
    graph["2"]["inputs"] |= inputs
    told, entry = await failure(me, graph)
    assert (told["node_id"], told["exception_type"]) == ("2", kind)
    assert told["exception_message"] == f"{message}\n"
    assert entry["status"]["status_str"] == "error"


@pytest.mark.parametrize(
    ("inputs", "message"), cases(__file__, "file_name_that_cannot_be_checked_is_reported_by_the_node_that_needs_it")
)
async def test_file_name_that_cannot_be_checked_is_reported_by_the_node_that_needs_it(
    inputs: dict[str, Any], message: str, me: Artist
) -> None:
    graph = plain_image() | {"1": {"class_type": "LoadImage", "inputs": inputs}}
    status, answer = await me.post(graph | {"3": plain_image()["1"]})
    assert status == 400
    (problem,) = answer["node_errors"]["1"]["errors"]
    assert problem["type"] == "exception_during_inner_validation"
    assert problem["details"] == message
    assert problem["extra_info"]["linked_node"] == ["1", 0]
    assert list(answer["node_errors"]) == ["1"]


async def test_every_class_on_the_list_can_be_called(me: Artist) -> None:
    assert all("." in call_of(name)[0] for name in await me.get("/object_info"))
    assert "denoise" in call_of("KSamplerAdvanced")
    assert "**" in call_of("WebcamCapture")
