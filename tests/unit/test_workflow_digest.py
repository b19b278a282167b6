import copy
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobgroups import workflow
from jobgroups.workflow.digest import CONTENT_INPUTS
from tests.harness.graphs import node

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
    return workflow.digest(workflow.build_template(GRAPH if graph is None else graph, parameters))


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
        ("11", "value", 4),  # a seed is linked to it
        ("6", "text", "another prompt"),
        ("9", "filename_prefix", "shot_002"),
        ("3", "cfg", 7),  # as JavaScript writes 7.0
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
        return {second: node("Save", images=[first, 0], prefix="a"), first: node("Draw", steps=steps, text=text)}

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
    begun = time.perf_counter()
    assert len(workflow.origins(circle)) == 3000
    assert workflow.origins(dense) == workflow.origins(reverse)
    assert len(set(workflow.origins(dense).values())) == 200
    assert time.perf_counter() - begun < 3
