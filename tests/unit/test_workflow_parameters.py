"""Parameters of a workflow, and the digest that identifies it for timings."""

import copy
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobgroups import workflow
from jobgroups.workflow import ParameterInvalid, build_template
from jobgroups.workflow.digest import CONTENT_INPUTS
from jobgroups.workflow.parameters import INTEGER_INPUTS
from jobgroups.workflow.template import MAX_WARNINGS
from tests.harness.graphs import node

WORKFLOW: dict[str, Any] = {
    "3": node(title="First pass", seed=1, steps=20, cfg=7.0, sampler_name="euler"),
    "4": node(title="Twice", seed=1, steps=10, cfg=["8", 0]),
    "5": node("CLIPTextEncode", title="Twice", text="a cat", clip=["8", 1]),
    "6": node("Blend v1.5", title="Blend v1.5", time_embed=0.5, on=True, box={"x": 1}),
    "8": node("Odd", **{"time_embed.": 0.5, "value": None, "ratio": 7}),
    "3.1": node("Sub", steps=5, title="3"),
}


def patched(parameters: object) -> dict[str, dict[str, Any]]:
    return {
        key: each["inputs"] for key, each in build_template(WORKFLOW, parameters).workflow.items()
    }


def changes(parameters: object) -> dict[str, Any]:
    """What differs from the workflow, as ``{"3.steps": 30}``."""
    return {
        f"{key}.{name}": value
        for key, inputs in patched(parameters).items()
        for name, value in inputs.items()
        if value != WORKFLOW[key]["inputs"][name]
        or type(value) is not type(WORKFLOW[key]["inputs"][name])
    }


def warnings(parameters: object) -> tuple[str, ...]:
    return build_template(WORKFLOW, parameters).warnings


def refusal(parameters: object) -> ParameterInvalid:
    with pytest.raises(ParameterInvalid) as caught:
        build_template(WORKFLOW, parameters)
    return caught.value


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, {}),
        *[
            [{}, {}],
            [{"steps": 30}, {"3.steps": 30, "4.steps": 30, "3.1.steps": 30}],
            [{"cfg": 5.0}, {"3.cfg": 5.0}],
            [{"3.steps": 30}, {"3.steps": 30}],
            [{"3.1.steps": 30}, {"3.1.steps": 30}],
            [{"3": {"steps": 30, "cfg": 5.0}}, {"3.steps": 30, "3.cfg": 5.0}],
            [{"3.1": {"steps": 30}}, {"3.1.steps": 30}],
            [{"First pass.steps": 30}, {"3.steps": 30}],
            [{"First pass": {"steps": 30}}, {"3.steps": 30}],
            [{"Blend v1.5.on": False}, {"6.on": False}],
            [{"Blend v1.5": {"on": False}}, {"6.on": False}],
            [{"time_embed.": 0.7}, {"8.time_embed.": 0.7}],
            [{"box": {"x": 2}}, {"6.box": {"x": 2}}],
            [{"6.box": {"x": 2}}, {"6.box": {"x": 2}}],
            [{"6": {}}, {}],
        ],
    ],
)
def test_parameters_set_what_they_name(parameters: object, expected: dict[str, Any]) -> None:
    assert changes(parameters) == expected
    assert warnings(parameters) == ()


def test_an_addressed_parameter_has_the_last_word_in_any_order() -> None:
    for parameters in ({"steps": 30, "3.steps": 40}, {"3.steps": 40, "steps": 30}):
        assert changes(parameters) == {"3.steps": 40, "4.steps": 30, "3.1.steps": 30}


@pytest.mark.parametrize("parameters", [{"Twice.steps": 30}, {"Twice": {"steps": 30}}])
def test_a_title_that_two_nodes_have_is_refused(parameters: object) -> None:
    assert "2 nodes have this title" in refusal(parameters).message


@pytest.mark.parametrize("parameters", [{"clip": "x"}, {"4.cfg": 5.0}, {"4": {"cfg": 5.0}}])
def test_a_link_is_never_overwritten(parameters: object) -> None:
    assert changes(parameters) == {}
    [warning] = warnings(parameters)
    assert "is a link" in warning


@pytest.mark.parametrize(
    "parameters",
    [
        {"stepz": 3},
        {"3.stepz": 3},
        {"99.steps": 3},
        {"": 3},
        {".": 3},
        {"3.": 3},
        {".steps": 3},
        {"Steps": 3},
        {"99": {"steps": 3}},
        {"3": 20},
    ],
)
def test_what_matches_nothing_comes_back_as_a_warning(parameters: dict[str, Any]) -> None:
    assert changes(parameters) == {}
    [warning] = warnings(parameters)
    assert warning.startswith(f'The parameter "{next(iter(parameters))}')
    assert "matches no input" in warning


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"cfg_scale": 5.0}, {"3.cfg": 5.0}),
        ({"guidance_scale": 5.0}, {"3.cfg": 5.0}),
        ({"sampler": "dpmpp_2m"}, {"3.sampler_name": "dpmpp_2m"}),
        ({"3.cfg_scale": 5.0}, {"3.cfg": 5.0}),
        ({"3": {"num_inference_steps": 5}}, {"3.steps": 5}),
    ],
)
def test_names_used_elsewhere_are_understood(parameters: object, expected: dict[str, Any]) -> None:
    assert changes(parameters) == expected
    assert warnings(parameters) == ()


def test_the_exact_name_goes_before_what_it_means_elsewhere_unless_it_is_a_link() -> None:
    workflow = {"1": node(cfg=7.0, seed=1), "2": node("Other", cfg_scale=7.0)}
    made = build_template(workflow, {"cfg_scale": 5.0}).workflow
    assert [made["1"]["inputs"]["cfg"], made["2"]["inputs"]["cfg_scale"]] == [7.0, 5.0]
    workflow = {"1": node(sampler=["2", 0]), "2": node("KSamplerSelect", sampler_name="euler")}
    made = build_template(workflow, {"sampler": "heun"}).workflow
    assert made["2"]["inputs"]["sampler_name"] == "heun"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("3.steps", "20"),
        ("3.steps", 20.0),
        ("3.steps", 20.5),
        ("3.steps", True),
        ("3.steps", None),
        ("3.steps", ["8", 0]),
        ("3.steps", {"value": 20}),
        ("3.cfg", "7"),
        ("3.cfg", False),
        ("6.on", 1),
        ("6.on", "true"),
        ("3.seed", 1.5),
        ("text", 5),
        ("6.box", "x"),
        ("8.value", ["3", 0]),
        ("8.ratio", "7"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    refused = refusal({name: value})
    assert refused.field == f"parameters.{name}"
    assert refused.message.startswith("Must be ")


def test_the_refusal_names_the_kind_and_the_node_but_not_the_value() -> None:
    assert str(refusal({"3.steps": "secret"})) == (
        "parameters.3.steps: Must be an integer, as it is in node 3."
    )
    assert refusal({"3": {"cfg": "secret"}}).field == "parameters.3.cfg"


@pytest.mark.parametrize(
    ("name", "value"),
    [("3.cfg", 5), ("8.ratio", 7.5), ("8.value", 5), ("8.value", "x"), ("8.value", None)],
)
def test_a_value_of_a_like_kind_is_taken_as_it_is(name: str, value: object) -> None:
    key, _, inner = name.rpartition(".")
    made = patched({name: value})[key][inner]
    assert made == value
    assert type(made) is type(value)


def test_an_input_that_takes_whole_numbers_takes_no_float() -> None:
    for name in INTEGER_INPUTS:
        with pytest.raises(ParameterInvalid):
            build_template({"1": node(**{name: 4})}, {f"1.{name}": 4.5})


@pytest.mark.parametrize("parameters", [[], "steps", 3, True, ["steps", 3]])
def test_parameters_that_are_no_object_are_refused(parameters: object) -> None:
    assert refusal(parameters).field == "parameters"


def test_warnings_without_number_are_cut() -> None:
    found = warnings({f"unknown{number}": 1 for number in range(5000)})
    assert len(found) == MAX_WARNINGS + 1
    assert "4950 more" in found[-1]


def test_a_warning_repeats_no_unprintable_or_endless_name() -> None:
    [warning] = warnings({"\n\x00" + "k" * 10_000: 1})
    assert warning.isprintable()
    assert len(warning) < 200


GRAPH: dict[str, Any] = {
    "4": node("CheckpointLoaderSimple", "Model", ckpt_name="sdxl.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=512),
    "6": node("CLIPTextEncode", text="a city", clip=["4", 1]),
    "11": node("PrimitiveInt", value=3),
    "3": node("KSampler", seed=42, steps=20, cfg=7.0, sampler_name="euler", model=["4", 0]),
    "12": node("RandomNoise", noise_seed=["11", 0]),
    "9": node("SaveImage", images=["3", 0], filename_prefix="out"),
}


def _digest(graph: dict[str, Any] | None = None, **parameters: Any) -> str:
    return workflow.build_template(GRAPH if graph is None else graph, parameters).digests[0]


def _with(node_id: str, name: str, value: Any) -> dict[str, Any]:
    graph = copy.deepcopy(GRAPH)
    graph[node_id]["inputs"][name] = value
    return graph


def test_it_is_16_hex_digits_that_stay_the_same_from_release_to_release() -> None:
    assert _digest() == "5286e4c372140c71"


@pytest.mark.parametrize(
    ("node_id", "name", "value"),
    [
        ("3", "seed", 7),
        ("11", "value", 4),
        ("6", "text", "another prompt"),
        ("9", "filename_prefix", "shot_002"),
        ("3", "cfg", 7),
        ("9", "note", "of several\nlines"),
        ("9", "wildcards", "long " * 60),
    ],
)
def test_seeds_and_content_do_not_count(node_id: str, name: str, value: Any) -> None:
    graph = copy.deepcopy(GRAPH)
    graph[node_id]["inputs"].setdefault(name, "x\ny")
    first = _digest(graph)
    graph[node_id]["inputs"][name] = value
    assert _digest(graph) == first


@pytest.mark.parametrize(
    ("node_id", "name", "value"),
    [
        ("3", "steps", 21),
        ("3", "cfg", 7.5),
        ("3", "sampler_name", "heun"),
        ("3", "model", ["4", 2]),
        ("3", "tiled", True),
        ("4", "ckpt_name", "sd15.safetensors"),
        ("5", "width", 1024),
        ("12", "noise_seed", ["3", 0]),
    ],
)
def test_what_decides_how_long_it_takes_counts(node_id: str, name: str, value: Any) -> None:
    assert _digest(_with(node_id, name, value)) != _digest()


def test_titles_and_the_order_of_keys_do_not_count_and_classes_do() -> None:
    graph = {
        key: node(each["class_type"], "Another", **dict(reversed(each["inputs"].items())))
        for key, each in reversed(GRAPH.items())
    }
    assert _digest(graph) == _digest()
    graph["5"]["class_type"] = "EmptySD3LatentImage"
    assert _digest(graph) != _digest()


def test_a_seed_that_a_parameter_pins_does_not_count_and_other_parameters_do() -> None:
    assert _digest(**{"3.seed": 5}) == _digest()
    assert _digest(steps=30) == _digest(_with("3", "steps", 30)) != _digest()


def test_what_comfyuis_own_nodes_take_as_free_text_is_content() -> None:
    recorded = Path(__file__).parents[2] / "backends" / "simulator" / "object_info.json.gz"
    nodes = json.loads(gzip.decompress(recorded.read_bytes())).values()
    kinds: dict[str, set[str]] = {}
    for each in nodes:
        for inputs in (each["input"].get("required"), each["input"].get("optional")):
            for name, spec in (inputs or {}).items():
                kind = spec[0] if isinstance(spec[0], str) else "COMBO"
                kinds.setdefault(name, set()).add(kind)
    free = {name for name, found in kinds.items() if "STRING" in found and "COMBO" not in found}
    # These are numbers of layers, written as text.
    assert free - {"layers", "single_layers", "double_layers"} <= CONTENT_INPUTS


def test_digest_of_models_counts_the_names_of_model_files_alone() -> None:
    found = workflow.models_digest(GRAPH)
    assert len(found) == 16
    assert workflow.models_digest(_with("3", "steps", 90)) == found
    assert workflow.models_digest(_with("6", "again", "sdxl.safetensors")) == found
    assert workflow.models_digest(_with("4", "ckpt_name", "SD15.CKPT")) not in (found, "")
    assert workflow.models_digest(_with("4", "ckpt_name", "a.png")) == ""


def test_origins_do_not_depend_on_ids_and_contain_all_that_comes_before() -> None:
    def graph(first: str, second: str, steps: float, text: str) -> dict[str, Any]:
        return {
            second: node("Save", images=[first, 0], prefix="a"),
            first: node("Draw", steps=steps, text=text),
        }

    found = workflow.origins(graph("1", "2", 7, "x"))
    assert workflow.origins(graph("9", "3", 7.0, "x")) == {"9": found["1"], "3": found["2"]}
    other = workflow.origins(graph("1", "2", 7, "y"))
    assert other["1"] != found["1"]
    assert other["2"] != found["2"]


def test_origins_of_circles_chains_and_dense_graphs_take_no_time() -> None:
    def linked(*sources: int) -> dict[str, Any]:
        return node("X", **{f"from {source}": [str(source), 0] for source in sources})

    circle = {str(i): linked((i + 1) % 3000) for i in range(3000)}
    dense = {str(i): linked(*range(i)) for i in range(200)}
    reverse = {str(i): linked(*range(i)) for i in reversed(range(200))}
    begun = time.process_time()
    assert len(workflow.origins(circle)) == 3000
    assert workflow.origins(dense) == workflow.origins(reverse)
    assert len(set(workflow.origins(dense).values())) == 200
    assert time.process_time() - begun < 3
