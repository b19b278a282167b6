import io
import time
from typing import Any

import pytest
from PIL import Image

from backends.simulator import Simulator
from tests.harness.graphs import media, reference_example, sampler, text_to_image
from tests.simulator.artist import Artist, artist, steps, the, types

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


async def test_a_model_takes_time_to_load_after_another_one_only() -> None:
    async with Simulator(load_seconds=0.5) as sim, artist(sim) as me:

        async def takes(seed: int, checkpoint: str) -> float:
            start = time.monotonic()
            await me.run(text_to_image(seed, side=64, checkpoint=f"{checkpoint}_sd15.safetensors"))
            return time.monotonic() - start

        assert await takes(1, "tiny") >= 0.5
        assert await takes(2, "tiny") < 0.5
        assert await takes(3, "random") >= 0.5
        assert await takes(4, "tiny") >= 0.5


async def test_steps_and_previews_are_those_of_the_server() -> None:
    async with Simulator(seconds=0.5, steps=20, preview_fps=4) as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image(steps=4))
    assert steps(frames) == list(range(1, 21))
    assert 2 <= types(frames).count("binary") <= 4


async def test_lenient_server_runs_what_comfyui_refuses() -> None:
    async with Simulator(lenient=True) as sim, artist(sim) as me:
        _, valid = await me.run(text_to_image())
        prompt_id, frames = await me.run(reference_example())
        entry = await me.history(prompt_id)
    assert [f["data"]["node"] for f in valid if f["type"] == "executing"][:3] == ["4", "5", "7"]
    assert steps(frames) == [1, 2, 3]
    assert types(frames)[-4:] == END
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["3"]["images"][0]["filename"] == "ComfyUI_00001_.png"
    assert entry["prompt"][4] == ["3"]


async def test_films_sounds_and_texts_are_reported_as_comfyui_does() -> None:
    async with Simulator() as sim, artist(sim) as me:
        prompt_id, _ = await me.run(media(frames=3))
        outputs = (await me.history(prompt_id))["outputs"]
        written = {path.name: path.read_bytes() for path in sim.output_folder.rglob("*_00001_.*")}
    film = {"filename": "film_00001_.webm", "subfolder": "video", "type": "output"}
    moving = {"filename": "moving_00001_.webp", "subfolder": "", "type": "output"}
    sound = {"filename": "sound_00001_.flac", "subfolder": "audio", "type": "output"}
    assert outputs == {
        "10": {"images": [film], "animated": [True]},
        "11": {"images": [moving], "animated": [True]},
        "13": {"audio": [sound]},
        "15": {"text": ["a poem"]},
    }
    with Image.open(io.BytesIO(written[moving["filename"]])) as image:
        image.seek(1)
        image.load()
        assert (image.n_frames, image.info["timestamp"], image.info["duration"]) == (3, 500, 500)  # type: ignore[attr-defined]
    # The rate, one channel of 16 bits, and the samples.
    assert written[sound["filename"]][18:26] == (8_000 << 44 | 15 << 36 | 16_000).to_bytes(8, "big")
    assert written[film["filename"]].count(bytes.fromhex("1f43b675")) == 2


@pytest.mark.parametrize("prompt", [{}, [], "text", None, {"1": "node"}, 5])
async def test_lenient_server_still_refuses_what_is_no_graph(prompt: Any) -> None:
    async with Simulator(lenient=True) as sim, artist(sim) as me:
        status, _ = await me.post(prompt)
        assert status in {400, 500}
        assert sim.prompts == []


async def test_lenient_prompt_can_be_interrupted() -> None:
    async with Simulator(lenient=True, seconds=30) as sim, artist(sim) as me:
        prompt_id = await me.queue(reference_example())
        await me.until_type("executing")
        await me.interrupt(prompt_id)
        assert "execution_interrupted" in types(await me.until_end(prompt_id))


async def test_prefix_that_leaves_the_folder_fails_the_prompt(me: Artist) -> None:
    error = the("execution_error", (await me.run(sampler(prefix="../../etc/x")))[1])
    assert error["exception_message"].startswith("Saving image outside the output folder")


async def test_class_without_a_runner_passes_images_on(me: Artist) -> None:
    graph = sampler()
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    assert types((await me.run(graph))[1])[-4:] == END


async def test_audit_log_has_the_events_of_each_prompt() -> None:
    async with Simulator(name="gpu-1") as sim, artist(sim) as me:
        prompt_id, _ = await me.run(sampler(), extra_data={"director": {"child": "c-1"}})
        await me.post({"1": {"class_type": "NoSuchNode", "inputs": {}}})
        await me.free(unload_models=True, free_memory=True)
        told = [(e["kind"], e["backend"]) for e in sim.audit_log.entries]
        accepted, _, ended, _, freed = sim.audit_log.entries
    assert told == [(k, "gpu-1") for k in ("accepted", "started", "ended", "refused", "freed")]
    assert accepted["prompt_id"] == prompt_id
    assert accepted["extra_data"] == {"director": {"child": "c-1"}, "client_id": "artist"}
    assert (ended["outcome"], ended["client_id"]) == ("success", "artist")
    assert freed["body"] == {"unload_models": True, "free_memory": True}
