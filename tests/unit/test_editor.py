"""Conversion of the editor's format. That it equals the editor's export is the subject of
tests/editor.
"""

import contextlib
import copy
import json
import time
from datetime import datetime
from typing import Any

import pytest

from backends.node_classes import node_class
from director.demo.workflow import text_to_image
from jobgroups.workflow import embedded
from jobgroups.workflow.editor import MAX_NODES, class_types, convert
from jobgroups.workflow.editor_graph import ConversionFailed
from tests.harness.graphs import EDITOR_FILE

EDITOR = json.loads(EDITOR_FILE.read_text(encoding="utf-8"))
DESCRIBED: dict[str, Any] = dict(
    [
        [
            "KSampler",
            {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "sampler_name": [["euler"]],
                "scheduler": [["normal"]],
                "positive": ["CONDITIONING"],
                "negative": ["CONDITIONING"],
                "latent_image": ["LATENT"],
                "denoise": ["FLOAT", {"default": 1.0}],
            },
        ],
        ["CheckpointLoaderSimple", {"ckpt_name": [["tiny_sd15.safetensors"]]}],
        [
            "EmptyLatentImage",
            {"width": ["INT", {}], "height": ["INT", {}], "batch_size": ["INT", {}]},
        ],
        ["CLIPTextEncode", {"text": ["STRING", {"dynamicPrompts": True}], "clip": ["CLIP"]}],
        ["VAEDecode", {"samples": ["LATENT"], "vae": ["VAE"]}],
        ["SaveImage", {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}],
        ["Camera", {"image": ["WEBCAM", {}]}],
    ]
)
CLASSES = {
    name: node_class(
        {"input": {"required": inputs}, "output_node": False, "python_module": "nodes"}
    )
    for name, inputs in DESCRIBED.items()
}


def nodes(converted: tuple[dict[str, Any], Any]) -> dict[str, Any]:
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in converted[0].items()}


DEMO = nodes((text_to_image(), None))


def edited(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the demo with changed nodes, ``n3`` for node 3."""
    editor = copy.deepcopy(EDITOR)
    for node in editor["nodes"]:
        node.update(changes.get(f"n{node['id']}", {}))
    return editor


def problems(editor: dict[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(ConversionFailed) as failed:
        convert(editor, CLASSES)
    return [tuple(one) for one in failed.value.errors]


def as_subgraph(editor: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a workflow whose only node is a subgraph with all nodes of another one."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [
        dict(zip(keys, link, strict=True)) if isinstance(link, list) else link
        for link in editor["links"]
    ]
    [prompt] = [node for node in editor["nodes"] if node["id"] == 6] or [{"inputs": []}]
    graph = editor | {"id": name, "links": links, "inputs": [], "outputs": []}
    if prompt.get("inputs"):
        prompt["inputs"].append(
            {"name": "text", "type": "STRING", "link": 99, "widget": {"name": "text"}}
        )
        links.append(dict(zip(keys, (99, -10, 0, 6, 1, "STRING"), strict=True)))
        graph["inputs"] = [{"name": "prompt", "type": "STRING", "linkIds": [99]}]
    host = {
        "id": 1,
        "type": name,
        "inputs": [{"name": "prompt", "link": None}],
        "widgets_values": ["a cat"],
    }
    inner = editor.get("definitions", {}).get("subgraphs", [])
    return {"nodes": [host], "links": [], "definitions": {"subgraphs": [*inner, graph]}}


def test_editor_file_equals_the_api_format() -> None:
    assert nodes(convert(EDITOR, CLASSES)) == DEMO
    named = dict(zip(DESCRIBED["EmptyLatentImage"], (768, 512, 1), strict=True))
    assert nodes(convert(edited(n5={"widgets_values": named}), CLASSES)) == DEMO
    newer = {
        "widgets_values": ["new", 768, 512, 1],
        "widgets_values_named": {"mode": "new", **named},
    }
    assert nodes(convert(edited(n5=newer), CLASSES)) == DEMO
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in EDITOR["links"]]
    assert nodes(convert(EDITOR | {"links": links, "version": 1}, CLASSES)) == DEMO


def test_subgraphs_are_expanded_with_the_values_of_their_nodes() -> None:
    editor = as_subgraph(as_subgraph(edited(), "inner"), "outer")
    found, _ = convert(editor, CLASSES)
    assert found["1:1:6"]["inputs"] == {"text": "a cat", "clip": ["1:1:4", 1]}
    proxied = as_subgraph(edited(), "outer")
    proxied["nodes"][0]["properties"] = {"proxyWidgets": [["3", "cfg"], ["-1", "prompt"]]}
    proxied["nodes"][0]["widgets_values"] = [5.5, "a dog"]
    found, _ = convert(proxied, CLASSES)
    assert (found["1:3"]["inputs"]["cfg"], found["1:6"]["inputs"]["text"]) == (5.5, "a dog")
    assert class_types(editor) == DESCRIBED.keys() - {"Camera"} | {"LoraLoader", "PreviewImage"}


def job_of(editor: dict[str, Any], **values: dict[str, Any]) -> dict[str, Any]:
    """Return the editor's workflow of a job that was sent with other inputs, ``n3`` for node 3."""
    converted, _ = convert(embedded.mark_values(editor), CLASSES)
    places = json.loads(json.dumps(embedded.take_places(converted)))
    sent = {
        node_id: node
        | {"inputs": node["inputs"] | values.get(f"n{node_id.rpartition(':')[2]}", {})}
        for node_id, node in converted.items()
    }
    return embedded.fill_values(copy.deepcopy(editor), places, sent)


def widgets_of(editor: dict[str, Any], node_id: int) -> Any:
    return next(node["widgets_values"] for node in editor["nodes"] if node["id"] == node_id)


def test_values_of_a_job_are_in_the_widgets_of_the_editor() -> None:
    assert job_of(EDITOR) == EDITOR
    job = job_of(EDITOR, n3={"seed": 42, "steps": 8, "cfg": 5.5}, n6={"text": "a dog"})
    # What the editor makes of a seed after a run stays. The steps come from a primitive.
    assert widgets_of(job, 3) == [42, "randomize", 1, 5.5, "euler", "normal", 1]
    assert (widgets_of(job, 12), widgets_of(job, 6)) == ([8, "fixed"], ["a dog"])
    named = dict(zip(DESCRIBED["EmptyLatentImage"], (768, 512, 1), strict=True))
    saved = edited(n5={"widgets_values": [768, 512, 1], "widgets_values_named": named})
    job = job_of(saved, n5={"height": 64})
    [size] = [node for node in job["nodes"] if node["id"] == 5]
    assert (size["widgets_values"], size["widgets_values_named"]) == (
        [768, 64, 1],
        named | {"height": 64},
    )
    noted = edited(n6={"widgets_values": ["a cat // or a dog"]})
    assert widgets_of(job_of(noted, n3={"seed": 7}), 6) == ["a cat // or a dog"]
    assert widgets_of(job_of(noted, n6={"text": "a cow"}), 6) == ["a cow"]


def test_values_of_a_job_are_in_the_widgets_of_subgraphs() -> None:
    editor = as_subgraph(edited(), "outer")
    job = job_of(editor, n3={"seed": 42}, n6={"text": "a dog"})
    assert job["nodes"][0]["widgets_values"] == ["a dog"]
    [inner] = job["definitions"]["subgraphs"]
    assert widgets_of(inner, 3)[0] == 42
    twice = editor | {"nodes": [editor["nodes"][0], editor["nodes"][0] | {"id": 2}]}
    [inner] = job_of(twice, n3={"seed": 42})["definitions"]["subgraphs"]
    assert widgets_of(inner, 3)[0] == 42
    converted, _ = convert(embedded.mark_values(twice), CLASSES)
    places = embedded.take_places(converted)
    sent = copy.deepcopy(converted)
    sent["1:3"]["inputs"]["seed"] = 42
    # One widget cannot show two seeds.
    assert embedded.fill_values(copy.deepcopy(twice), places, sent) == twice


def test_what_cannot_be_converted_is_named_by_node() -> None:
    wrong = edited(n3={"type": "Mine"}, n7={"type": "workflow>old"}, n8={"type": "Camera"})
    found = {node_id: (class_type, message) for node_id, class_type, message in problems(wrong)}
    assert found["3"][0] == "Mine"
    assert found["7"][1].startswith("Group nodes are not supported")
    assert '"image" in the browser' in found["8"][1]
    assert "no node that ComfyUI executes" in problems({"nodes": [], "links": []})[0][2]


def test_circles_and_explosions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = edited()
    editor["links"] = [
        [1, 11, 0, 11, 0, "*"] if link[3] == 11 else link for link in editor["links"]
    ]
    next(node for node in editor["nodes"] if node["id"] == 11)["inputs"][0]["link"] = 1
    assert "in a circle" in problems(editor)[0][2]
    itself = as_subgraph(edited(n13={"type": "a"}), "a")
    assert "must not contain itself" in problems(itself)[0][2]
    many = as_subgraph(
        {"nodes": [{"id": at, "type": "Mine", "mode": 2} for at in range(9)], "links": []}, "0"
    )
    for depth in range(1, 25):
        two = {"nodes": [{"id": at, "type": str(depth - 1)} for at in (1, 2)], "links": []}
        many = as_subgraph(two | {"definitions": many["definitions"]}, str(depth))
    assert problems(many)[0][2] == f"The workflow has more than {MAX_NODES} nodes."
    monkeypatch.setattr("jobgroups.workflow.editor._MAX_ALL_STEPS", 3)
    assert "too many reroutes" in problems(EDITOR)[0][2]


def test_values_are_sent_as_the_editor_sends_them() -> None:
    name = {"widgets_values": ["%date:yyyy-MM-dd%/%date:yy%_%year%"]}
    editor = edited(
        n9=name,
        n6={"widgets_values": ["a {b|c}"]},
        n7={"widgets_values": ["d /* e */ /* //" + " /*" * 30_000]},
    )
    began = time.process_time()
    found, warnings = convert(editor, CLASSES, now=datetime(2026, 2, 3))  # noqa: DTZ001 local time
    assert found["9"]["inputs"]["filename_prefix"] == "2026-02-03/26_%year%"
    assert [found[node_id]["inputs"]["text"] for node_id in "67"] == ["a {b|c}", "d  /* "]
    assert time.process_time() - began < 5, "unclosed comments are read once"
    assert [(one.node_id, "by chance" in one.message) for one in warnings] == [("6", True)]


@pytest.mark.parametrize("odd", [None, 3, "x", [], {}, [[]], [{}], [None], [1, 2, 3, 4, 5, 6]])
def test_odd_values_in_any_place_are_no_unexpected_error(odd: Any) -> None:
    paths = [("nodes",), ("links",), ("definitions",), ("last_node_id",)]
    for key in ("id", "type", "mode", "inputs", "outputs", "widgets_values", "properties", "title"):
        paths += [("nodes", at, key) for at in range(3)]
    for path in paths:
        editor = as_subgraph(edited(), "sub") if path[0] == "definitions" else edited()
        place = editor
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = odd
        with contextlib.suppress(ConversionFailed):
            convert(editor, CLASSES)
