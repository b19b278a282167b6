"""The node classes the simulator knows: ComfyUI's own listing, as in GET /object_info.

`object_info.json.gz` is that listing as a real ComfyUI 0.3.64 answered it, 389 classes with their
inputs, limits and choices; so validation refuses what ComfyUI refuses. Its prose isn't kept, for
it's ComfyUI's own: of the answer of GET /object_info, every class's `description` was set to "",
its `output_tooltips` and the `tooltip` of every input's options were removed, and the rest was
written as compact JSON (no spaces, no escapes, keys in their order) and packed by gzip, mtime 0.

`calls.json.gz` gives per class the function's name, and after it the parameters that the function
takes although no input of the class is called so; "**" matches any name. It was read with
`inspect.signature` from the classes of a real ComfyUI 0.3.64.

The recording has no partner ("API") node: `TestPartner` stands for them. It is written as ComfyUI's
first ones are, whose keys are in the `current_inputs` of their errors.

A newer version has the same classes here, without those that it dropped.
`node_replacements.json.gz` is the answer of GET /node_replacements of ComfyUI 0.33.0.
"""

import copy
import gzip
import json
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from backends.simulator import releases
from backends.simulator.folders import Folders
from backends.simulator.releases import Release

NodeSpec = dict[str, Any]

#: What is not in the recordings, or is only in the older one: classes.
LISTED: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
)
PARTNER: str = LISTED["partner_node"]["name"]  #: The class of the partner node.
#: What the classes of a package of custom nodes share.
_CUSTOM: NodeSpec = {
    "description": "",
    "python_module": "custom_nodes.comfyui-tooling-nodes",
    "category": "external_tooling",
}


class Input(NamedTuple):
    """One input of a class: its type (or list of choices), category and options."""

    type: Any
    category: str  # "required" | "optional" | "hidden"
    options: dict[str, Any]


_LORA_INPUT: Final = "lora_name"


@cache
def read_catalog(name: str) -> dict[str, Any]:
    """The content of one of the files."""
    packed = resources.files("backends.simulator").joinpath(f"{name}.json.gz").read_bytes()
    content: dict[str, Any] = json.loads(gzip.decompress(packed))
    return content


class Catalog:
    """The classes of one server; with ``has_krita`` also Krita's own."""

    def __init__(
        self,
        folders: Folders,
        checkpoints: tuple[str, ...],
        release: Release,
        *,
        has_krita: bool = False,
    ) -> None:
        self._folders = folders
        self._checkpoints = list(checkpoints)
        self.loras: list[str] = []  #: Those that were uploaded by Krita's nodes.
        self._known: dict[str, NodeSpec] = read_catalog("object_info") | {
            PARTNER: LISTED["partner_node"]
        }
        if has_krita:
            self._known |= {name: _CUSTOM | spec for name, spec in LISTED["krita_nodes"].items()}
        if release >= releases.RECORDED:
            dropped = LISTED["dropped_classes"]
            self._known = {
                name: _newer(spec) for name, spec in self._known.items() if name not in dropped
            }

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._known

    def spec(self, class_type: str) -> NodeSpec:
        """One class as GET /object_info/X shows it. Raises KeyError."""
        spec = self._known[class_type]
        if class_type not in _classes_with_files():
            return spec
        spec = copy.deepcopy(spec)
        for inputs in (spec["input"].get(kind, {}) for kind in ("required", "optional")):
            for name, declared in inputs.items():
                if name == _LORA_INPUT:
                    declared[0] = list(self.loras)
                elif _options(declared).get("image_upload") and isinstance(declared[0], list):
                    declared[0] = self._folders.uploads()
                elif _is_checkpoint_list(declared[0]):
                    declared[0] = list(self._checkpoints)
        return spec

    def specs(self) -> dict[str, NodeSpec]:
        return {name: self.spec(name) for name in self._known}

    def is_output(self, class_type: str) -> bool:
        """Whether nodes of that class make a prompt worth running. Raises KeyError."""
        return bool(self._known[class_type]["output_node"])

    def returns(self, class_type: str) -> list[Any]:
        """The types of a class's output slots. Raises KeyError."""
        outputs: list[Any] = self._known[class_type]["output"]
        return outputs

    def inputs(self, class_type: str) -> dict[str, Input]:
        """The inputs of a class, required ones first. Raises KeyError."""
        declared = self.spec(class_type)["input"]
        return {
            name: Input(entry[0], category, _options(entry))
            for category in ("required", "optional")
            for name, entry in declared.get(category, {}).items()
        }

    def hidden(self, class_type: str) -> dict[str, Any]:
        """Hidden inputs, name to what is filled in. Raises KeyError."""
        hidden: dict[str, Any] = self._known[class_type]["input"].get("hidden", {})
        return hidden


def _newer(spec: NodeSpec) -> NodeSpec:
    """A class as 0.33.0 describes it. The codec of SaveVideo may be named `format.codec` there."""
    inputs = spec["input"]
    if spec["name"] == "SaveVideo":
        required = dict(inputs["required"])
        inputs = inputs | {"optional": {"codec": required.pop("codec")}, "required": required}
    added = {"is_input_list": False, "has_intermediate_output": False, "search_aliases": []}
    return spec | {"input": inputs} | added


def _is_checkpoint_list(choices: Any) -> bool:
    return isinstance(choices, list) and any(str(c).endswith(".safetensors") for c in choices)


@cache
def _classes_with_files() -> frozenset[str]:
    return frozenset(
        name
        for name, spec in read_catalog("object_info").items()
        for category in ("required", "optional")
        for given, declared in spec["input"].get(category, {}).items()
        if given == _LORA_INPUT
        or _is_checkpoint_list(declared[0])
        or _options(declared).get("image_upload")
    )


def _options(declared: list[Any]) -> dict[str, Any]:
    options = declared[1] if len(declared) > 1 else {}
    return options if isinstance(options, dict) else {}


def call_of(class_type: str) -> list[str]:
    """Return a class's function as its errors name it ("SaveImage.save_images"), and its further
    parameters.

    Raises KeyError.
    """
    if class_type == PARTNER or class_type in LISTED["krita_nodes"]:
        return [f"{class_type}.run"]
    calls: list[str] = read_catalog("calls")[class_type]
    return calls


def replace_nodes(prompt: Any, catalog: Catalog, release: Release) -> None:
    """Rewrite a prompt's renamed nodes in place, as ComfyUI does before it validates a prompt.

    Raises what Python raises, which is ComfyUI's 500, for a node that lacks a mapped input; before
    REPLACED_WITHOUT_META also for one without `_meta`.
    """
    if release < releases.REPLACEMENTS:
        return
    replacements = read_catalog("node_replacements")
    for node_id, node in prompt.items():
        if "class_type" not in node or "inputs" not in node:
            continue
        if node["class_type"] in catalog or node["class_type"] not in replacements:
            continue
        rule, given = replacements[node["class_type"]][0], node["inputs"]
        if (mapping := rule["input_mapping"]) is not None:
            given = {
                change["new_id"]: change["set_value"]
                if "set_value" in change
                else given[change["old_id"]]
                for change in mapping
            }
        meta = node.get("_meta", {}) if release >= releases.REPLACED_WITHOUT_META else node["_meta"]
        prompt[node_id] = {"class_type": rule["new_node_id"], "inputs": given, "_meta": meta}
