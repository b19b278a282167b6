import contextlib
import copy
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from jobgroups.workflow import (
    TextInvalid,
    WorkflowInvalid,
    build_template,
    check_text,
    check_workflow,
    is_link,
    node_title,
    with_seed,
)
from jobgroups.workflow.seed_inputs import NO_SEED
from jobgroups.workflow.validation import MAX_DEPTH, shown_key
from tests.harness.graphs import node

SEED_INPUTS = json.loads(Path(__file__).with_name("seed_inputs.json").read_text())


def test_workflow_is_accepted() -> None:
    for odd in ({"_meta": None, "is_changed": [1]}, {}):
        check_workflow({"a:1": node() | odd, "nodes": node(), "links": node(), "prompt": node()})


_ODD_KEY = ({"\x00\ud800" + "k" * 500: 1}, ".??" + "k" * 62, "")


@pytest.mark.parametrize(
    ("workflow", "field", "message"),
    [
        _ODD_KEY,
        *[
            [None, "", "an object of node ids"],
            [[], "", "an object of node ids"],
            ["{}", "", "an object of node ids"],
            [3, "", "an object of node ids"],
            [True, "", "an object of node ids"],
            [[["3", {}]], "", "an object of node ids"],
            [{}, "", "at least one node"],
            [
                {
                    "last_node_id": 9,
                    "nodes": [{"id": 3, "type": "KSampler"}],
                    "links": [],
                    "version": 0.4,
                },
                "",
                "POST /api/workflows/convert",
            ],
            [{"nodes": [], "links": []}, "", "POST /api/workflows/convert"],
            [{"nodes": {}, "links": {}}, "", "POST /api/workflows/convert"],
            [
                {"prompt": {"3": {"class_type": "KSampler", "inputs": {}}}, "client_id": "a"},
                "",
                'inside "prompt"',
            ],
            [
                {"3": {"class_type": "KSampler", "inputs": {}}, "7": "KSampler"},
                ".7",
                "must be an object",
            ],
            [{"3": {"class_type": "KSampler", "inputs": {}}, "7": None}, ".7", "must be an object"],
            [{"3": {"class_type": "KSampler", "inputs": {}}, "7": []}, ".7", "must be an object"],
            [{"7": {"inputs": {}}}, ".7.class_type", "the name of the node's class"],
            [
                {"7": {"class_type": ["KSampler"], "inputs": {}}},
                ".7.class_type",
                "the name of the node's class",
            ],
            [
                {"7": {"class_type": "", "inputs": {}}},
                ".7.class_type",
                "the name of the node's class",
            ],
            [{"7": {"class_type": "KSampler"}}, ".7.inputs", "Must be an object, empty"],
            [
                {"7": {"class_type": "KSampler", "inputs": None}},
                ".7.inputs",
                "Must be an object, empty",
            ],
            [
                {"7": {"class_type": "KSampler", "inputs": []}},
                ".7.inputs",
                "Must be an object, empty",
            ],
        ],
    ],
)
def test_invalid_workflow_is_refused_with_its_path(
    workflow: object, field: str, message: str
) -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        check_workflow(workflow)
    assert caught.value.field == f"workflow_json{field}"
    assert message in caught.value.message
    assert shown_key("Größe 3.1") == "Größe 3.1"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\x00b", ""),
        ({"scene": ["ok", {"shot": "\ud83d"}]}, ".scene.1.shot"),
        ({"a\x00": 1}, ""),
        ({"deep": {"\udfff": 1}}, ".deep"),
        ([[float("inf")]], ".0.0"),
        ([float("nan")], ".0"),
        # As json.loads returns them.
        *((json.loads(text), "") for text in (r'"\ud83d"', r'"\u0000"', "1e999")),
        ([["fine"], {"first": ["\x00"]}, {"late": "\x00"}], ".1.first.0"),
    ],
)
def test_unstorable_value_is_refused_with_its_path(value: object, path: str) -> None:
    with pytest.raises(TextInvalid) as caught:
        check_text(value, field="metadata")
    assert caught.value.field == f"metadata{path}"
    caught.value.field.encode()
    caught.value.message.encode()


@pytest.mark.parametrize(
    "value", ["🎬", json.loads(r'"\ud83c\udfac"'), {"\x01": "\x7f"}, None, 1.5, True]
)
def test_surrogate_pairs_and_control_characters_are_accepted(value: object) -> None:
    check_text(value, field="metadata")


def test_nesting_above_the_limit_is_refused_without_recursion() -> None:
    value: Any = "end"
    for _ in range(200_000):
        value = [value]
    with pytest.raises(TextInvalid, match="nested"):
        check_text(value, field="metadata")
    while isinstance(value, list):  # Taken apart here, as freeing it whole would recurse.
        value = value.pop()
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        value = json.loads('{"a":' * depth + "1" + "}" * depth)
        with contextlib.nullcontext() if depth == MAX_DEPTH else pytest.raises(TextInvalid):
            check_text(value, field="metadata")


def test_check_text_takes_no_memory_for_each_element() -> None:
    """A body of 16 MB has up to 8 million elements; a tuple for each of them took 1.4 GB."""
    elements: list[object] = [1, "a", 1.5, [], [1], {"a": 1}]
    value = {"a": [[element] * 10_000 for element in elements]}
    tracemalloc.start()
    try:
        check_text(value, field="metadata")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**10


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
)


@given(json_values)
def test_accepted_value_can_be_written_as_strict_json(value: object) -> None:
    try:
        check_text(value, field="x")
    except TextInvalid:
        return
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode().decode()) == value
    assert "\\u0000" not in text


def test_link_is_a_node_id_and_a_slot() -> None:
    assert all(map(is_link, (["6", 0], ["a:1", 2])))
    assert not any(map(is_link, (["6"], [6, 0], [], "6", {"6": 0})))


@pytest.mark.parametrize("meta", [None, "Title", {"title": 3}, {"title": ""}, {}])
def test_invalid_title_is_none(meta: object) -> None:
    assert node_title({"class_type": "X", "inputs": {}, "_meta": meta}) is None


@pytest.mark.parametrize("case", SEED_INPUTS["found"].values(), ids=SEED_INPUTS["found"])
def test_seed_inputs_of_a_workflow(case: dict[str, Any]) -> None:
    template = build_template(case["workflow"], case.get("parameters"))
    assert [list(slot) for slot in template.seed_slots] == case["seed_slots"]
    assert template.warnings == (() if case["seed_slots"] else (NO_SEED,))
    expected = copy.deepcopy(template.workflow)
    for node_id, name in case["seed_slots"]:
        expected[node_id]["inputs"][name] = 99
    assert with_seed(template, 99) == expected


@pytest.mark.parametrize(
    "workflow",
    SEED_INPUTS["linked and not settable"].values(),
    ids=SEED_INPUTS["linked and not settable"],
)
def test_linked_seed_that_cannot_be_set_stays_with_a_warning(workflow: dict[str, Any]) -> None:
    template = build_template(workflow)
    assert with_seed(template, 99) == workflow
    assert "node 9" in template.warnings[0]
    assert template.warnings[1:] == (NO_SEED,)


def test_long_chain_of_links_costs_linear_time() -> None:
    chain = {str(n): node("Reroute", value=[str(n + 1), 0]) for n in range(20_000)}
    samplers = {f"s{n}": node(seed=["0", 0]) for n in range(20_000)}
    started = time.process_time()
    build_template({**samplers, **chain, "20000": node("PrimitiveInt", value=5)})
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", ["seed", "noise_seed"])
@pytest.mark.parametrize("value", [7, "seven", None, ["1", 0]])
def test_plain_seed_is_ignored_with_a_warning(name: str, value: object) -> None:
    template = build_template({"3": node(seed=1, noise_seed=2)}, {name: value})
    assert len(template.warnings) == 1
    assert template.warnings[0].startswith(f'The parameter "{name}" is ignored: every job has')
    assert with_seed(template, 99)["3"]["inputs"] == {"seed": 99, "noise_seed": 99}


def test_arguments_and_the_order_of_keys_stay_and_nodes_without_a_seed_are_shared() -> None:
    workflow = {
        "9": node("Loader", ckpt_name="a"),
        "3": node(steps=20, seed=1, model=["9", 0], cfg=7.0),
    }
    workflow["3"]["z"] = workflow["3"].pop("inputs")
    workflow["3"]["inputs"] = workflow["3"].pop("z")
    before = copy.deepcopy(workflow)
    template = build_template(workflow, {"steps": 30, "3.cfg": 8.0})
    kept = copy.deepcopy(template.workflow)
    made = with_seed(template, 99)
    assert with_seed(template, 100)["9"] is made["9"] is workflow["9"]
    assert workflow == before
    assert template.workflow == kept
    assert json.dumps(made) == json.dumps(workflow).replace('"steps": 20', '"steps": 30').replace(
        '"cfg": 7.0', '"cfg": 8.0'
    ).replace('"seed": 1', '"seed": 99')
