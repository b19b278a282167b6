"""Looks up where a prompt is at its backend, in the history or in the queue, and which outputs are
not executed.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

from backends.comfyui.answers import Queue
from backends.comfyui.client import ComfyClient
from backends.comfyui.refusals import answer_lost
from backends.comfyui.versions import Feature, has
from jobgroups.runner.attempt.evidence import PromptLocation, PromptLookup, ended_lookup
from jobgroups.workflow.graph import Workflow, closure, links

_OF_JOB: Final = {
    "pending": PromptLocation.PENDING,
    "in_progress": PromptLocation.RUNNING,
    "absent": PromptLocation.ABSENT,
}


async def look_up(
    client: ComfyClient,
    prompt_id: str,
    *,
    version: str | None,
    mark: Mapping[str, Any] | None = None,
) -> PromptLookup:
    """Query the job; or history, queue, history: a prompt moves from one to the other meanwhile.

    A job has no entry of the history, so the history is queried once it has ended. The queue
    answers with whole workflows, so it is queried only if the history is empty, and the history
    once more if the queue does not have the prompt: it may have ended in between
    (comfyui-protocol.md, trap 7 and trap 12). Raises ``BackendError`` if a query was not answered;
    nothing is known then.

    Args:
        version: ComfyUI's; None: do not query the job, which has no mark and no list of outputs.
        mark: the ``extra_data`` that only this prompt was sent with, one key and its value. Given
            for a prompt whose POST was not answered with an id: its server may have chosen another
            one, and no connection is kept that may be broken.
    """
    if has(version, Feature.JOBS):
        location = _OF_JOB.get(await client.job_status(prompt_id) or "")
        if location is not None:
            return PromptLookup(location)

    new_connection = mark is not None

    async def ended() -> PromptLookup | None:
        entry = await client.history(prompt_id, new_connection=new_connection)
        return None if entry is None else ended_lookup(entry)

    return (
        await ended()
        or in_queue(await client.queue(new_connection=new_connection), prompt_id, mark)
        or await ended()
        or PromptLookup(PromptLocation.ABSENT)
    )


def in_queue(
    queue: Queue, prompt_id: str, mark: Mapping[str, Any] | None = None
) -> PromptLookup | None:
    """Return where a prompt is in a queue, by its id or by a mark that only it has."""
    for place, items in (
        (PromptLocation.RUNNING, queue.running),
        (PromptLocation.PENDING, queue.pending),
    ):
        for item in items:
            if item.prompt_id == prompt_id:
                return PromptLookup(place, item=item)
            if mark is not None and all(item.mark(key) == value for key, value in mark.items()):
                return PromptLookup(place, other_id=item.prompt_id, item=item)
    return None


async def active_prompts(
    client: ComfyClient, version: str | None
) -> tuple[set[str | None], set[str | None]]:
    """Return the ids of the prompts of all clients that run, and of those that wait, at a backend."""
    if has(version, Feature.JOBS) and (jobs := await client.active_jobs()) is not None:
        running = {prompt_id for prompt_id, status in jobs.items() if status == "in_progress"}
        return running, jobs.keys() - running
    queue = await client.queue()
    return {item.prompt_id for item in queue.running}, {item.prompt_id for item in queue.pending}


async def omitted_outputs(
    client: ComfyClient, workflow: Workflow, executed: Collection[str]
) -> dict[str, Any]:
    """Return ``node_errors`` for the output nodes of a sent workflow that are not ``executed`` by
    the backend.

    The backend is queried only about classes of nodes that lead to no executed output: in most
    workflows there is none. Raises ``BackendError`` if it does not answer; nothing is known then.
    """
    is_output: dict[str, bool] = {}
    omitted: dict[str, Any] = {}
    for node_id in workflow.keys() - _needed_nodes(workflow, executed):
        class_type = str(workflow[node_id]["class_type"])
        if class_type not in is_output:
            described = await client.object_info(class_type) or {}
            is_output[class_type] = described.get("output_node") is True
        if is_output[class_type]:
            omitted[node_id] = answer_lost(class_type)
    return {node_id: omitted[node_id] for node_id in workflow if node_id in omitted}


def _needed_nodes(workflow: Workflow, executed: Collection[str]) -> set[str]:
    """Return the executed outputs and all nodes that they need.

    None of these was refused: ComfyUI refuses an output if any node that it needs is invalid.
    """
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for node_id, _, source in links(workflow):
        sources[node_id].append(source)
    return closure(executed, lambda node_id: sources[node_id])
