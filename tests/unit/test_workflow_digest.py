"""Which submissions are runs of one workflow."""

from __future__ import annotations

import copy
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobgroups import workflow
from jobgroups.workflow.digest import CONTENT_INPUTS

GRAPH: dict[str, Any] = {
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "sdxl.safetensors"},
        "_meta": {"title": "Model"},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a city", "clip": ["4", 1]}},
    "11": {"class_type": "PrimitiveInt", "inputs": {"value": 3}},
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 42, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "model": ["4", 0]},
    },
    "12": {"class_type": "RandomNoise", "inputs": {"noise_seed": ["11", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "out"}},
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


def test_titles_and_the_order_of_keys_do_not_count() -> None:
    graph = {
        node_id: {"inputs": dict(reversed(node["inputs"].items())), "class_type": node["class_type"]}
        for node_id, node in reversed(GRAPH.items())
    }
    graph["4"]["_meta"] = {"title": "Another"}
    assert _digest(graph) == _digest()


def test_a_seed_that_a_parameter_pins_does_not_count_and_other_parameters_do() -> None:
    assert _digest(**{"3.seed": 5}) == _digest()
    assert _digest(steps=30) == _digest(_with("3", "steps", 30)) != _digest()


def test_another_class_of_a_node_is_another_workflow() -> None:
    graph = copy.deepcopy(GRAPH)
    graph["5"]["class_type"] = "EmptySD3LatentImage"
    assert _digest(graph) != _digest()


def test_what_comfyuis_own_nodes_take_as_free_text_is_content() -> None:
    recorded = Path(__file__).parents[2] / "backends" / "simulator" / "object_info.json.gz"
    nodes = json.loads(gzip.decompress(recorded.read_bytes())).values()
    kinds: dict[str, set[str]] = {}
    for node in nodes:
        for inputs in (node["input"].get("required"), node["input"].get("optional")):
            for name, spec in (inputs or {}).items():
                kind = spec[0] if isinstance(spec[0], str) else "COMBO"
                kinds.setdefault(name, set()).add(kind)
    free = {name for name, found in kinds.items() if "STRING" in found and "COMBO" not in found}
    # These are numbers of layers, written as text.
    assert free - {"layers", "single_layers", "double_layers"} <= CONTENT_INPUTS


def test_origins_do_not_depend_on_ids_and_contain_all_that_comes_before() -> None:
    def graph(first: str, second: str, steps: float, text: str) -> dict[str, Any]:
        return {
            second: {"class_type": "Save", "inputs": {"images": [first, 0], "prefix": "a"}},
            first: {"class_type": "Draw", "inputs": {"steps": steps, "text": text}},
        }

    found = workflow.origins(graph("1", "2", 7, "x"))
    assert workflow.origins(graph("9", "3", 7.0, "x")) == {"9": found["1"], "3": found["2"]}
    other = workflow.origins(graph("1", "2", 7, "y"))
    assert other["1"] != found["1"]
    assert other["2"] != found["2"]


def test_origins_of_circles_chains_and_dense_graphs_take_no_time() -> None:
    def node(*sources: int) -> dict[str, Any]:
        links = {f"from {source}": [str(source), 0] for source in sources}
        return {"class_type": "X", "inputs": links}

    circle = {str(i): node((i + 1) % 3000) for i in range(3000)}
    dense = {str(i): node(*range(i)) for i in range(200)}
    reverse = {str(i): node(*range(i)) for i in reversed(range(200))}
    begun = time.perf_counter()
    assert len(workflow.origins(circle)) == 3000
    assert workflow.origins(dense) == workflow.origins(reverse)
    assert len(set(workflow.origins(dense).values())) == 200
    assert time.perf_counter() - begun < 3
