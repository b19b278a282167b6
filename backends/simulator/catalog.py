"""The node classes the simulator knows: ComfyUI's own listing, as in GET /object_info.

`object_info.json.gz` is that listing as a real ComfyUI 0.3.64 answered it, 389 classes with their
inputs, limits and choices; so validation refuses what ComfyUI refuses. Its prose isn't kept, for
it's ComfyUI's own: of the answer of GET /object_info, every class's `description` was set to "",
its `output_tooltips` and the `tooltip` of every input's options were removed, and the rest was
written as compact JSON (no spaces, no escapes, keys in their order) and packed by gzip, mtime 0.

`calls.json.gz` gives per class the function's name, and after it the parameters that the function
takes although no input of the class is called so; "**" matches any name. It was read with
`inspect.signature` from the classes of a real ComfyUI 0.3.64.
"""

import copy
import gzip
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from backends.simulator.folders import Folders

NodeSpec = dict[str, Any]


class Input(NamedTuple):
    """One input of a class: its type (or list of choices), category and options."""

    type: Any
    category: str  # "required" | "optional" | "hidden"
    options: dict[str, Any]


@cache
def _recorded(name: str) -> dict[str, Any]:
    packed = resources.files("backends.simulator").joinpath(f"{name}.json.gz").read_bytes()
    recorded: dict[str, Any] = json.loads(gzip.decompress(packed))
    return recorded


class Catalog:
    def __init__(self, folders: Folders, checkpoints: tuple[str, ...]) -> None:
        self._folders = folders
        self._checkpoints = list(checkpoints)
        self._known: dict[str, NodeSpec] = _recorded("object_info")

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._known

    def spec(self, class_type: str) -> NodeSpec:
        """One class as GET /object_info/X shows it. Raises KeyError."""
        spec = self._known[class_type]
        if class_type not in _classes_with_files():
            return spec
        spec = copy.deepcopy(spec)
        for inputs in (spec["input"].get(kind, {}) for kind in ("required", "optional")):
            for declared in inputs.values():
                if _options(declared).get("image_upload") and isinstance(declared[0], list):
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


def _is_checkpoint_list(choices: Any) -> bool:
    return isinstance(choices, list) and any(str(c).endswith(".safetensors") for c in choices)


@cache
def _classes_with_files() -> frozenset[str]:
    return frozenset(name for name, spec in _recorded("object_info").items() if _has_files(spec))


def _has_files(spec: NodeSpec) -> bool:
    inputs = (spec["input"].get(category, {}) for category in ("required", "optional"))
    return any(
        _is_checkpoint_list(declared[0]) or _options(declared).get("image_upload")
        for entries in inputs
        for declared in entries.values()
    )


def _options(declared: list[Any]) -> dict[str, Any]:
    options = declared[1] if len(declared) > 1 else {}
    return options if isinstance(options, dict) else {}


class Call(NamedTuple):
    """A function as its errors name it ("SaveImage.save_images"), and its further parameters."""

    function: str
    also: frozenset[str]

    def refused(self, names: Iterable[str]) -> str | None:
        """The first of some undeclared names that the function doesn't take, or None."""
        if "**" in self.also:
            return None
        return next((name for name in names if name not in self.also), None)


def call_of(class_type: str) -> Call:
    """The call of a class. Raises KeyError."""
    function, *also = _recorded("calls")[class_type]
    return Call(function, frozenset(also))


#: Renamed classes of ComfyUI 0.33's GET /node_replacements that the catalog does not have: the new
#: class and its inputs, each with the name of the old input; None: all stay.
REPLACEMENTS: dict[str, tuple[str, dict[str, str] | None]] = {
    "T2IAdapterLoader": ("ControlNetLoader", {"control_net_name": "t2i_adapter_name"}),
    "SDV_img2vid_Conditioning": ("SVD_img2vid_Conditioning", None),
    "ConditioningAverage ": ("ConditioningAverage", None),
}


def replaces(release: tuple[int, ...]) -> bool:
    return release >= (0, 14)


def replace_nodes(prompt: Any, catalog: Catalog, release: tuple[int, ...]) -> None:
    """Rewrite a prompt's renamed nodes in place, as ComfyUI does before it validates a prompt.

    Raises what Python raises, which is ComfyUI's 500, for a node that lacks a mapped input; before
    0.38 also for one without `_meta`.
    """
    if not replaces(release):
        return
    for node_id, node in prompt.items():
        if "class_type" not in node or "inputs" not in node:
            continue
        if node["class_type"] in catalog or node["class_type"] not in REPLACEMENTS:
            continue
        new_class, mapping = REPLACEMENTS[node["class_type"]]
        given = node["inputs"]
        inputs = given if mapping is None else {new: given[old] for new, old in mapping.items()}
        meta = node.get("_meta", {}) if release >= (0, 38) else node["_meta"]
        prompt[node_id] = {"class_type": new_class, "inputs": inputs, "_meta": meta}
