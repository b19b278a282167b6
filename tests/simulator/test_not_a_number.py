"""NaN, which Python writes into JSON and no JSON parser but a lax one takes."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from backends.simulator import Simulator
from tests.harness.graphs import Graph, plain_image, sampler
from tests.simulator.artist import Artist, artist, the

NAN = float("nan")


def loading(**more: Any) -> Graph:
    save = {"images": ["1", 0], "filename_prefix": "saved"}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}} | more,
        "2": {"class_type": "SaveImage", "inputs": save},
    }


async def text(me: Artist, path: str) -> str:
    async with me.session.get(path) as answer:
        return await answer.text()


async def cached(me: Artist, graph: Graph) -> list[str]:
    nodes: list[str] = the("execution_cached", (await me.run(graph))[1])["nodes"]
    return nodes


def picture(folder: Path, color: str = "red") -> None:
    Image.new("RGB", (8, 8), color).save(folder / "input" / "picture.png")


async def test_not_a_number_is_bare_in_queue_history_and_an_execution_error(sim: Simulator, me: Artist) -> None:
    graph = sampler(steps=2, delay=0.3)
    graph["1"]["is_changed"] = NAN
    graph["1"]["inputs"]["cfg"] = "nan"
    prompt_id = await me.queue(graph)
    await me.until_type("progress")
    running = await text(me, "/queue")
    await me.until_end(prompt_id)
    for body in (running, await text(me, f"/history/{prompt_id}")):
        assert '"is_changed": NaN' in body
        assert '"cfg": NaN' in body
    sim.fault("node_error")
    await me.queue(sampler(cfg=NAN, steps=1))
    while "execution_error" not in (frame := await me.socket.receive_str(timeout=5)):
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


async def test_file_removed_while_its_prompt_waits_has_no_hash_and_is_missed(tmp_path: Path) -> None:
    other = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    graph = {"4": other, "3": plain_image()["1"]} | loading()
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        before = await me.queue(sampler(steps=1, delay=0.2))
        prompt_id = await me.queue(graph)
        (tmp_path / "input" / "picture.png").unlink()
        await me.until_end(before)
        frames = await me.until_end(prompt_id)
        shown = the("executed", frames)["output"]["images"][0]
        with Image.open(sim.output_folder.parent / "temp" / shown["filename"]) as image:
            assert '"is_changed": NaN' in image.info["prompt"]
    assert the("execution_error", frames)["exception_type"] == "FileNotFoundError"


async def test_changed_file_is_loaded_again_unless_the_request_names_its_state(tmp_path: Path) -> None:
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        picture(tmp_path)
        await me.run(loading())
        assert await cached(me, loading()) == ["1", "2"]
        picture(tmp_path, "blue")
        assert await cached(me, loading()) == []
        await me.run(loading(is_changed=["x"]))
        picture(tmp_path, "green")
        assert await cached(me, loading(is_changed=["x"])) == ["1", "2"]


async def test_node_with_not_a_number_is_never_cached(me: Artist) -> None:
    graph = plain_image()
    graph["1"]["inputs"]["extra"] = NAN
    await me.run(graph)
    assert await cached(me, graph) == []
