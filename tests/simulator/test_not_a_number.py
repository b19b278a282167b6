"""NaN, which Python writes into JSON and no JSON parser but a lax one takes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from backends.simulator import Simulator
from tests.simulator.artist import Artist, artist
from tests.simulator.graphs import Graph, plain_image, sampler

NAN = float("nan")


def loading(**more: Any) -> Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}} | more,
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "saved"}},
    }


async def saved_prompt(me: Artist, prompt_id: str) -> Any:
    shown = (await me.history(prompt_id))["outputs"]["2"]["images"][0]
    async with me.session.get("/view", params=shown) as answer:
        with Image.open(io.BytesIO(await answer.read())) as image:
            return json.loads(image.info["prompt"])


async def text(me: Artist, path: str) -> str:
    async with me.session.get(path) as answer:
        return await answer.text()


def picture(folder: Path, color: str = "red") -> None:
    Image.new("RGB", (8, 8), color).save(folder / "input" / "picture.png")


async def test_not_a_number_is_bare_in_queue_and_history(me: Artist) -> None:
    graph = sampler(steps=2, delay=0.3)
    graph["1"]["is_changed"] = NAN
    graph["1"]["inputs"]["cfg"] = "nan"
    prompt_id = await me.queue(graph)
    await me.until_type("progress")
    running = await text(me, "/queue")
    await me.until_end(prompt_id)
    ended = await text(me, f"/history/{prompt_id}")
    for body in (running, ended):
        assert '"is_changed": NaN' in body
        assert '"cfg": NaN' in body


async def test_not_a_number_is_bare_in_an_execution_error(sim: Simulator, me: Artist) -> None:
    graph = sampler(cfg=NAN, steps=1)
    sim.fault("node_error")
    await me.queue(graph)
    while "execution_error" not in (frame := await me.socket.receive_str(timeout=5)):
        pass
    assert '"cfg": [NaN]' in frame


async def test_saved_image_has_the_hash_of_its_file_and_history_does_not(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        prompt_id, _ = await me.run(loading())
        saved = await saved_prompt(me, prompt_id)
        history = await text(me, f"/history/{prompt_id}")
    (answer,) = saved["1"]["is_changed"]
    assert len(answer) == 64
    assert "is_changed" not in saved["2"]
    assert "is_changed" not in history


async def test_hash_of_a_missing_file_is_not_a_number(tmp_path: Path) -> None:
    other = {"images": ["3", 0], "filename_prefix": "other"}
    graph = {"4": {"class_type": "SaveImage", "inputs": other}, "3": plain_image()["1"]}
    graph |= loading()
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        before = await me.queue(sampler(steps=1, delay=0.2))
        prompt_id = await me.queue(graph)
        (tmp_path / "input" / "picture.png").unlink()
        await me.until_end(before)
        frames = await me.until_end(prompt_id)
        shown = [f["data"]["output"]["images"][0] for f in frames if f["type"] == "executed"]
        with Image.open(sim.output_folder / shown[0]["filename"]) as image:
            saved = json.loads(image.info["prompt"])
    assert math.isnan(saved["1"]["is_changed"])


async def test_changed_file_is_loaded_again_and_the_same_one_is_not(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        await me.run(loading())
        picture(tmp_path)
        _, same = await me.run(loading())
        picture(tmp_path, "blue")
        _, other = await me.run(loading())
    cached = [f["data"]["nodes"] for f in same + other if f["type"] == "execution_cached"]
    assert cached == [["1", "2"], []]


async def test_node_with_not_a_number_is_never_cached(me: Artist) -> None:
    graph = plain_image()
    graph["1"]["inputs"]["extra"] = NAN
    await me.run(graph)
    _, frames = await me.run(graph)
    cached = next(f["data"]["nodes"] for f in frames if f["type"] == "execution_cached")
    assert cached == []


async def test_is_changed_of_the_request_is_kept(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        await me.run(loading(is_changed=["x"]))
        picture(tmp_path, "blue")
        _, frames = await me.run(loading(is_changed=["x"]))
    cached = next(f["data"]["nodes"] for f in frames if f["type"] == "execution_cached")
    assert cached == ["1", "2"]
