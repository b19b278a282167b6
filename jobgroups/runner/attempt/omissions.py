"""Outputs that ComfyUI does not execute, of a prompt whose answer was lost.

Its queue and its history list the output nodes that it executes. An output node of the workflow that
is not listed was refused; why, only the answer would have contained.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from backends.comfyui.client import ComfyClient
from backends.comfyui.refusals import answer_lost
from jobgroups.workflow.graph import Workflow, closure, links


async def omitted_outputs(client: ComfyClient, workflow: Workflow, executed: Collection[str]) -> dict[str, Any]:
    """Return ``node_errors`` for the output nodes of a sent workflow that are not ``executed`` by the backend.

    The backend is queried only about classes of nodes that lead to no executed output: in most workflows there is none.
    Raises ``BackendError`` if it does not answer; nothing is known then.
    """
    is_output: dict[str, bool] = {}
    omitted: dict[str, Any] = {}
    for node_id in workflow.keys() - _needed(workflow, executed):
        class_type = str(workflow[node_id]["class_type"])
        if class_type not in is_output:
            described = await client.object_info(class_type) or {}
            is_output[class_type] = described.get("output_node") is True
        if is_output[class_type]:
            omitted[node_id] = answer_lost(class_type)
    return {node_id: omitted[node_id] for node_id in workflow if node_id in omitted}


def _needed(workflow: Workflow, executed: Collection[str]) -> set[str]:
    """Return the executed outputs and all nodes that they need.

    None of these was refused: ComfyUI refuses an output if any node that it needs is invalid.
    """
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for node_id, _, source in links(workflow):
        sources[node_id].append(source)
    return closure(executed, lambda node_id: sources[node_id])
