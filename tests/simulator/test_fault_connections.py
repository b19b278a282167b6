"""Faults of routes, sockets, the server and other clients; and how faults are ordered."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from backends.simulator import Simulator
from tests.simulator.artist import PATIENCE, Artist, artist, soon, types
from tests.simulator.graphs import sampler

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)


# any route


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
async def test_wrong_answers_of_a_route(name: str, status: int, kind: str, sim: Simulator, me: Artist) -> None:
    options = {"status": 503} if name == "status" else {}
    sim.fault(name, route="/queue", **options)
    async with me.session.get("/queue", allow_redirects=False) as answer:
        assert (answer.status, answer.content_type) == (status, kind)
    assert await me.get("/queue") == {"queue_running": [], "queue_pending": []}


async def test_other_routes_and_api_prefix(sim: Simulator, me: Artist) -> None:
    sim.fault("html", route="/system_stats")
    await me.get("/queue")
    async with me.session.get("/api/system_stats") as answer:
        assert answer.content_type == "text/html"


async def test_reset_and_cut_break_the_connection(sim: Simulator, me: Artist) -> None:
    sim.fault("reset_http", route="/queue", count=2)  # the client tries a GET twice
    with pytest.raises(BROKEN):
        await me.get("/queue")
    sim.fault("cut", route="/object_info")
    with pytest.raises(BROKEN):
        await me.get("/object_info")


async def test_hanging_route_never_answers_and_others_do(sim: Simulator, me: Artist) -> None:
    sim.fault("hang_http", route="/history")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await me.get("/history")
    await me.get("/queue")


async def test_slow_route_answers_late(sim: Simulator, me: Artist) -> None:
    sim.fault("slow_http", route="/queue", seconds=0.3)
    start = asyncio.get_running_loop().time()
    await me.get("/queue")
    assert asyncio.get_running_loop().time() - start >= 0.3


async def test_endless_body_has_no_end(sim: Simulator, me: Artist) -> None:
    sim.fault("endless", route="/system_stats", megabytes_per_second=100)
    async with me.session.get("/system_stats") as answer:
        size = 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > 2_000_000:
                break
    assert size > 2_000_000


# sockets


async def test_dropped_sockets_end_without_a_close_frame(sim: Simulator, me: Artist) -> None:
    sim.fault("drop_sockets", at="step", step=2)
    prompt_id = await me.queue(sampler())
    frames = []
    while not frames or frames[-1]["type"] != "closed":
        frames.append(await me.frame())
    assert frames[-1]["closed"] == 1006
    await sim.wait_for("ended", prompt_id=prompt_id, outcome="success")


async def test_stalled_socket_stays_open_and_answers_no_ping(sim: Simulator, me: Artist) -> None:
    async with artist(sim, "other") as other:
        sim.fault("stall_sockets", client_id="artist")
        prompt_id = await me.queue(sampler())
        await sim.wait_for("ended", prompt_id=prompt_id)
        await me.socket.ping(b"still there?")
        assert await me.receives_nothing()
        assert not me.socket.closed
        await other.until_type("status")


async def test_silent_socket_is_open_and_answers_pings(sim: Simulator, me: Artist) -> None:
    sim.fault("deaf")
    prompt_id = await me.queue(sampler())
    await sim.wait_for("ended", prompt_id=prompt_id)
    assert await me.receives_nothing()
    assert not me.socket.closed


async def test_second_socket_makes_the_first_silent_and_its_close_the_second(sim: Simulator) -> None:
    async with artist(sim) as first, artist(sim) as second:
        await second.run(sampler(1))
        assert await first.receives_nothing()
        await first.socket.close()
        prompt_id = await second.queue(sampler(2))
        await sim.wait_for("ended", prompt_id=prompt_id)
        assert await second.receives_nothing()
        assert not second.socket.closed


async def test_slow_frames_delay_all_clients(sim: Simulator, me: Artist) -> None:
    sim.fault("slow_frames", seconds=0.2, count=2)
    start = asyncio.get_running_loop().time()
    await me.run(sampler())
    assert asyncio.get_running_loop().time() - start >= 0.4


async def test_socket_that_does_not_read_stalls_all_clients(sim: Simulator) -> None:
    async with artist(sim, "slow") as slow, artist(sim) as me:
        slow.socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
        for _ in range(200):  # more than socket buffers hold
            sim.emit_raw(b"\0" * 100_000, "slow")
        prompt_id = await me.queue(sampler())
        await sim.wait_for("ended", prompt_id=prompt_id)
        assert await me.receives_nothing()
        assert await me.history(prompt_id) is not None
        slow.socket._response.connection.transport.abort()  # type: ignore[union-attr]
        assert "execution_success" in types(await me.until_end(prompt_id))


# the server and other clients


async def test_dead_worker_behind_healthy_http(sim: Simulator, me: Artist) -> None:
    sim.fault("worker_dead", at="step", step=2)
    running = await me.queue(sampler(1))
    waiting = await me.queue(sampler(2))
    await soon(lambda: not sim.state.worker_alive)
    await me.interrupt(running)
    queue = await me.get("/queue")
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert [item[1] for item in queue["queue_pending"]] == [waiting]
    await me.get("/system_stats")


async def test_other_client_queues_prompts_and_deletes_ours(sim: Simulator, me: Artist) -> None:
    sim.fault("foreign_prompt", prompts=2, seconds=20)
    mine = await me.queue(sampler())
    queue = await me.get("/queue")
    assert {item[3]["client_id"] for item in queue["queue_running"]} == {"somebody-else"}
    sim.fault("delete_pending", prompt_id=mine)
    assert len((await me.get("/queue"))["queue_pending"]) == 1
    sim.fault("delete_pending")
    assert (await me.get("/queue"))["queue_pending"] == []
    deleted = [e["prompt_id"] for e in sim.audit_log.entries if e["kind"] == "deleted"]
    assert deleted[0] == mine
    assert len(deleted) == 2


async def test_other_client_interrupts_ours(sim: Simulator, me: Artist) -> None:
    sim.fault("interrupt", at="step", step=2)
    _, frames = await me.run(sampler())
    assert "execution_interrupted" in types(frames)


# ordering over HTTP


async def order(me: Artist, body: Any) -> tuple[int, Any]:
    async with me.session.post("/simulator/faults", json=body) as answer:
        return answer.status, await answer.json()


async def test_faults_are_ordered_listed_and_withdrawn_over_http(me: Artist) -> None:
    status, answer = await order(me, [{"name": "slow", "seconds": 1}, {"name": "prompt_500"}])
    assert status == 200
    assert [entry["name"] for entry in answer["orders"]] == ["slow", "prompt_500"]
    async with me.session.delete("/simulator/faults?name=slow") as gone:
        assert gone.status == 204
    listed = await me.get("/simulator/faults")
    assert [entry["name"] for entry in listed["orders"]] == ["prompt_500"]
    assert listed["catalogue"]["restart"]["options"]["down"] == 1.0
    assert (await me.post(sampler()))[0] == 500


async def test_action_ordered_over_http_happens(sim: Simulator, me: Artist) -> None:
    assert (await order(me, {"name": "foreign_prompt", "seconds": 20}))[0] == 200
    await sim.wait_for("started", client_id="somebody-else", timeout=PATIENCE)


@pytest.mark.parametrize("body", [{"name": "no"}, {}, [1], "x", {"name": "slow", "seconds": "x"}])
async def test_wrong_orders_over_http_are_refused(body: Any, me: Artist) -> None:
    status, answer = await order(me, body)
    assert status == 400
    assert answer["error"]


async def test_no_fault_reaches_the_control_routes(sim: Simulator, me: Artist) -> None:
    sim.fault("hang_http", count=0)
    await me.get("/simulator/faults")
    await me.get("/simulator/state")
    entries = await me.get("/simulator/audit-log")
    assert isinstance(entries, list)


async def test_frames_of_our_own_go_to_one_or_all(sim: Simulator, me: Artist) -> None:
    async with artist(sim, "other") as other:
        sim.emit("crystools.monitor", {"cpu": 3})
        assert await me.frame() == await other.frame()
        sim.emit_raw("not json {", "other")
        assert (await other.socket.receive(timeout=PATIENCE)).data == "not json {"
        assert await me.receives_nothing()
