"""Faults that no other test would miss: the runner's tests pass, too, where a fault has no effect."""

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from backends.simulator import Simulator
from tests.harness.graphs import Graph, plain_image, sampler, text_to_image
from tests.simulator.artist import PATIENCE, Artist, artist, soon, steps, the, types

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)
NOTHING = {"queue_running": [], "queue_pending": []}


# --- a prompt's run


@pytest.mark.parametrize(
    ("name", "options", "graph", "error"),
    [
        (
            "node_error",
            {"type": "torch.OutOfMemoryError", "message": "no", "step": 2},
            text_to_image(),
            {"node_id": "3", "node_type": "KSampler", "exception_type": "torch.OutOfMemoryError"},
        ),
        (
            "node_error",
            {"node": "VAEDecode", "type": "ValueError", "message": "bad"},
            text_to_image(),
            {"node_id": "8", "exception_message": "bad\n"},
        ),
        ("node_error", {}, plain_image(), {}),
        ("out_of_memory", {}, text_to_image(), {"node_id": "3", "exception_type": "torch.OutOfMemoryError"}),
    ],
)
async def test_failing_node_is_the_chosen_one_and_fails_once(
    name: str, options: Any, graph: Graph, error: dict[str, Any], sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    prompt_id, frames = await me.run(graph)
    told = the("execution_error", frames)
    assert error.items() <= told.items()
    assert ("TIPS" in told["exception_message"]) == ("OutOfMemory" in told["exception_type"])
    if "step" in options:
        assert steps(frames) == [1, 2]
    assert (await me.history(prompt_id))["status"]["status_str"] == "error"
    assert "execution_success" in types((await me.run(graph))[1])


async def test_small_card_fails_at_large_images_only(sim: Simulator, me: Artist) -> None:
    sim.fault("out_of_memory", pixels=64 * 64, count=0)
    for side, end in ((64, "execution_success"), (72, "execution_error")):
        assert end in types((await me.run(text_to_image(side=side)))[1])


async def test_broken_gpu_fails_each_prompt_until_a_restart(sim: Simulator) -> None:
    sim.fault("cuda_fatal")
    async with artist(sim) as me:
        for seed in (1, 2):
            _, frames = await me.run(text_to_image(seed=seed))
            assert "illegal memory" in the("execution_error", frames)["exception_message"]
    await sim.restart()
    async with artist(sim) as me:
        assert "execution_success" in types((await me.run(text_to_image(seed=3)))[1])


async def test_stuck_prompt_ignores_an_interrupt_until_the_order_is_withdrawn(sim: Simulator, me: Artist) -> None:
    sim.fault("stuck", step=3, interruptible=False)
    prompt_id = await me.queue(sampler())
    await me.until(lambda f: f["type"] == "progress" and f["data"]["value"] == 2)
    await me.interrupt(prompt_id)
    assert await me.receives_nothing()
    sim.clear_faults("stuck")
    assert "execution_interrupted" in types(await me.until_end(prompt_id))


@pytest.mark.parametrize(
    ("name", "options", "end"),
    [
        ("interrupt_lost", {}, "execution_success"),
        ("slow_start", {"seconds": 0.3}, "execution_success"),
        ("uninterruptible", {}, "execution_interrupted"),
    ],
)
async def test_interrupt_comes_too_early_too_late_or_never(
    name: str, options: dict[str, Any], end: str, sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    prompt_id = await me.queue(sampler(steps=10, delay=0.03))
    if name == "slow_start":
        await soon(lambda: sim.state.queue.is_running(prompt_id))
    else:
        await me.until_type("progress")
    await me.interrupt(prompt_id)
    frames = await me.until_end(prompt_id)
    assert end in types(frames)
    assert steps(frames)[-1] == 10
    if name == "uninterruptible":
        assert the(end, frames)["node_id"] == "2"


# --- the end of a prompt


async def test_late_history_is_empty_between_success_and_the_end(sim: Simulator, me: Artist) -> None:
    sim.fault("late_history", seconds=0.3)
    prompt_id = await me.queue(sampler())
    await me.until_type("execution_success")
    assert await me.history(prompt_id) is None
    await me.until_end(prompt_id)
    assert await me.history(prompt_id) is not None


async def test_history_entry_comes_after_all_frames_or_never(sim: Simulator, me: Artist) -> None:
    sim.fault("late_history_entry", seconds=0.3)
    prompt_id, _ = await me.run(sampler(1))
    assert await me.history(prompt_id) is None
    await soon(lambda: prompt_id in sim.state.queue.history)
    sim.fault("no_history")
    prompt_id, frames = await me.run(sampler(2))
    assert "execution_success" in types(frames)
    assert await me.history(prompt_id) is None
    assert sim.state.queue.history


# --- POST /prompt and other routes


@pytest.mark.parametrize(
    ("name", "options", "answer", "before"),
    [
        ("lose_answer", {}, None, "accepted"),
        ("late_post", {"seconds": 0.3}, None, None),
        ("prompt_500", {}, 500, "accepted"),
        ("delay_answer", {"seconds": 0.3}, 200, "ended"),
    ],
)
async def test_prompt_is_executed_although_its_answer_is_late_or_wrong(
    name: str, options: Any, answer: int | None, before: str | None, sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    status = None
    with contextlib.suppress(*BROKEN):
        status, _ = await me.post(sampler(), prompt_id="mine")
    assert status == answer
    assert sim.audit_log.find(before) if before else sim.prompts == []
    await sim.wait_for("ended", prompt_id="mine", outcome="success")


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("html", 200, "text/html"),
        ("nonsense", 200, "application/json"),
        ("wrong_json", 200, "application/json"),
        ("redirect", 302, "application/octet-stream"),
        ("status", 503, "text/plain"),
    ],
)
async def test_wrong_answer_of_one_route(name: str, status: int, kind: str, sim: Simulator, me: Artist) -> None:
    options = {"status": 503} if name == "status" else {}
    sim.fault(name, route="/queue", **options)
    await me.get("/system_stats")
    async with me.session.get("/api/queue", allow_redirects=False) as answer:
        assert (answer.status, answer.content_type) == (status, kind)
    assert await me.get("/queue") == NOTHING


async def test_connection_breaks_before_and_within_an_answer(sim: Simulator, me: Artist) -> None:
    sim.fault("reset_http", route="/queue", count=2)  # the client tries a GET twice
    sim.fault("cut", route="/object_info")
    for path in ("/queue", "/object_info"):
        with pytest.raises(BROKEN):
            await me.get(path)


async def test_hanging_route_never_answers_and_a_slow_one_late(sim: Simulator, me: Artist) -> None:
    sim.fault("hang_http", route="/history")
    sim.fault("slow_http", route="/queue", seconds=0.3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await me.get("/history")
    start = asyncio.get_running_loop().time()
    assert await me.get("/queue") == NOTHING
    assert asyncio.get_running_loop().time() - start >= 0.3


async def test_endless_body_has_no_end(sim: Simulator, me: Artist) -> None:
    sim.fault("endless", route="/system_stats", megabytes_per_second=100)
    async with me.session.get("/system_stats") as answer:
        await answer.content.readexactly(2_000_000)


# --- sockets


async def test_dropped_sockets_end_without_a_close_frame(sim: Simulator, me: Artist) -> None:
    sim.fault("drop_sockets", at="step", step=2)
    prompt_id = await me.queue(sampler())
    assert (await me.until(lambda frame: frame["type"] == "closed"))[-1]["closed"] == 1006
    await sim.wait_for("ended", prompt_id=prompt_id, outcome="success")


@pytest.mark.parametrize("name", ["stall_sockets", "deaf"])
async def test_silent_socket_stays_open(name: str, sim: Simulator, me: Artist) -> None:
    async with artist(sim, "other") as other:
        sim.fault(name, client_id="artist")
        prompt_id = await me.queue(sampler())
        await sim.wait_for("ended", prompt_id=prompt_id)
        assert await me.receives_nothing()
        assert not me.socket.closed
        await other.until_type("status")


# --- orders over HTTP


async def order(me: Artist, body: Any) -> tuple[int, Any]:
    async with me.session.post("/simulator/faults", json=body) as answer:
        return answer.status, await answer.json()


async def test_faults_are_ordered_listed_and_withdrawn_over_http(sim: Simulator, me: Artist) -> None:
    status, answer = await order(me, [{"name": "hang_http", "count": 0}, {"name": "prompt_500"}])
    assert status == 200
    assert [entry["name"] for entry in answer["orders"]] == ["hang_http", "prompt_500"]
    await me.get("/simulator/state")
    assert isinstance(await me.get("/simulator/audit-log"), list)
    async with me.session.delete("/simulator/faults?name=hang_http") as gone:
        assert gone.status == 204
    listed = await me.get("/simulator/faults")
    assert [entry["name"] for entry in listed["orders"]] == ["prompt_500"]
    assert listed["catalogue"]["restart"]["options"]["down"] == 1.0
    assert (await me.post(sampler()))[0] == 500
    assert (await order(me, {"name": "foreign_prompt", "seconds": 20}))[0] == 200
    await sim.wait_for("started", client_id="foreign-client", timeout=PATIENCE)


@pytest.mark.parametrize("body", [{"name": "no"}, {}, [1], "x", {"name": "slow", "seconds": "x"}])
async def test_wrong_orders_over_http_are_refused(body: Any, me: Artist) -> None:
    status, answer = await order(me, body)
    assert status == 400
    assert answer["error"]
