"""References to assets: ComfyUI's typed reference, in an input where the name of a file stands."""

import mimetypes
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from jobgroups.workflow.graph import Workflow, WorkflowCopy
from jobgroups.workflow.validation import shown_key

REFERENCE_TYPE: Final = "core/ASSET"
SUBFOLDER: Final = "director"  #: The folder of assets in ComfyUI's input folder.
_EXTENSION: Final = re.compile(r"\.[a-z0-9]{1,10}")

#: Inputs that name a file of the user. Other texts are never taken for one.
FILE_INPUTS: Final = frozenset({"image", "mask", "audio", "video", "file"})
#: Krita's node that reads an image which was put at the machine under an id, and its input.
CACHE_NODE, CACHE_INPUT = "ETN_LoadImageCache", "id"


def asset_reference(asset_id: str) -> dict[str, Any]:
    """Return a reference to an asset."""
    return {"__type": REFERENCE_TYPE, "info": {"id": asset_id}}


def input_name(digest: str, name: str, content_type: str) -> str:
    """Return the name of an asset's file at a backend, below ComfyUI's input folder.

    It has an extension, from which ComfyUI derives the kind of a file, if one is known.
    """
    _, dot, last = name.lower().rpartition(".")
    known = _EXTENSION.fullmatch(f"{dot}{last}")
    return f"{SUBFOLDER}/{digest}{known[0] if known else mimetypes.guess_extension(content_type) or ''}"


def referenced_asset(value: object) -> str | None:
    """Return the asset's id in a reference, ``""`` in one without an id; None for another value."""
    if not isinstance(value, dict) or value.get("__type") != REFERENCE_TYPE:
        return None
    info = value.get("info")
    asset_id = info.get("id") if isinstance(info, dict) else None
    return asset_id if isinstance(asset_id, str) else ""


def asset_references(workflow: Workflow) -> Iterator[tuple[str, str, str]]:
    """Yield node id, input and asset id of each reference."""
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            if (asset_id := referenced_asset(value)) is not None:
                yield node_id, name, asset_id


def is_cached_image(workflow: Workflow, node_id: str) -> bool:
    """Return whether a node reads an image that is put at the machine under an id."""
    return bool(workflow[node_id]["class_type"] == CACHE_NODE)


def reference_paths(workflow: Workflow) -> Iterator[tuple[str, str]]:
    """Yield the path in a request and the asset id of each reference."""
    for node_id, name, asset_id in asset_references(workflow):
        yield f"workflow_json.{shown_key(node_id)}.inputs.{shown_key(name)}", asset_id


def references_by_asset(workflow: Workflow) -> dict[str, tuple[str, str]]:
    """Return the node id and the input of one reference to each asset, by asset id."""
    return {asset_id: (node_id, name) for node_id, name, asset_id in asset_references(workflow)}


def with_file_names(workflow: Workflow, names: Mapping[str, str]) -> Workflow:
    """Return the workflow with the name of its file in the place of each reference that has one in
    ``names``, by id. An image that is put under an id has its hash there.
    """
    copy = WorkflowCopy(workflow)
    for node_id, name, asset_id in asset_references(workflow):
        if asset_id in names:
            path = PurePosixPath(names[asset_id])
            copy.set(node_id, name, path.stem if is_cached_image(workflow, node_id) else str(path))
    return copy.nodes
