"""Graphs no editor makes: cycles and links through inputs that a class doesn't declare, odd files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.simulator import Simulator
from tests.simulator.artist import Artist, artist, types
from tests.simulator.graphs import Graph, plain_image, sampler


def cyclic() -> Graph:
    """A node that waits for itself through an input its class doesn't declare."""
    graph = plain_image()
    graph["1"]["inputs"]["extra"] = ["1", 0]
    return graph


def load_image(**inputs: Any) -> Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


async def failure(me: Artist, graph: Graph) -> tuple[Any, Any]:
    prompt_id, frames = await me.run(graph)
    entry = await me.history(prompt_id)
    told = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert entry["status"]["messages"][-1] == ["execution_error", told]
    return told, entry


async def test_cycle_is_reported_as_an_error_and_is_a_success_in_the_history(me: Artist) -> None:
    """As in a real one: it notes no failure of a node, for none ran."""
    told, entry = await failure(me, cyclic())
    assert told["exception_type"] == "graph.DependencyCycleError"
    assert told["exception_message"] == "Dependency cycle detected"
    assert (told["node_id"], told["node_type"]) == ("2", "PreviewImage")
    assert (told["traceback"], told["current_inputs"]) == ([], [])
    assert told["current_outputs"] == ["1", "2"]
    assert entry["outputs"] == {}
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert "execution_success" not in [name for name, _ in entry["status"]["messages"]]


async def test_cycle_inherits_the_failure_of_the_prompt_before(me: Artist) -> None:
    failing = plain_image()
    failing["1"]["inputs"]["extra"] = ["3", 0]
    failing["3"] = plain_image(2)["1"]
    await failure(me, failing)
    _, after_failure = await failure(me, cyclic())
    await me.run(plain_image(3))
    _, after_success = await failure(me, cyclic())
    assert after_failure["status"]["status_str"] == "error"
    assert after_success["status"]["status_str"] == "success"


async def test_freeing_memory_makes_a_cycle_a_success_again(me: Artist) -> None:
    failing = plain_image()
    failing["2"]["inputs"]["extra"] = ["1", 0]
    await failure(me, failing)
    async with me.session.post("/free", json={"free_memory": True}) as answer:
        assert answer.status == 200
    _, entry = await failure(me, cyclic())
    assert entry["status"]["status_str"] == "success"


async def test_outputs_before_a_cycle_are_in_the_history(me: Artist) -> None:
    graph = cyclic() | {"3": plain_image(7)["1"], "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}}
    told, entry = await failure(me, graph)
    assert told["executed"] == ["3", "4"]
    assert list(entry["outputs"]) == ["4"]
    assert entry["status"]["status_str"] == "success"


@pytest.mark.parametrize(
    ("class_type", "function"),
    [
        ("PreviewImage", "SaveImage.save_images"),
        ("SaveImage", "SaveImage.save_images"),
        ("SaveImageWebsocket", "SaveImageWebsocket.save_images"),
    ],
)
async def test_link_in_an_undeclared_input_fails_at_its_node(class_type: str, function: str, me: Artist) -> None:
    inputs = {"images": ["1", 0], "filename_prefix": "x", "unheard_of": ["1", 7]}
    graph = plain_image() | {"2": {"class_type": class_type, "inputs": inputs}}
    told, entry = await failure(me, graph)
    assert (told["node_id"], told["exception_type"]) == ("2", "TypeError")
    assert told["exception_message"] == (f"{function}() got an unexpected keyword argument 'unheard_of'\n")
    assert told["current_inputs"]["unheard_of"] == [None]
    assert entry["status"]["status_str"] == "error"


async def test_undeclared_constant_is_dropped(me: Artist) -> None:
    graph = plain_image()
    graph["2"]["inputs"]["unheard_of"] = 5
    _, frames = await me.run(graph)
    assert "execution_success" in types(frames)


async def test_link_to_a_parameter_that_is_no_input_is_taken(me: Artist) -> None:
    """`filename_prefix` is a parameter of PreviewImage's function, though no input of its own."""
    graph = plain_image()
    graph["3"] = {"class_type": "PrimitiveString", "inputs": {"value": "x"}}
    graph["2"]["inputs"]["filename_prefix"] = ["3", 0]
    _, frames = await me.run(graph)
    assert "execution_success" in types(frames)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({"prompt": ["1", 0]}, "AttributeError", "'str' object has no attribute 'get'"),
        ({"unheard_of": ["1", 0.0]}, "TypeError", "list indices must be integers or slices, not float"),
        ({"unheard_of": ["1", -2]}, "IndexError", "list index out of range"),
    ],
)
async def test_unreadable_link_fails_before_its_node_executes(
    inputs: dict[str, Any], kind: str, message: str, me: Artist
) -> None:
    graph = plain_image()
    graph["2"]["inputs"] |= inputs
    _, frames = await me.run(graph)
    executing = [f["data"]["node"] for f in frames if f["type"] == "executing"]
    told = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert executing == ["1", None]
    assert (told["exception_type"], told["exception_message"]) == (kind, f"{message}\n")
    assert (told["node_id"], told["current_inputs"]) == ("2", {})


@pytest.mark.parametrize(("class_type", "attribute"), [("ImageScale", "movedim"), ("SaveImageWebsocket", "shape")])
async def test_constant_for_an_image_fails_at_its_node(class_type: str, attribute: str, me: Artist) -> None:
    scale = {"image": "abc", "upscale_method": "area", "width": 8, "height": 8, "crop": "disabled"}
    graph = plain_image() | {
        "3": {"class_type": class_type, "inputs": scale if class_type == "ImageScale" else {"images": "abc"}}
    }
    if class_type == "ImageScale":
        graph["2"]["inputs"]["images"] = ["3", 0]
    told, _ = await failure(me, graph)
    assert told["node_id"] == "3"
    assert told["exception_message"] == f"'str' object has no attribute '{attribute}'\n"


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({}, "TypeError", "LoadImage.VALIDATE_INPUTS() missing 1 required positional argument: 'image'"),
        ({"image": ["3", 0]}, "AttributeError", "'NoneType' object has no attribute 'endswith'"),
        ({"image": ["3"]}, "AttributeError", "'list' object has no attribute 'endswith'"),
        ({"image": 5}, "AttributeError", "'int' object has no attribute 'endswith'"),
    ],
)
async def test_file_name_that_cannot_be_checked_is_reported_by_the_node_that_needs_it(
    inputs: dict[str, Any], kind: str, message: str, me: Artist
) -> None:
    graph = load_image(**inputs) | {"3": plain_image()["1"]}
    status, answer = await me.post(graph)
    assert status == 400
    (problem,) = answer["node_errors"]["1"]["errors"]
    assert problem["type"] == "exception_during_inner_validation"
    assert (problem["details"], problem["extra_info"]["exception_type"]) == (message, kind)
    assert problem["extra_info"]["input_name"] == "images"
    assert problem["extra_info"]["linked_node"] == ["1", 0]
    assert list(answer["node_errors"]) == ["1"]


@pytest.mark.parametrize(
    ("class_type", "name", "noun"),
    [
        ("LoadImage", "image", "image"),
        ("LoadImageMask", "image", "image"),
        ("LoadLatent", "latent", "latent"),
        ("LoadAudio", "audio", "audio"),
        ("LoadVideo", "file", "video"),
    ],
)
async def test_each_class_refuses_a_missing_file_with_its_own_text(
    class_type: str, name: str, noun: str, me: Artist
) -> None:
    graph = {
        "1": {"class_type": class_type, "inputs": {name: "nope.x", "channel": "red"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    status, answer = await me.post(graph)
    assert status == 400
    (problem,) = answer["node_errors"]["1"]["errors"]
    assert problem["details"] == f"{name} - Invalid {noun} file: nope.x"


async def test_folder_passes_as_a_file_until_it_is_opened(me: Artist) -> None:
    told, _ = await failure(me, load_image(image=""))
    assert told["exception_type"] == "IsADirectoryError"


async def test_file_removed_while_its_prompt_waits_is_missed_when_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "input" / "picture.png"
    async with Simulator(output_dir=tmp_path) as sim, artist(sim) as me:
        Image.new("RGB", (8, 8)).save(path)
        before = await me.queue(sampler(steps=1, delay=0.2))
        prompt_id = await me.queue(load_image(image="picture.png"))
        path.unlink()
        await me.until_end(before)
        await me.until_end(prompt_id)
        entry = await me.history(prompt_id)
    name, told = entry["status"]["messages"][-1]
    assert (name, told["exception_type"]) == ("execution_error", "FileNotFoundError")
