"""Where a prompt is not refused at the ComfyUI listener, and one description of several."""

from typing import Any

import pytest

from backends.node_union import union, with_more_choices
from jobgroups.workflow.prompt_check import check_prompt

CUSTOM = "custom_nodes.some_pack"


def described(
    required: dict[str, Any], *, module: str = "nodes", output: list[str] | None = None
) -> dict[str, Any]:
    return {
        "input": {"required": required},
        "output": output or [],
        "output_node": output is None,
        "python_module": module,
    }


def errors(required: dict[str, Any], inputs: dict[str, Any], module: str = CUSTOM) -> list[str]:
    """Return the types of the errors of a node of a class."""
    graph = {"1": {"class_type": "Node", "inputs": inputs}}
    check = check_prompt(graph, {"Node": described(required, module=module)}.get)
    return [error["type"] for error in check.node_errors.get("1", {"errors": []})["errors"]]


@pytest.mark.parametrize(
    ("entry", "value", "of_custom", "of_core"),
    [
        ([["a", "b"]], "c", [], ["value_not_in_list"]),
        (["COMBO", {"options": ["a"]}], "c", [], ["value_not_in_list"]),
        ([["a.safetensors"]], "b.safetensors", ["value_not_in_list"], ["value_not_in_list"]),
        # It fills the list later.
        ([[]], "b.safetensors", [], ["value_not_in_list"]),
        (["INT", {"min": 1}], 0, [], ["value_smaller_than_min"]),
        (["INT", {}], "many", ["invalid_input_type"], ["invalid_input_type"]),
        (["COMBO", {"options": [], "remote": {"route": "/x"}}], "c", [], []),
        (["COMFY_AUTOGROW_V3", {}], "c", [], []),
        ([["a.png"], {"image_upload": True}], "b.png [output]", [], []),
        ([["a.png"], {"image_upload": True}], "folder/b.png", [], []),
        ([["a.png"], {"image_upload": True}], "b.png", [], ["custom_validation_failed"]),
        (["IMAGE"], ["1"], ["bad_linked_input"], ["bad_linked_input"]),
    ],
)
def test_only_what_comfyui_certainly_refuses_is_an_error(
    entry: list[Any], value: Any, of_custom: list[str], of_core: list[str]
) -> None:
    assert errors({"x": entry}, {"x": value}) == of_custom
    assert errors({"x": entry}, {"x": value}, "comfy_extras.nodes_x") == of_core


@pytest.mark.parametrize(
    ("link", "module", "expected"),
    [
        (["1", 5], "nodes", ["IndexError"]),
        # A custom class may return any number of outputs.
        (["1", 5], CUSTOM, []),
        ([1, 0], CUSTOM, ["KeyError"]),
        (["1", 0], "nodes", []),
    ],
)
def test_link_to_what_no_node_returns_is_an_error(
    link: list[Any], module: str, expected: list[str]
) -> None:
    describe = {"Load": described({}, module=module, output=["IMAGE"])}
    describe["Save"] = described({"x": ["IMAGE"]})
    graph = {
        "1": {"class_type": "Load", "inputs": {}},
        "2": {"class_type": "Save", "inputs": {"x": link}},
    }
    node_errors = check_prompt(graph, describe.get).node_errors
    found = [error["extra_info"] for entry in node_errors.values() for error in entry["errors"]]
    assert [info["exception_type"] for info in found] == expected


def test_missing_input_is_an_error_unless_it_stands_for_several() -> None:
    assert errors({"x": ["INT", {}]}, {}) == ["required_input_missing"]
    assert errors({"x": ["COMFY_DYNAMICCOMBO_V3", {}]}, {}) == []


def test_value_that_the_director_replaces_is_not_checked() -> None:
    required = {"image": [["a.png"], {"image_upload": True}]}
    graph = {"1": {"class_type": "Node", "inputs": {"image": "own.png"}}}
    describe = {"Node": described(required)}.get
    assert check_prompt(graph, describe).error is not None
    assert check_prompt(graph, describe, resolved={("1", "image")}).outputs == ["1"]


def test_deep_graph_is_checked_to_its_root() -> None:
    """A walk by recursion would end at some hundreds."""
    passing = described({"x": ["IMAGE"]}, output=["IMAGE"])
    describe = {"Pass": passing, "Save": described({"x": ["IMAGE"]})}.get
    graph: dict[str, Any] = {"0": {"class_type": "Pass", "inputs": {}}}
    for number in range(1, 5_000):
        graph[str(number)] = {"class_type": "Pass", "inputs": {"x": [str(number - 1), 0]}}
    graph["save"] = {"class_type": "Save", "inputs": {"x": ["4999", 0]}}
    check = check_prompt(graph, describe)
    assert check.error is not None
    assert list(check.node_errors) == ["0"]
    assert check.node_errors["0"]["dependent_outputs"] == ["save"]


def test_only_the_targets_are_outputs() -> None:
    save = {"class_type": "Save", "inputs": {}}
    describe = {"Save": described({})}.get
    assert check_prompt({"1": save, "2": save}, describe, targets=["2"]).outputs == ["2"]
    check = check_prompt({"1": save}, describe, targets=["7"])
    assert check.error is not None
    assert check.error["type"] == "prompt_no_outputs"


def test_link_to_a_missing_node_is_an_error_of_its_node() -> None:
    assert errors({"x": ["IMAGE"]}, {"x": ["404", 0]}) == ["exception_during_validation"]


def test_union_has_the_inputs_of_the_first_and_the_choices_of_all() -> None:
    def option(key: str, *listed: str) -> dict[str, Any]:
        return {"key": key, "inputs": {"required": {"y": [list(listed)]}}}

    newest = {
        "input": {
            "required": {
                "old": [["a", True], {"tooltip": "new"}],
                "new": ["COMBO", {"options": ["x"]}],
                "kind": ["COMFY_DYNAMICCOMBO_V3", {"options": [option("p", "1")]}],
            }
        },
        "name": "newest",
    }
    older = {
        "input": {
            "required": {"gone": ["INT"]},
            "optional": {
                "old": [["b", "a", 1]],
                "new": [["y"]],
                "kind": ["COMFY_DYNAMICCOMBO_V3", {"options": [option("p", "2"), option("q")]}],
            },
        },
        "name": "older",
    }
    merged = union([newest, older])
    required = merged["input"]["required"]
    assert merged["name"] == "newest"
    assert required.keys() == {"old", "new", "kind"}
    assert required["old"] == [["a", True, "b", 1], {"tooltip": "new"}]
    assert required["new"] == ["COMBO", {"options": ["x", "y"]}]
    options = required["kind"][1]["options"]
    assert [one["key"] for one in options] == ["p", "q"]
    assert options[0]["inputs"]["required"]["y"] == [["1", "2"]]
    assert newest["input"]["required"]["old"] == [["a", True], {"tooltip": "new"}]


def test_uploads_are_added_to_inputs_of_files_alone() -> None:
    info = {
        "input": {
            "required": {"image": [["b.png"], {"image_upload": True}], "mode": [["m"]]},
            "optional": {"sound": ["COMBO", {"options": [], "audio_upload": True}]},
        }
    }
    more = with_more_choices(
        info, lambda flags: ["a.png"] if "image_upload" in flags else ["c.wav"]
    )
    assert more["input"]["required"]["image"][0] == ["a.png", "b.png"]
    assert more["input"]["required"]["mode"] == [["m"]]
    assert more["input"]["optional"]["sound"][1]["options"] == ["c.wav"]
    assert info["input"]["required"]["image"][0] == ["b.png"]
