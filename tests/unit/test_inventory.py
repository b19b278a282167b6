import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from backends.node_classes import NodeClass, node_class
from jobgroups.workflow import inventory
from jobgroups.workflow.inventory import Judge, Reason, Verdict

FILES = ["sd15.safetensors", "sd_xl_base.safetensors", "SDXL/juggernaut.safetensors"]
VALUES = json.loads(Path(__file__).with_name("input_values.json").read_text())
SAVE = {"required": {"images": ["IMAGE"]}}


def described(inputs: Any, *, is_output: bool = False, module: str = "nodes") -> NodeClass:
    known = node_class({"input": inputs, "output_node": is_output, "python_module": module})
    assert known is not None
    return known


def verdict_on(value: Any, entry: list[Any], *, module: str = "nodes") -> Verdict:
    """Judge a workflow whose node has one input of this value."""
    graph = {
        "1": {"class_type": "Made", "inputs": {"x": value}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
    }
    made = described({"required": {"x": entry}}, module=module)
    return Judge(graph, {"Made": made, "Save": described(SAVE, is_output=True)}).verdict()


def shown(reasons: tuple[Reason, ...]) -> list[tuple[str, str, str]]:
    return [(reason.code.value, reason.node_id, reason.message) for reason in reasons]


def shapes(choices: list[Any], **options: Any) -> list[list[Any]]:
    """Return a combo as versions below and above 0.14 describe it."""
    return [[choices, options], ["COMBO", {"options": choices, **options}]]


@pytest.mark.parametrize("entry", shapes(FILES))
@pytest.mark.parametrize("module", ["nodes", "custom_nodes.loaders"])
def test_missing_model_file_is_named_with_the_nearest_ones(entry: list[Any], module: str) -> None:
    assert verdict_on("sd15.safetensors", entry, module=module) == Verdict((), False, True)
    found = verdict_on("sd_xl_bose.safetensors", entry, module=module)
    [reason] = found.reasons
    assert (found.is_refused, reason.code, reason.input) == (True, "file_missing", "x")
    assert reason.message.startswith("Value not in list: x: 'sd_xl_bose.safetensors' not in [")
    assert reason.nearest()[0] == "sd_xl_base.safetensors"


@pytest.mark.parametrize("case", VALUES["wrong"], ids=itemgetter("message"))
def test_wrong_value_is_named_as_comfyui_does(case: dict[str, Any]) -> None:
    found = verdict_on(case["value"], case["entry"])
    assert shown(found.reasons) == [(case["code"], "1", case["message"])]
    assert found.is_refused


@pytest.mark.parametrize("case", VALUES["acceptable"], ids=str)
def test_value_that_comfyui_may_accept_is_no_reason(case: dict[str, Any]) -> None:
    assert verdict_on(**case) == Verdict((), False, True)


def test_absent_inputs_and_sources_are_reasons() -> None:
    graph = {
        "1": {"class_type": "Sampler", "inputs": {"model": ["8", 0]}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "Sampler", "inputs": {}},
    }
    entries = {"model": ["MODEL"], "steps": ["INT"], "sizes": ["COMFY_AUTOGROW_V3", {}]}
    sampler = described({"required": entries, "optional": {"mask": ["MASK"]}})
    found = Judge(graph, {"Sampler": sampler, "Save": described(SAVE, is_output=True)}).verdict()
    # ComfyUI does not check node 3, which leads to no output.
    assert shown(found.reasons) == [
        ("input_missing", "1", "model is linked to node 8, which does not exist."),
        ("input_missing", "1", "Required input is missing: steps"),
    ]
    assert found.is_refused


def test_missing_class_is_a_reason_also_where_it_leads_to_no_output() -> None:
    graph = {
        "1": {"class_type": "Mine", "inputs": {}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
    }
    save = described({"required": {}}, is_output=True)
    found = Judge(graph, {"Mine": None, "Save": save}).verdict()
    assert [(one.code, one.node_id, one.nearest()) for one in found.reasons] == [
        ("node_missing", "1", [])
    ]
    assert found == Verdict(found.reasons, is_refused=True, is_known=True)
    assert Judge(graph, {"Save": save}).verdict() == Verdict((), False, False)


@pytest.mark.parametrize("other", [described(SAVE, is_output=True), "not known"])
def test_workflow_is_executed_in_part_if_an_output_is_valid(other: Any) -> None:
    graph = {
        "1": {"class_type": "Loader", "inputs": {"x": "no.ckpt"}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "Loader", "inputs": {"x": "a.ckpt"}},
        "4": {"class_type": "Other", "inputs": {"images": ["3", 0]}},
    }
    loader = described({"required": {"x": [["a.ckpt"]]}})
    classes: dict[str, NodeClass | None] = {
        "Loader": loader,
        "Save": described(SAVE, is_output=True),
    }
    if isinstance(other, NodeClass):
        classes["Other"] = other
    found = Judge(graph, classes).verdict()
    assert [one.node_id for one in found.reasons] == ["1"]
    assert not found.is_refused
    # The node of an unknown class needs the invalid one: it is no valid output either.
    graph["4"]["inputs"]["images"] = ["1", 0]
    assert Judge(graph, classes).verdict().is_refused


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"input": [], "output_node": True},
        {"input": {}, "output_node": "yes"},
        {"input": None, "output_node": False},
    ],
)
def test_description_of_another_shape_is_not_known(lie: dict[str, Any]) -> None:
    assert node_class(lie) is None


def test_odd_inputs_of_a_description_are_left_out() -> None:
    odd = {"a": [], "b": None, "c": [3], "d": "INT", "e": ["INT", 4]}
    known = described({"required": odd, "optional": 5, "hidden": {"f": ["INT"]}})
    assert list(known.inputs) == ["e"]


def test_reasons_and_their_texts_are_bounded() -> None:
    graph = {str(n): {"class_type": "x" * 10_000, "inputs": {}} for n in range(1_000)}
    found = Judge(graph, {"x" * 10_000: None}).verdict()
    assert len(found.reasons) == inventory.MAX_REASONS
    assert len(found.reasons[0].message) < 300
