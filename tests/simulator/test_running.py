"""How prompts run: durations, pictures, and NaN in their values."""

import io
import json
from pathlib import Path

from PIL import Image

from backends.simulator import Simulator
from backends.simulator.pictures import encode_png, paint
from backends.simulator.values import Latent, Picture
from tests.harness.graphs import Graph, reference_example, sampler, text_to_image
from tests.simulator.artist import PATIENCE, Artist, artist, steps, the, types

END = ["executed", "execution_success", "status", "executing"]


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


async def test_prefix_that_leaves_the_folder_fails_the_prompt(me: Artist) -> None:
    error = the("execution_error", (await me.run(sampler(prefix="../../etc/x")))[1])
    assert error["exception_message"].startswith("Saving image outside the output folder")


def test_seed_text_position_and_backend_decide_the_image() -> None:
    images = {encode_png(Picture(seed=seed), "gpu-1") for seed in range(20)}
    assert len(images) == 20
    assert encode_png(Picture(seed=7), "gpu-1") in images
    assert encode_png(Picture(theme=1), "gpu-1") != encode_png(Picture(theme=2), "gpu-1")
    batch = [encode_png(p, "") for p in Latent(batch_size=3, seed=1).pictures()]
    assert len(set(batch)) == 3
    first, second = paint(Picture(), "gpu-1"), paint(Picture(), "gpu-2")
    assert first.tobytes() != second.tobytes()
    assert first.crop((0, 0, 512, 400)).tobytes() == second.crop((0, 0, 512, 400)).tobytes()


NAN = float("nan")


def loading() -> Graph:
    save = {"images": ["1", 0], "filename_prefix": "saved"}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
        "2": {"class_type": "SaveImage", "inputs": save},
    }


async def text(me: Artist, path: str) -> str:
    async with me.session.get(path) as answer:
        return await answer.text()


def picture(folder: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(folder / "input" / "picture.png")


async def test_not_a_number_is_bare_in_queue_history_and_an_execution_error(
    sim: Simulator, me: Artist
) -> None:
    sim.fault("stuck", step=2)
    graph = sampler(steps=2)
    graph["1"]["is_changed"] = NAN
    graph["1"]["inputs"]["cfg"] = "nan"
    prompt_id = await me.queue(graph)
    await me.until_type("progress")
    running = await text(me, "/queue")
    sim.clear_faults()
    await me.until_end(prompt_id)
    for body in (running, await text(me, f"/history/{prompt_id}")):
        assert '"is_changed": NaN' in body
        assert '"cfg": NaN' in body
    sim.fault("node_error")
    await me.queue(sampler(cfg=NAN, steps=1))
    while "execution_error" not in (frame := await me.socket.receive_str(timeout=PATIENCE)):
        pass
    assert '"cfg": [NaN]' in frame


async def test_saved_image_has_the_hash_of_its_file_and_history_does_not(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        prompt_id, frames = await me.run(loading())
        shown = the("executed", frames)["output"]["images"][0]
        with Image.open(io.BytesIO((sim.output_folder / shown["filename"]).read_bytes())) as image:
            saved = json.loads(image.info["prompt"])
        history = await text(me, f"/history/{prompt_id}")
    (answer,) = saved["1"]["is_changed"]
    assert len(answer) == 64
    assert "is_changed" not in saved["2"]
    assert "is_changed" not in history
