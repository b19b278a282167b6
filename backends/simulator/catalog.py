"""The node classes the simulator knows: ComfyUI's own listing, as in GET /object_info.

`object_info.json.gz` is that listing as a real ComfyUI 0.3.64 answered it, 389 classes with their
inputs, limits and choices; so validation refuses what ComfyUI refuses. Its prose isn't kept, for
it's ComfyUI's own: of the answer of GET /object_info, every class's `description` was set to "",
its `output_tooltips` and the `tooltip` of every input's options were removed, and the rest was
written as compact JSON (no spaces, no escapes, keys in their order) and packed by gzip, mtime 0.
"""

from __future__ import annotations

import copy
import gzip
import json
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
def _listing() -> dict[str, NodeSpec]:
    packed = resources.files("backends.simulator").joinpath("object_info.json.gz").read_bytes()
    listing: dict[str, NodeSpec] = json.loads(gzip.decompress(packed))
    return listing


class Catalog:
    """The classes of one server, with its files and checkpoints as choices."""

    def __init__(self, folders: Folders, checkpoints: tuple[str, ...]) -> None:
        self._folders = folders
        self._checkpoints = list(checkpoints)
        self._known = _listing()

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._known

    def spec(self, class_type: str) -> NodeSpec:
        """One class as GET /object_info/X shows it. Raises KeyError."""
        spec = self._known[class_type]
        if not _lists_files(spec):
            return spec
        spec = copy.deepcopy(spec)
        for inputs in (spec["input"].get(kind, {}) for kind in ("required", "optional")):
            for declared in inputs.values():
                self._fill(declared)
        return spec

    def _fill(self, declared: list[Any]) -> None:
        options = declared[1] if len(declared) > 1 else {}
        if options.get("image_upload") and isinstance(declared[0], list):
            declared[0] = self._folders.uploads()
        elif _is_checkpoint_list(declared[0]):
            declared[0] = list(self._checkpoints)

    def specs(self) -> dict[str, NodeSpec]:
        """All of them, in ComfyUI's order."""
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
            name: Input(entry[0], category, entry[1] if len(entry) > 1 else {})
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
def _names_with_files() -> frozenset[str]:
    return frozenset(n for n, s in _listing().items() if _has_file_input(s))


def _lists_files(spec: NodeSpec) -> bool:
    return spec["name"] in _names_with_files()


def _has_file_input(spec: NodeSpec) -> bool:
    for category in ("required", "optional"):
        for entry in spec["input"].get(category, {}).values():
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
            if options.get("image_upload") or _is_checkpoint_list(entry[0]):
                return True
    return False
