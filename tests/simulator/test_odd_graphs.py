"""Graphs no editor makes: cycles, links through inputs that a class does not declare, odd files."""

from typing import Any

import pytest

from backends.simulator import Simulator
from backends.simulator.catalog import call_of
from tests.harness.graphs import Graph, plain_image
from tests.simulator.artist import Artist, artist, the, types


async def failure(me: Artist, graph: Graph) -> tuple[Any, Any]:
    prompt_id, frames = await me.run(graph)
    entry = await me.history(prompt_id)
    told = the("execution_error", frames)
    assert entry["status"]["messages"][-1] == ["execution_error", told]
    return told, entry


async def test_cycle_is_an_error_on_the_socket_and_a_success_in_the_history(me: Artist) -> None:
    """As in a real one: it notes no failure of a node, for none ran."""
    graph = plain_image() | {
        "3": plain_image(7)["1"],
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    graph["1"]["inputs"]["extra"] = ["1", 0]
    told, entry = await failure(me, graph)
    assert told["exception_type"] == "graph.DependencyCycleError"
    assert told["exception_message"] == "Dependency cycle detected"
    assert told["executed"] == ["3", "4"]
    assert list(entry["outputs"]) == ["4"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert "execution_success" not in [name for name, _ in entry["status"]["messages"]]


UNEXPECTED = "SaveImage.save_images() got an unexpected keyword argument 'unheard_of'"
NOT_FLOAT = "list indices must be integers or slices, not float"


@pytest.mark.parametrize(
    ("class_type", "inputs", "kind", "message"),
    [
        ("PreviewImage", {"unheard_of": ["1", 7]}, "TypeError", UNEXPECTED),
        ("PreviewImage", {"prompt": ["1", 0]}, "AttributeError", "'str' object has no attribute 'get'"),
        ("PreviewImage", {"unheard_of": ["1", 0.0]}, "TypeError", NOT_FLOAT),
        ("PreviewImage", {"unheard_of": ["1", -2]}, "IndexError", "list index out of range"),
        ("SaveImageWebsocket", {"images": "abc"}, "AttributeError", "'str' object has no attribute 'shape'"),
    ],
)  # fmt: skip
async def test_node_fails_at_an_input_that_it_cannot_use(
    class_type: str, inputs: dict[str, Any], kind: str, message: str, me: Artist
) -> None:
    graph = plain_image()
    graph["2"]["class_type"] = class_type
    graph["2"]["inputs"] |= inputs
    told, entry = await failure(me, graph)
    assert (told["node_id"], told["exception_type"]) == ("2", kind)
    assert told["exception_message"] == f"{message}\n"
    assert entry["status"]["status_str"] == "error"


@pytest.mark.parametrize("inputs", [{"unheard_of": 5}, {"filename_prefix": ["3", 0]}])
async def test_undeclared_input_is_dropped_or_a_parameter(inputs: dict[str, Any], me: Artist) -> None:
    """`filename_prefix` is a parameter of PreviewImage's function, though no input of its own."""
    graph = plain_image()
    graph["3"] = {"class_type": "PrimitiveString", "inputs": {"value": "x"}}
    graph["2"]["inputs"] |= inputs
    assert "execution_success" in types((await me.run(graph))[1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "LoadImage.VALIDATE_INPUTS() missing 1 required positional argument: 'image'"),
        ({"image": ["3", 0]}, "'NoneType' object has no attribute 'endswith'"),
        ({"image": ["3"]}, "'list' object has no attribute 'endswith'"),
    ],
)
async def test_file_name_that_cannot_be_checked_is_reported_by_the_node_that_needs_it(
    inputs: dict[str, Any], message: str, me: Artist
) -> None:
    graph = plain_image() | {"1": {"class_type": "LoadImage", "inputs": inputs}}
    status, answer = await me.post(graph | {"3": plain_image()["1"]})
    assert status == 400
    (problem,) = answer["node_errors"]["1"]["errors"]
    assert problem["type"] == "exception_during_inner_validation"
    assert problem["details"] == message
    assert problem["extra_info"]["linked_node"] == ["1", 0]
    assert list(answer["node_errors"]) == ["1"]


@pytest.mark.parametrize(
    ("class_type", "name", "noun"),
    [("LoadImageMask", "image", "image"), ("LoadLatent", "latent", "latent"), ("LoadVideo", "file", "video")],
)  # fmt: skip
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


async def test_every_class_on_the_list_can_be_called(me: Artist) -> None:
    assert all("." in call_of(name).function for name in await me.get("/object_info"))
    assert call_of("KSamplerAdvanced").refused(["denoise", "extra"]) == "extra"
    assert call_of("WebcamCapture").refused(["anything"]) is None


async def test_choice_of_a_newer_class_is_checked(me: Artist) -> None:
    model = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "nope.pth"}}
    graph = {"1": model, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    status, answer = await me.post(graph)
    assert status == 400
    (problem,) = answer["node_errors"]["1"]["errors"]
    assert problem["details"] == "model_name: 'nope.pth' not in []"


async def test_replaced_classes_are_listed_since_they_are_replaced(me: Artist) -> None:
    async with me.session.get("/api/node_replacements") as answer:
        assert answer.status == 404
    async with Simulator(version="0.33.0") as newer, artist(newer) as they:
        assert "ConditioningAverage " in await they.get("/node_replacements")
