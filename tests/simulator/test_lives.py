import asyncio
from pathlib import Path

import aiohttp
import pytest

from backends.simulator import Simulator, read_audit_log
from tests.harness.graphs import plain_image, sampler
from tests.simulator.artist import Artist, artist, soon, the


async def test_restart_keeps_saved_images_only(sim: Simulator, me: Artist) -> None:
    saved, _ = await me.run(sampler(1))
    preview = the("executed", (await me.run(plain_image()))[1])["output"]["images"][0]
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
    lost = [e["prompt_id"] for e in sim.audit_log.entries if e["kind"] == "lost"]
    assert lost == [running, pending]
    assert saved not in lost


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


async def test_client_id_that_is_no_text_ends_the_process(sim: Simulator, me: Artist) -> None:
    await me.post(sampler(), client_id=["x"])
    await soon(lambda: not sim.is_up)
    assert sim.audit_log.find("crashed") is not None


async def test_faults_ordered_at_the_start_wait_for_their_chance() -> None:
    faults = ["node_error:message=on order,step=1", "foreign_prompt:seconds=0"]
    async with Simulator(faults=faults) as sim:
        told = await sim.wait_for("ended", client_id="foreign-client", outcome="error")
    assert told["message"] == "on order"


async def test_audit_log_has_the_lost_prompts_of_a_close(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with Simulator(name="gpu-1", audit_log=path) as sim, artist(sim) as me:
        await me.queue(sampler(steps=1000, delay=1.0), prompt_id="mine")
        await sim.wait_for("started")
    kinds = [entry["kind"] for entry in read_audit_log(path)]
    assert kinds == ["accepted", "started", "lost", "stopped"]


async def test_output_folder_is_kept_only_if_it_was_given(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        await me.run(sampler())
    assert (tmp_path / "output" / "test_00001_.png").exists()
    async with Simulator() as sim:
        folder = sim.output_folder
        assert folder.exists()
    assert not folder.exists()


async def test_server_that_is_down_can_be_closed() -> None:
    async with asyncio.timeout(5):
        async with Simulator() as sim:
            sim.fault("restart", down=60)
        assert not sim.is_up
