"""How prompts run beyond what the recordings show: time, steps, previews, leniency, files."""

from __future__ import annotations

import io
import struct
import time

import pytest
from PIL import Image

from backends.simulator import Simulator
from tests.simulator.artist import Artist, artist, types
from tests.simulator.graphs import plain_image, reference_example, sampler, text_to_image

END = ["executed", "execution_success", "status", "executing"]


async def test_seconds_are_spread_over_the_steps() -> None:
    async with Simulator(seconds=0.4) as sim, artist(sim) as me:
        start = time.monotonic()
        prompt_id = await me.queue(text_to_image(steps=4))
        await me.until_type("progress")
        first = time.monotonic() - start
        await me.until_end(prompt_id)
        total = time.monotonic() - start
    assert total >= 0.4
    assert 0.09 <= first < total * 0.7


async def test_steps_of_the_server_overrule_the_workflows() -> None:
    async with Simulator(steps=7) as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image(steps=4))
    assert [f["data"]["value"] for f in frames if f["type"] == "progress"] == list(range(1, 8))


async def test_saved_picture_is_512_pixels_with_the_prompt_in_it() -> None:
    async with Simulator(name="gpu-1") as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image(seed=5))
        shown = next(f["data"]["output"]["images"][0] for f in frames if f["type"] == "executed")
        async with me.session.get("/view", params=shown) as answer:
            data = await answer.read()
        assert (sim.output_folder / shown["filename"]).read_bytes() == data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (512, 512)
        assert '"seed": 5' in image.info["prompt"]


async def test_preview_fps_limits_previews() -> None:
    async with Simulator(seconds=0.5, preview_fps=4) as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image(steps=20))
    assert 2 <= types(frames).count("binary") <= 4


async def test_previews_carry_names_for_a_client_that_asks_first() -> None:
    async with Simulator(preview_fps=1000) as sim, artist(sim) as me:
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        await me.socket.send_json(flags)
        await me.until_type("feature_flags")
        prompt_id, frames = await me.run(text_to_image(steps=2))
    binary = next(f["binary"] for f in frames if f["type"] == "binary")
    kind, length = struct.unpack(">II", binary[:8])
    assert kind == 4
    assert f'"prompt_id": "{prompt_id}"'.encode() in binary[8 : 8 + length]
    assert binary[8 + length :].startswith(b"\xff\xd8\xff")


async def test_lenient_server_runs_what_comfyui_refuses() -> None:
    async with Simulator(lenient=True) as sim, artist(sim) as me:
        prompt_id, frames = await me.run(reference_example(seed=42))
        entry = await me.history(prompt_id)
    assert [f["data"]["value"] for f in frames if f["type"] == "progress"] == [1, 2, 3]
    assert types(frames)[-4:] == END
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["3"]["images"][0]["filename"] == "ComfyUI_00001_.png"
    assert entry["prompt"][4] == ["3"]


async def test_lenient_server_runs_a_valid_graph_as_comfyui() -> None:
    async with Simulator(lenient=True) as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image())
        _, again = await me.run(text_to_image())
    assert [f["data"]["node"] for f in frames if f["type"] == "executing"][:3] == ["4", "5", "7"]
    cached = next(f["data"]["nodes"] for f in again if f["type"] == "execution_cached")
    assert len(cached) == 7


@pytest.mark.parametrize("prompt", [{}, [], "text", None, {"1": "node"}, 5])
async def test_lenient_server_still_refuses_what_is_no_graph(prompt: object) -> None:
    async with Simulator(lenient=True) as sim, artist(sim) as me:
        status, _ = await me.post(prompt)  # type: ignore[arg-type]
        assert status in {400, 500}
        assert sim.prompts == []


async def test_lenient_prompt_can_be_interrupted() -> None:
    async with Simulator(lenient=True, seconds=30) as sim, artist(sim) as me:
        prompt_id = await me.queue(reference_example())
        await me.until_type("executing")
        await me.interrupt(prompt_id)
        frames = await me.until_end(prompt_id)
    assert "execution_interrupted" in types(frames)


async def test_removed_files_name_is_used_again(sim: Simulator, me: Artist) -> None:
    for seed in (1, 2):
        await me.run(sampler(seed))
    (sim.output_folder / "test_00002_.png").unlink()
    await me.run(sampler(3))
    names = sorted(path.name for path in sim.output_folder.iterdir())
    assert names == ["test_00001_.png", "test_00002_.png"]


async def test_file_that_was_there_before_is_counted(sim: Simulator, me: Artist) -> None:
    (sim.output_folder / "test_00009_.png").write_bytes(b"somebody's")
    await me.run(sampler())
    names = sorted(path.name for path in sim.output_folder.iterdir())
    assert names == ["test_00009_.png", "test_00010_.png"]


async def test_prefix_that_leaves_the_folder_fails_the_prompt(me: Artist) -> None:
    _, frames = await me.run(sampler(prefix="../../etc/x"))
    error = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert error["exception_message"].startswith("Saving image outside the output folder")


async def test_class_without_a_runner_passes_images_on(me: Artist) -> None:
    graph = sampler()
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    _, frames = await me.run(graph)
    assert types(frames)[-4:] == END


async def test_depth_counts_pending_and_running(sim: Simulator, me: Artist) -> None:
    sim.fault("stuck")
    for seed in range(3):
        await me.queue(sampler(seed))
    await sim.wait_for("started")
    assert await me.get("/prompt") == {"exec_info": {"queue_remaining": 3}}
    state = await me.get("/simulator/state")
    assert (len(state["running"]), len(state["pending"])) == (1, 2)


async def test_200_prompts_at_speed_0_take_less_than_4_seconds(sim: Simulator, me: Artist) -> None:
    start = time.monotonic()
    for color in range(200):
        last = await me.queue(plain_image(color))
    await me.until_end(last)
    assert time.monotonic() - start < 4.0
    assert len(sim.prompts) == 200


async def test_busy_device_shows_less_free_memory() -> None:
    async with Simulator(vram_gb=24) as sim, artist(sim) as me:
        idle = (await me.get("/system_stats"))["devices"][0]
        sim.fault("stuck")
        await me.queue(sampler())
        await sim.wait_for("started")
        busy = (await me.get("/system_stats"))["devices"][0]
    assert idle["vram_total"] == 24 * 1024**3
    assert busy["vram_free"] < idle["vram_free"]
    assert idle["type"] == "cuda"


async def test_audit_log_has_the_events_of_each_prompt() -> None:
    async with Simulator(name="gpu-1") as sim, artist(sim) as me:
        prompt_id, _ = await me.run(sampler(), extra_data={"director": {"child": "c-1"}})
        await me.post({"1": {"class_type": "NoSuchNode", "inputs": {}}})
        told = [(e["kind"], e["backend"]) for e in sim.audit_log.entries]
        accepted, ended = sim.prompts[0], sim.audit_log.find("ended")
    assert told == [(k, "gpu-1") for k in ("accepted", "started", "ended", "refused")]
    assert accepted["prompt_id"] == prompt_id
    assert accepted["extra_data"] == {"director": {"child": "c-1"}, "client_id": "artist"}
    assert ended is not None
    assert (ended["outcome"], ended["client_id"]) == ("success", "artist")
