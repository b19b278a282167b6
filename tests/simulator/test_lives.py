"""Death and return: what a simulator forgets, keeps and tells."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from backends.simulator import Simulator, read_audit_log
from tests.simulator.artist import Artist, artist, soon
from tests.simulator.graphs import plain_image, sampler


async def test_restart_keeps_saved_images_only(sim: Simulator, me: Artist) -> None:
    saved, _ = await me.run(sampler(1))
    _, frames = await me.run(plain_image())
    preview = next(f["data"]["output"]["images"][0] for f in frames if f["type"] == "executed")
    running = await me.queue(sampler(2, steps=1000, delay=1.0))
    pending = await me.queue(sampler(3))
    await sim.wait_for("started", prompt_id=running)
    url = sim.url

    await sim.restart(down_s=0.05)

    assert sim.url == url
    assert (await me.until_type("closed"))[-1]["closed"] == 1006
    async with artist(sim) as again:
        assert await again.get("/history") == {}
        assert await again.get("/queue") == {"queue_running": [], "queue_pending": []}
        async with again.session.get("/view", params=preview) as answer:
            assert answer.status == 404
        async with again.session.get("/view?filename=test_00001_.png") as answer:
            assert answer.status == 200
        status, body = await again.post(sampler(1))
        assert (status, body["number"]) == (200, 0)
        _, frames = await again.run(sampler(1))
    lost = [e["prompt_id"] for e in sim.audit_log.entries if e["kind"] == "lost"]
    assert lost == [running, pending]
    assert saved not in lost


async def test_server_is_gone_while_it_is_down(sim: Simulator, me: Artist) -> None:
    sim.fault("restart", down=0.3)
    assert not sim.is_up
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{sim.url}/queue")
    assert (await me.frame())["closed"] == 1006
    await soon(lambda: sim.is_up)
    async with artist(sim) as again:
        await again.run(sampler())


@pytest.mark.parametrize("moment", ["accepted", "started", "step", "finishing", "ended"])
async def test_restart_at_each_moment_of_a_prompt(moment: str, sim: Simulator, me: Artist) -> None:
    sim.fault("restart", at=moment, down=0.05)
    try:
        await me.post(sampler(), prompt_id="mine")
    except aiohttp.ClientError:
        assert moment == "accepted"
    await sim.wait_for("restarted")
    await soon(lambda: sim.is_up)
    kinds = [e["kind"] for e in sim.audit_log.entries if e.get("prompt_id") == "mine"]
    ended = ["ended"] if moment in {"finishing", "ended"} else []
    lost = ["lost"] if moment != "ended" else []
    started = ["started"] if moment != "accepted" else []
    assert [k for k in kinds if k != "fault"] == ["accepted", *started, *ended, *lost]


async def test_crashed_server_stays_down_until_it_is_restarted(sim: Simulator) -> None:
    sim.crash()
    await asyncio.sleep(0)
    assert not sim.is_up
    await sim.restart()
    async with artist(sim) as me:
        await me.run(sampler())


async def test_client_id_that_is_no_text_ends_the_process(sim: Simulator, me: Artist) -> None:
    await me.post(sampler(), client_id=["x"])
    await soon(lambda: not sim.is_up)
    assert sim.audit_log.find("crashed") is not None


async def test_refused_connections_leave_open_ones_alone(sim: Simulator, me: Artist) -> None:
    await me.get("/queue")  # a connection that stands
    sim.fault("refuse_connections", seconds=0.4)
    await soon(lambda: bool(sim.audit_log.find("fault", name="refuse_connections")))
    await asyncio.sleep(0)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{sim.url}/queue")
    prompt_id = await me.queue(sampler())
    await me.until_end(prompt_id)

    async def answers() -> None:
        while True:
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{sim.url}/queue"):
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)

    await asyncio.wait_for(answers(), 5)


async def test_faults_ordered_at_the_start_wait_for_their_chance() -> None:
    faults = ["node_error:message=on order,step=1", "foreign_prompt:seconds=0"]
    async with Simulator(faults=faults) as sim:
        await sim.wait_for("ended", client_id="somebody-else", outcome="error")
        told = sim.audit_log.find("ended")
    assert told is not None
    assert told["message"] == "on order"


async def test_audit_log_has_the_lost_prompts_of_a_close(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with Simulator(name="gpu-1", audit_log=path) as sim, artist(sim) as me:
        await me.queue(sampler(steps=1000, delay=1.0), prompt_id="mine")
        await sim.wait_for("started")
    kinds = [entry["kind"] for entry in read_audit_log(path)]
    assert kinds == ["accepted", "started", "lost", "stopped"]


async def test_output_folder_is_kept_if_it_was_given(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        await me.run(sampler())
    assert (tmp_path / "output" / "test_00001_.png").exists()


async def test_temporary_folder_is_removed() -> None:
    async with Simulator() as sim, artist(sim) as me:
        await me.run(sampler())
        folder = sim.output_folder
    assert not folder.exists()


async def test_server_that_is_down_can_be_closed() -> None:
    async with asyncio.timeout(5):
        async with Simulator() as sim:
            sim.fault("restart", down=60)
        assert not sim.is_up


async def test_restarted_server_waits_for_its_port(sim: Simulator) -> None:
    sim.crash()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", sim.port))
        taken.listen()
        async with asyncio.TaskGroup() as group:
            back = group.create_task(sim.restart())
            await asyncio.sleep(0.2)
            assert not back.done()
            taken.close()
    async with artist(sim) as me:
        await me.run(sampler())
