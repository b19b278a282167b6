"""Renamed node classes: ComfyUI rewrites them before it validates a prompt (since 0.14.0).

The rewrite reads `_meta` and every mapped input of the node without a default: a node that lacks one
makes ComfyUI answer 500. From 0.38 on `_meta` may be absent. `REPLACEMENTS` are those of ComfyUI
0.33's GET /node_replacements whose old class the catalog does not have.
"""

from __future__ import annotations

from typing import Any

from backends.simulator.catalog import Catalog

_SINCE = (0, 14)
_META_OPTIONAL_SINCE = (0, 38)
#: Old class to the new one and its inputs, each with the name of the old input; None: all stay.
REPLACEMENTS: dict[str, tuple[str, dict[str, str] | None]] = {
    "T2IAdapterLoader": ("ControlNetLoader", {"control_net_name": "t2i_adapter_name"}),
    "SDV_img2vid_Conditioning": ("SVD_img2vid_Conditioning", None),
    "ConditioningAverage ": ("ConditioningAverage", None),
}


def replace_nodes(prompt: Any, catalog: Catalog, release: tuple[int, ...]) -> None:
    """Rewrite a prompt's renamed nodes in place. Raises what Python raises: ComfyUI's 500."""
    if release < _SINCE:
        return
    for node_id, node in prompt.items():
        if "class_type" not in node or "inputs" not in node:
            continue
        if node["class_type"] in catalog or node["class_type"] not in REPLACEMENTS:
            continue
        new_class, mapping = REPLACEMENTS[node["class_type"]]
        given = node["inputs"]
        inputs = given if mapping is None else {new: given[old] for new, old in mapping.items()}
        meta = node.get("_meta", {}) if release >= _META_OPTIONAL_SINCE else node["_meta"]
        prompt[node_id] = {"class_type": new_class, "inputs": inputs, "_meta": meta}
