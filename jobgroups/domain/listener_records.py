"""Prompts of the ComfyUI listener as ComfyUI shows them: items of the queue, entries of the history,
jobs, and the messages of an end. Pure.
"""

import datetime as dt
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from jobgroups.domain.listener_files import with_job
from jobgroups.domain.outputs import SENT
from jobgroups.domain.states import CHILD_OPEN, ChildStatus

#: ComfyUI's statuses of jobs.
JOB_STATUS: Final = {
    ChildStatus.QUEUED: "pending",
    ChildStatus.RUNNING: "in_progress",
    ChildStatus.COMPLETED: "completed",
    ChildStatus.FAILED: "failed",
    ChildStatus.TIMEOUT: "failed",
    ChildStatus.CANCELLED: "cancelled",
}
_END: Final = {
    "completed": "execution_success",
    "failed": "execution_error",
    "cancelled": "execution_interrupted",
}
_SHOWN_KINDS: Final = frozenset({"images", "video", "audio", "3d", "text"})
_MODELS: Final = frozenset({".obj", ".fbx", ".gltf", ".glb", ".usdz"})
_TEXTS: Final = frozenset({".txt", ".md", ".json"})
_MAX_TEXT: Final = 1_024  #: Characters of a text in ``preview_output``.


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """A prompt and what is stored of its job.

    Attributes:
        job_id: of the Director's job, which begins the subfolders of its files.
        graph: the workflow as the program sent it, as JSON.
        extra_data: as the program sent it, without keys, with ``client_id`` and ``create_time``.
        targets: the nodes to execute.
        started_at, ended_at: of its job; None: it has not started, or not ended.
        cached: the nodes for which ComfyUI's cache answered.
        node_outputs: by node what it reported, as its machine names the files.
        error, error_type, error_details: why its job failed.
        is_hidden: whether its owner has removed it from the history since it ended.
    """

    prompt_id: str
    job_id: str
    number: float
    graph: bytes
    extra_data: Mapping[str, Any]
    targets: Sequence[str]
    status: ChildStatus
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    cached: Sequence[str]
    node_outputs: Mapping[str, Any]
    error: str
    error_type: str
    error_details: Mapping[str, Any]
    is_hidden: bool

    @property
    def is_open(self) -> bool:
        return self.status in CHILD_OPEN

    @property
    def is_in_history(self) -> bool:
        return self.ended_at is not None and not self.is_hidden

    @property
    def item(self) -> list[Any]:
        """Return its five parts of ComfyUI's queue."""
        graph, targets = msgspec.Raw(self.graph), list(self.targets)
        return [self.number, self.prompt_id, graph, self.extra_data, targets]

    @property
    def outputs(self) -> dict[str, Any]:
        """Return what the nodes reported, with names of files that are unique at the listener.

        Pictures that came as frames are no files of ComfyUI.
        """
        files = {node: _without_sent(output) for node, output in self.node_outputs.items()}
        return {node: with_job(output, self.job_id) for node, output in files.items() if output}


def _without_sent(output: Any) -> Any:
    if not isinstance(output, Mapping):
        return output
    kept = {
        key: [item for item in items if not _is_sent(item)] if isinstance(items, list) else items
        for key, items in output.items()
    }
    return {key: items for key, items in kept.items() if items or not output[key]}


def _is_sent(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("type") == SENT


def is_prompt_id(text: object) -> bool:
    """Return whether something is the id of a prompt: a UUID in its usual form, as ComfyUI wants it."""
    try:
        return isinstance(text, str) and str(uuid.UUID(text)) == text
    except ValueError:
        return False


def milliseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)


def start_messages(record: PromptRecord) -> list[tuple[str, dict[str, Any]]]:
    """Return ComfyUI's messages of the start of a prompt; none if it has not started."""
    if record.started_at is None:
        return []
    common = {"prompt_id": record.prompt_id, "timestamp": milliseconds(record.started_at)}
    return [
        ("execution_start", common),
        ("execution_cached", {"nodes": list(record.cached), **common}),
    ]


def end_message(record: PromptRecord) -> tuple[str, dict[str, Any]]:
    """Return ComfyUI's message of the end of a prompt, which has ended."""
    if record.ended_at is None:
        raise ValueError(f"{record.prompt_id} has not ended.")
    kind = _END[JOB_STATUS[record.status]]
    common = {"prompt_id": record.prompt_id, "timestamp": milliseconds(record.ended_at)}
    if kind == "execution_success":
        return kind, common
    node_id = str(record.error_details.get("node_id") or next(iter(record.targets), ""))
    where = {
        "node_id": node_id,
        "node_type": str(record.error_details.get("node_type") or _class_of(record, node_id)),
        "executed": [node for node in record.outputs if node not in record.cached],
    }
    if kind == "execution_interrupted":
        return kind, {**common, **where}
    why = {
        "exception_message": record.error,
        "exception_type": str(record.error_details.get("exception_type") or record.error_type),
        "traceback": list(record.error_details.get("traceback") or ()),
        "current_inputs": {},
        "current_outputs": [],
    }
    return kind, {**common, **where, **why}


def _class_of(record: PromptRecord, node_id: str) -> str:
    node = msgspec.json.decode(record.graph).get(node_id)
    return str(node.get("class_type", "")) if isinstance(node, dict) else ""


def history_entry(record: PromptRecord) -> dict[str, Any]:
    """Return the entry of a prompt that has ended in ComfyUI's history."""
    is_success = record.status is ChildStatus.COMPLETED
    return {
        "prompt": record.item,
        "outputs": record.outputs,
        "status": {
            "status_str": "success" if is_success else "error",
            "completed": is_success,
            "messages": [*start_messages(record), end_message(record)],
        },
        "meta": {node: _meta(node) for node in record.outputs},
    }


def _meta(node: str) -> dict[str, Any]:
    """Return where the frontend shows a node; one of an expansion has the id of its parent before
    the first dot.
    """
    parent = node.partition(".")[0]
    return {
        "node_id": node,
        "display_node": parent,
        "parent_node": None if parent == node else parent,
        "real_node_id": node,
    }


def job(record: PromptRecord, *, is_whole: bool = False) -> dict[str, Any]:
    """Return a prompt as ComfyUI's ``/api/jobs`` does; ``is_whole``: with outputs and workflow, if it
    has ended.
    """
    files, preview = _files_of(record.outputs)
    summary: dict[str, Any] = {
        "id": record.prompt_id,
        "status": JOB_STATUS[record.status],
        "priority": record.number,
        "create_time": record.extra_data["create_time"],
        "workflow_id": workflow_id(record.extra_data),
        "outputs_count": len(files) if not record.is_open else 0,
        "previewable_outputs_count": 0,
    }
    if not record.is_open:
        kind, end = end_message(record)
        start = record.started_at
        summary |= {
            "execution_start_time": None if start is None else milliseconds(start),
            "execution_end_time": end["timestamp"],
            "execution_error": end if kind == "execution_error" else None,
            "previewable_outputs_count": sum(_is_shown(key, item) for key, item in files),
            "preview_output": preview,
        }
    if is_whole and not record.is_open:
        entry = history_entry(record)
        summary |= {
            "outputs": entry["outputs"],
            "execution_status": entry["status"],
            "workflow": {"prompt": msgspec.Raw(record.graph), "extra_data": record.extra_data},
        }
    return {key: value for key, value in summary.items() if value is not None}


def workflow_id(extra_data: Mapping[str, Any]) -> str | None:
    """Return the id of the editor's workflow in the data of a prompt."""
    found: Any = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield node, key and each item of what the nodes reported."""
    for node, output in outputs.items():
        for key, items in output.items() if isinstance(output, Mapping) else ():
            if key != "animated" and isinstance(items, list):
                yield from ((node, key, item) for item in items)


def _files_of(
    outputs: Mapping[str, Any],
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any] | None]:
    """Return the keys and objects of files, and what ComfyUI shows first of them: a saved picture,
    video, sound or model, then another one, a text in a file, and a text.
    """
    files, best = list[tuple[str, dict[str, Any]]](), dict[int, dict[str, Any]]()
    for node, key, item in _items(outputs):
        if isinstance(item, Mapping):
            files.append((key, dict(item)))
            if _is_shown(key, item):
                is_text = key == "text" or _ending(item) in _TEXTS
                rank = 2 if is_text else 0 if item.get("type") == "output" else 1
                best.setdefault(rank, {"mediaType": key, **item, "nodeId": node})
        elif key == "text" and item is not None:
            text = {"content": str(item)[:_MAX_TEXT], "nodeId": node, "mediaType": key}
            best.setdefault(3, text | ({"truncated": True} if len(str(item)) > _MAX_TEXT else {}))
    return files, best[min(best)] if best else None


def _is_shown(key: str, item: Mapping[str, Any]) -> bool:
    kind = str(item.get("format") or "")
    return (
        key in _SHOWN_KINDS
        or kind.startswith(("video/", "audio/"))
        or _ending(item) in _MODELS | _TEXTS
    )


def _ending(item: Mapping[str, Any]) -> str:
    return posixpath.splitext(str(item.get("filename") or "").lower())[1]
