"""Digests: of a workflow without seeds and content, of its models, and of each node with its
sources.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from math import inf, log
from typing import Any, Final

from jobgroups.workflow.assets import referenced_asset
from jobgroups.workflow.graph import Node, Workflow, is_link, linked_node
from jobgroups.workflow.parameters import SEED_INPUTS
from jobgroups.workflow.seed_inputs import Slot

#: Inputs whose text is content or a name: free text of ComfyUI's own nodes, prompts of widely used
#: custom nodes, and input files.
CONTENT_INPUTS: Final = frozenset(
    {
        *("bert", "clip_g", "clip_l", "llama", "mt5xl", "t5xxl"),
        *("text", "text_g", "text_l", "prompt", "user_prompt", "positive", "negative"),
        *("positive_prompt", "negative_prompt", "lyrics", "tags", "tracks", "message", "title"),
        *("string", "string_a", "string_b", "substring", "value", "delimiter"),
        *("find", "replace", "regex_pattern", "filename_prefix", "prefix"),
        *("image", "mask", "audio", "video", "file"),
    }
)
_LONGEST_ENDING: Final = 20  #: Characters; no ending of ``MODEL_FILES`` is longer.
#: Endings of the names of model files.
MODEL_FILES: Final = (
    ".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pt2", ".pth", ".bin", ".onnx", ".pkl", ".engine",
)  # fmt: skip
#: A longer text, or a text of several lines, is not a choice or the name of a model.
_LONGEST_NAME: Final = 255
_DIGITS: Final = 16


def digest(workflow: Workflow, seed_slots: Iterable[Slot]) -> str:
    """Return 16 hex digits that are equal for submissions of one workflow, which share estimates
    and failures.

    Nodes, links, numbers, switches and the names in choices count: they decide the duration and the
    memory. Seeds and content (``CONTENT_INPUTS``, and every long text) do not: the frames of a shot
    differ in nothing else. Nor do titles (``_meta``), the order of keys, and ``7`` or ``7.0`` (an
    editor writes either).

    An unknown text counts: a wrongly counted one only delays estimates until there was a run, a
    wrongly excluded one mixes two durations.
    """
    seeds = frozenset(seed_slots)
    nodes = {
        node_id: [node["class_type"], _telling(node_id, node, seeds)]
        for node_id, node in workflow.items()
    }
    text = json.dumps(nodes, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def features(workflow: Workflow, seed_slots: Iterable[Slot]) -> dict[tuple[str, str], Any]:
    """Return what of a workflow counts for its digest: the class of each node, by ``(node id, "")``,
    and the inputs.
    """
    seeds = frozenset(seed_slots)
    found: dict[tuple[str, str], Any] = {}
    for node_id, node in workflow.items():
        found[node_id, ""] = node["class_type"]
        for name, value in _telling(node_id, node, seeds).items():
            found[node_id, name] = value
    return found


def distance(one: Mapping[tuple[str, str], Any], other: Mapping[tuple[str, str], Any]) -> float:
    """Return how different the values of two workflows are, by their features: a number counts by
    its ratio, another value 1; infinite if nodes, inputs or links differ.
    """
    if one.keys() != other.keys():
        return inf
    total = 0.0
    for (node_id, name), value in one.items():
        another = other[node_id, name]
        if value == another:
            continue
        if not name or isinstance(value, list) or isinstance(another, list):
            return inf
        is_ratio = all(type(number) in (int, float) and number > 0 for number in (value, another))
        total += abs(log(value / another)) if is_ratio else 1.0
    return total


def models_digest(workflow: Workflow) -> str:
    """Return 16 hex digits that are equal for workflows that name the same model files, ``""``
    without any.
    """
    names = {
        value
        for node in workflow.values()
        for value in node["inputs"].values()
        # A picture as a text has 100 MB.
        if isinstance(value, str) and value[-_LONGEST_ENDING:].lower().endswith(MODEL_FILES)
    }
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:_DIGITS] if names else ""


def origins(workflow: Workflow) -> dict[str, str]:
    """Return a digest of each node including all nodes that it depends on, without their ids.

    ComfyUI's cache returns for a node the result of a node with the same digest.
    """
    digests: dict[str, str] = {}
    entered = set[str]()
    waiting = list(workflow)
    while waiting:
        node_id = waiting[-1]
        node = workflow[node_id]
        if node_id not in entered:
            # Its sources come first. A link that closes a circle is ignored: ComfyUI refuses
            # circles.
            entered.add(node_id)
            linked = (linked_node(value) for value in node["inputs"].values())
            waiting += [
                source
                for source in linked
                if source and source in workflow and source not in entered
            ]
            continue
        waiting.pop()
        if node_id in digests:
            continue
        inputs = {
            name: [digests.get(value[0], ""), *value[1:]] if is_link(value) else plain(value)
            for name, value in node["inputs"].items()
        }
        text = json.dumps([node["class_type"], inputs], sort_keys=True)
        digests[node_id] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return digests


def _telling(node_id: str, node: Node, seeds: frozenset[tuple[str, str]]) -> dict[str, Any]:
    """Return a node's inputs that count."""
    return {
        name: plain(value)
        for name, value in node["inputs"].items()
        # A seed that a parameter sets is not in the slots. A linked seed counts as a link.
        if (node_id, name) not in seeds
        and (name not in SEED_INPUTS or isinstance(value, list))
        and not is_content(name, value)
    }


def is_content(name: str, value: Any) -> bool:
    """Return whether the value of an input is content, which does not count."""
    if not isinstance(value, str):
        return referenced_asset(value) is not None
    return name in CONTENT_INPUTS or len(value) > _LONGEST_NAME or "\n" in value


def plain(value: Any) -> Any:
    """Return a value as it counts: ``7`` and ``7.0`` are equal."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
