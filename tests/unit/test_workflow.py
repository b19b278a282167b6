"""What is refused as a workflow, and where a child's seed goes."""

from __future__ import annotations

import copy
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def node(class_type: str = "KSampler", title: str | None = None, **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return made if title is None else {**made, "_meta": {"title": title}}


REFERENCE_EXAMPLE: dict[str, Any] = {
    "3": node(
        seed=42,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        positive="A cinematic cityscape at night",
        negative="blurry, low quality",
        latent_image={"filename": "batch_0"},
    )
}


def refusal(workflow: object) -> WorkflowInvalid:
    with pytest.raises(WorkflowInvalid) as caught:
        check_workflow(workflow)
    return caught.value


# --- check_workflow


def test_the_references_example_is_accepted() -> None:
    check_workflow(REFERENCE_EXAMPLE)


def test_a_node_without_any_input_and_odd_extras_is_accepted() -> None:
    check_workflow({"a:1": {"class_type": "X", "inputs": {}, "_meta": None, "is_changed": [1]}})


@pytest.mark.parametrize("workflow", [None, [], "{}", 3, True, [["3", {}]]])
def test_what_is_no_object_is_refused(workflow: object) -> None:
    assert refusal(workflow).field == "workflow_json"


def test_an_empty_object_is_refused() -> None:
    assert "at least one node" in refusal({}).message


@pytest.mark.parametrize(
    "workflow",
    [
        {"last_node_id": 9, "nodes": [{"id": 3, "type": "KSampler"}], "links": [], "version": 0.4},
        {"nodes": [], "links": []},
        {"nodes": {}, "links": {}},
    ],
)
def test_the_editors_format_is_told_how_to_export(workflow: object) -> None:
    refused = refusal(workflow)
    assert refused.field == "workflow_json"
    assert '"Save (API format)"' in refused.message


def test_nodes_whose_ids_are_nodes_and_links_are_accepted() -> None:
    check_workflow({"nodes": node(), "links": node()})


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ("KSampler", "workflow_json.7"),
        (None, "workflow_json.7"),
        ([], "workflow_json.7"),
        ({"inputs": {}}, "workflow_json.7.class_type"),
        ({"class_type": ["KSampler"], "inputs": {}}, "workflow_json.7.class_type"),
        ({"class_type": "", "inputs": {}}, "workflow_json.7.class_type"),
        ({"class_type": "KSampler"}, "workflow_json.7.inputs"),
        ({"class_type": "KSampler", "inputs": None}, "workflow_json.7.inputs"),
        ({"class_type": "KSampler", "inputs": []}, "workflow_json.7.inputs"),
    ],
)
def test_a_broken_node_is_refused_with_its_path(broken: object, field: str) -> None:
    assert refusal({"3": node(), "7": broken}).field == field


def test_the_path_of_an_odd_key_is_printable_and_short() -> None:
    field = refusal({"\x00\ud800" + "k" * 500: 1}).field
    assert field == "workflow_json.??" + "k" * 62
    assert shown_key("Größe 3.1") == "Größe 3.1"


# --- check_text


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\x00b", "metadata"),
        ({"scene": ["ok", {"shot": "\ud83d"}]}, "metadata.scene.1.shot"),
        ({"a\x00": 1}, "metadata"),
        ({"deep": {"\udfff": 1}}, "metadata.deep"),
        ([[float("inf")]], "metadata.0.0"),
        ([float("nan")], "metadata.0"),
    ],
)
def test_text_that_cannot_be_stored_is_refused_with_its_path(value: object, path: str) -> None:
    with pytest.raises(TextInvalid) as caught:
        check_text(value, field="metadata")
    assert caught.value.field == path
    caught.value.field.encode()
    caught.value.message.encode()


def test_lone_surrogates_and_infinity_come_out_of_json_as_such() -> None:
    """That is how they reach the check: as escapes and as a number too large."""
    for text in (r'"\ud83d"', r'"\u0000"', "1e999"):
        with pytest.raises(TextInvalid):
            check_text(json.loads(text), field="metadata")


@pytest.mark.parametrize(
    "value", ["🎬", json.loads(r'"\ud83c\udfac"'), {"\x01": "\x7f"}, None, 1.5, True]
)
def test_pairs_of_surrogates_and_control_characters_are_accepted(value: object) -> None:
    check_text(value, field="metadata")


def test_a_value_nested_without_end_is_refused_and_exhausts_nothing() -> None:
    value: Any = "end"
    for _ in range(200_000):
        value = [value]
    with pytest.raises(TextInvalid, match="nested"):
        check_text(value, field="metadata")
    while isinstance(value, list):  # Taken apart here, as freeing it whole would recurse.
        value = value.pop()


@pytest.mark.parametrize(("depth", "accepted"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_nesting_is_accepted_up_to_the_limit(depth: int, accepted: bool) -> None:
    value = json.loads('{"a":' * depth + "1" + "}" * depth)
    if accepted:
        check_text(value, field="metadata")
        return
    with pytest.raises(TextInvalid):
        check_text(value, field="metadata")


def test_check_text_takes_no_memory_for_each_element() -> None:
    """A body of 16 MB has up to 8 million elements; a tuple for each of them took 1.4 GB."""
    elements: list[object] = [1, "a", 1.5, [], [1], {"a": 1}]
    value = {"a": [[element] * 50_000 for element in elements]}
    tracemalloc.start()
    try:
        check_text(value, field="metadata")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**10


def test_check_text_names_the_outermost_of_several_and_the_first_of_its_level() -> None:
    value = [{"deep": ["\x00"]}, [1, {"x": "\x00"}], [1, "\x00"], {"late": "\x00"}]
    with pytest.raises(TextInvalid) as caught:
        check_text(value, field="metadata")
    assert caught.value.field == "metadata.2.1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
)


@given(json_values)
def test_what_passes_can_be_written_as_strict_json_in_utf8_without_nul(value: object) -> None:
    try:
        check_text(value, field="x")
    except TextInvalid:
        return
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    assert json.loads(text.encode().decode()) == value
    assert "\\u0000" not in text


# --- graph


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["6", 0], True),
        (["a:1", 2], True),
        (["6"], False),
        ([6, 0], False),
        ([], False),
        ("6", False),
        ({"6": 0}, False),
    ],
)
def test_a_link_is_a_node_id_and_a_slot(value: object, expected: bool) -> None:
    assert is_link(value) is expected


@pytest.mark.parametrize("meta", [None, "Title", {"title": 3}, {"title": ""}, {}])
def test_a_node_without_a_proper_title_has_none(meta: object) -> None:
    assert node_title({"class_type": "X", "inputs": {}, "_meta": meta}) is None


# --- seeds


def seeded(workflow: dict[str, Any], parameters: object = None, seed: int = 99) -> dict[str, Any]:
    return with_seed(build_template(workflow, parameters), seed)


def test_every_literal_seed_is_set_whatever_the_class() -> None:
    workflow = {
        "1": node("KSampler", seed=1),
        "2": node("SomebodysOwn", noise_seed=2, seed="randomize"),
        "3": node("RandomNoise", noise_seed=None),
        "4": node("SaveImage", seeds=5),
    }
    made = seeded(workflow)
    assert made["1"]["inputs"] == {"seed": 99}
    assert made["2"]["inputs"] == {"noise_seed": 99, "seed": 99}
    assert made["3"]["inputs"] == {"noise_seed": 99}
    assert made["4"]["inputs"] == {"seeds": 5}
    assert build_template(workflow).warnings == ()


def test_a_linked_seed_is_set_at_the_integer_that_only_seeds_read() -> None:
    workflow = {
        "1": node(seed=["9", 0]),
        "2": node("RandomNoise", noise_seed=["9", 0]),
        "9": node("PrimitiveInt", value=5, control="fixed", ratio=0.5, on=True),
    }
    prepared = build_template(workflow)
    assert prepared.seed_slots == (("9", "value"),)
    assert prepared.warnings == ()
    made = with_seed(prepared, 99)
    assert made["9"]["inputs"] == {"value": 99, "control": "fixed", "ratio": 0.5, "on": True}
    assert made["1"]["inputs"]["seed"] == ["9", 0]


@pytest.mark.parametrize(
    ("source", "others"),
    [
        (node("PrimitiveInt", value=5), {"2": node("EmptyLatentImage", width=["9", 0])}),
        (node("Pair", value=5, other=6), {}),
        (node("Text", value="5"), {}),
        (node("Reroute", value=["8", 0]), {"8": node("PrimitiveInt", value=5, other=6)}),
        # Something else reads the integer at the end of the chain, or a node of the chain.
        (
            node("Reroute", value=["8", 0]),
            {"8": node("PrimitiveInt", value=5), "2": node("EmptyLatentImage", width=["8", 0])},
        ),
        (
            node("Reroute", value=["8", 0]),
            {"8": node("PrimitiveInt", value=5), "2": node("EmptyLatentImage", width=["9", 0])},
        ),
        (
            node("Reroute", value=["8", 0]),
            {
                "8": node("PrimitiveInt", value=5),
                "7": node("Reroute", value=["8", 0]),
                "2": node("EmptyLatentImage", width=["7", 0]),
            },
        ),
        (node("Sum", a=["8", 0], b=["8", 0]), {"8": node("PrimitiveInt", value=5)}),
        (node("Reroute", value=["9", 0]), {}),
    ],
)
def test_a_linked_seed_that_cannot_be_set_is_left_with_a_warning(
    source: dict[str, Any], others: dict[str, Any]
) -> None:
    workflow = {"1": node(seed=["9", 0]), **others, "9": source}
    prepared = build_template(workflow)
    assert with_seed(prepared, 99) == workflow
    assert "node 9" in prepared.warnings[0]
    assert prepared.warnings[1:] == (NO_SEED,)


def test_a_linked_seed_is_followed_through_nodes_that_pass_it_on() -> None:
    workflow = {
        "1": node(seed=["9", 0]),
        "2": node("RandomNoise", noise_seed=["6", 0]),
        "9": node("PrimitiveInt", value=["8", 0], control_after_generate="fixed"),
        "6": node("Reroute", value=["9", 0]),
        "8": node("PrimitiveInt", value=5),
    }
    prepared = build_template(workflow)
    assert prepared.seed_slots == (("8", "value"),)
    assert prepared.warnings == ()
    made = with_seed(prepared, 99)
    assert made["8"]["inputs"] == {"value": 99}
    assert made["9"]["inputs"]["value"] == ["8", 0]


def test_a_long_chain_of_links_costs_no_more_than_its_length() -> None:
    chain = {str(n): node("Reroute", value=[str(n + 1), 0]) for n in range(20_000)}
    samplers = {f"s{n}": node(seed=["0", 0]) for n in range(20_000)}
    started = time.monotonic()
    build_template({**samplers, **chain, "20000": node("PrimitiveInt", value=5)})
    assert time.monotonic() - started < 5


def test_a_link_to_a_seed_node_needs_nothing_but_that_nodes_seed() -> None:
    workflow = {"1": node(seed=["9", 0]), "9": node("Seed Everywhere", seed=5, step=3)}
    prepared = build_template(workflow)
    assert prepared.seed_slots == (("9", "seed"),)
    assert prepared.warnings == ()


@pytest.mark.parametrize("link", [["nowhere", 0], [9, 0], ["1"]])
def test_a_seed_linked_to_nothing_is_left_to_comfyui_to_refuse(link: list[Any]) -> None:
    assert build_template({"1": node(seed=link)}).warnings == (NO_SEED,)


def test_a_graph_without_any_seed_is_warned_about() -> None:
    workflow = {"1": node("LoadImage", image="a.png")}
    prepared = build_template(workflow)
    assert prepared.warnings == (NO_SEED,)
    assert with_seed(prepared, 99) == workflow


def test_an_addressed_seed_pins_that_node_and_no_other() -> None:
    workflow = {"3": node(seed=1, noise_seed=2), "4": node(seed=3)}
    prepared = build_template(workflow, {"3.seed": 7})
    assert prepared.warnings == ()
    made = with_seed(prepared, 99)
    assert made["3"]["inputs"] == {"seed": 7, "noise_seed": 2}
    assert made["4"]["inputs"] == {"seed": 99}


def test_pinning_the_only_seed_is_warned_about() -> None:
    prepared = build_template({"3": node(seed=1)}, {"3": {"seed": 7}})
    assert prepared.warnings == (NO_SEED,)
    assert with_seed(prepared, 99)["3"]["inputs"] == {"seed": 7}


def test_an_addressed_integer_behind_a_linked_seed_is_pinned_too() -> None:
    workflow = {"1": node(seed=["9", 0]), "9": node("PrimitiveInt", value=5), "2": node(seed=1)}
    made = seeded(workflow, {"9.value": 7})
    assert made["9"]["inputs"] == {"value": 7}
    assert made["2"]["inputs"] == {"seed": 99}


@pytest.mark.parametrize("name", ["seed", "noise_seed"])
@pytest.mark.parametrize("value", [7, "seven", None, ["1", 0]])
def test_a_plain_seed_is_ignored_with_a_warning(name: str, value: object) -> None:
    prepared = build_template({"3": node(seed=1, noise_seed=2)}, {name: value})
    assert len(prepared.warnings) == 1
    assert prepared.warnings[0].startswith(f'The parameter "{name}" is ignored: every job has')
    assert with_seed(prepared, 99)["3"]["inputs"] == {"seed": 99, "noise_seed": 99}


# --- copies


def test_nothing_given_is_changed_and_the_order_of_keys_stays() -> None:
    workflow = {
        "9": node("Loader", ckpt_name="a"),
        "3": node(steps=20, seed=1, model=["9", 0], cfg=7.0),
    }
    workflow["3"]["z"] = workflow["3"].pop("inputs")
    workflow["3"]["inputs"] = workflow["3"].pop("z")
    before = copy.deepcopy(workflow)
    prepared = build_template(workflow, {"steps": 30, "3.cfg": 8.0})
    kept = copy.deepcopy(prepared.workflow)
    made = with_seed(prepared, 99)
    with_seed(prepared, 100)
    assert workflow == before
    assert prepared.workflow == kept
    assert json.dumps(made) == json.dumps(workflow).replace('"steps": 20', '"steps": 30').replace(
        '"cfg": 7.0', '"cfg": 8.0'
    ).replace('"seed": 1', '"seed": 99')


def test_untouched_nodes_are_shared_and_not_copied() -> None:
    workflow = {"9": node("Loader", ckpt_name="a"), "3": node(seed=1)}
    prepared = build_template(workflow)
    made = with_seed(prepared, 99)
    assert made["9"] is prepared.workflow["9"] is workflow["9"]
    assert made["3"] is not workflow["3"]


def test_children_differ_in_their_seed_alone() -> None:
    prepared = build_template(REFERENCE_EXAMPLE, {"steps": 25, "cfg_scale": 6.5})
    one, other = with_seed(prepared, 1), with_seed(prepared, 2)
    assert one["3"]["inputs"].pop("seed") == 1
    assert other["3"]["inputs"].pop("seed") == 2
    assert one == other
    assert (one["3"]["inputs"]["steps"], one["3"]["inputs"]["cfg"]) == (25, 6.5)
