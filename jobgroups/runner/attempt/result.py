"""The result of an attempt, from ComfyUI's history, or from its frames if the history was cleared."""

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.comfyui.answers import HistoryEntry
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError, PromptRefused, PromptUnconfirmed
from backends.comfyui.outputs import collect_outputs, plain_error
from backends.comfyui.protocol import Event, ExecutionError, ExecutionInterrupted, ExecutionSuccess
from backends.comfyui.refusals import not_executed
from jobgroups.domain.failures import FailureClass, class_of_error, class_of_refusal
from jobgroups.domain.outputs import SENT, all_missing, output_url, reported_files
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.services.outcomes import AttemptResult

_MAX_TRACEBACK_LINES = 40  #: ComfyUI's tracebacks name every frame of a deep graph; a person reads the last ones.
_MAX_INPUT_CHARACTERS = 2_000

#: Failures after which the backend is to free its memory: there is too much in it, or its cache
#: would name the same files again.
FREED_AFTER: Final = frozenset({FailureClass.OUT_OF_MEMORY, FailureClass.OUTPUT_GONE})
#: Seconds that a backend has to answer when a file was written; and for how long an end is fresh.
_DATES_WITHIN: Final = 2.0
_FRESH: Final = dt.timedelta(seconds=10)
_FREE_WITHIN: Final = 2.0  #: Seconds that a backend has to say that it will.

_LATEST_MS: Final = 253_402_300_000_000  #: The year 9999, the last one that Python knows.

NodeOutputs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInfo:
    """What was sent, as far as a result needs it."""

    prompt_id: str
    workflow: Mapping[str, Any]
    base_url: str
    group_id: str
    child_id: str

    def outputs(self, node_outputs: NodeOutputs) -> dict[str, Any]:
        collected = collect_outputs(node_outputs, self.base_url, self.prompt_id, list(self.workflow))
        for number, item in enumerate(reported_files(collected)):
            if item.get("type") == SENT:
                item["url"] = output_url(self.group_id, self.child_id, number)
        return collected

    def title(self, node_id: str | None) -> str | None:
        """Return what the user called a node, None where it has no title."""
        meta = self.workflow.get((node_id or "").split(".", maxsplit=1)[0], {}).get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        return title if isinstance(title, str) else None


def from_history(prompt: PromptInfo, entry: HistoryEntry, socket_outputs: NodeOutputs) -> AttemptResult:
    """Return the result that ComfyUI's history shows; its status decides.

    The history has all outputs of the sockets, unless a node's output came to the sockets alone.
    """
    outputs = {**socket_outputs, **entry.outputs}
    if entry.outcome == "success":
        end = replace(_success(prompt, outputs), warnings=tuple(map(blocked, entry.raised)))
    elif entry.outcome == "interrupted":
        end = interrupted(prompt, outputs)
    else:
        end = _raised(prompt, outputs, entry.error)
    return replace(end, backend_ended_at=_ended_at(entry))


def _ended_at(entry: HistoryEntry) -> dt.datetime | None:
    """Return when a prompt ended by its backend's clock; None where no message says it."""
    for _, data in reversed(entry.messages):
        # A blocked output's message has none.
        milliseconds = data.get("timestamp")
        if isinstance(milliseconds, int | float) and 0 < milliseconds < _LATEST_MS:
            return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    return None


def is_blocked(error: ExecutionError) -> bool:
    """Return whether a node was only blocked: the prompt continues, and may succeed."""
    return error.exception_type == "ExecutionBlocked"


def blocked(error: ExecutionError) -> str:
    """Return the warning about a blocked node, on one line."""
    return not_executed(error.node_id, error.node_type, plain_error(error.exception_message))


def from_frame(prompt: PromptInfo, frame: Event, socket_outputs: NodeOutputs) -> AttemptResult | None:
    """Return the result from an end frame, for a cleared history; None: the frame is no end."""
    match frame:
        case ExecutionSuccess():
            return _success(prompt, socket_outputs)
        case ExecutionInterrupted():
            return interrupted(prompt, socket_outputs)
        case ExecutionError():
            return _raised(prompt, socket_outputs, frame)
        case _:
            return None


def _success(prompt: PromptInfo, outputs: NodeOutputs) -> AttemptResult:
    return AttemptResult(state=AttemptState.SUCCESS, outputs=prompt.outputs(outputs), node_outputs=dict(outputs))


def interrupted(prompt: PromptInfo, outputs: NodeOutputs, *, ran: bool = True) -> AttemptResult:
    """Return the result of a stopped prompt; if we requested the stop, the attempt holds the reason."""
    return AttemptResult(
        state=AttemptState.INTERRUPTED,
        outputs=prompt.outputs(outputs),
        node_outputs=dict(outputs),
        error_message="Interrupted at the machine" if ran else "Removed from the queue",
        error_type=ErrorType.INTERRUPTED,
        failure=FailureClass.INTERRUPTED,
        ran=ran,
    )


def _raised(prompt: PromptInfo, outputs: NodeOutputs, error: ExecutionError | None) -> AttemptResult:
    message = plain_error(error.exception_message) if error else ""
    kind = FailureClass.NODE_ERROR
    if error is not None:
        kind = class_of_error(error.exception_type or "", error.exception_message)
    return AttemptResult(
        state=AttemptState.ERROR,
        outputs=prompt.outputs(outputs),
        node_outputs=dict(outputs),
        error_message=message or (error and error.exception_type) or "ComfyUI reports an error.",
        error_type=ErrorType.COMFYUI,
        failure=kind,
        error_details=None if error is None else _details(prompt, error),
    )


def _details(prompt: PromptInfo, error: ExecutionError) -> dict[str, Any]:
    return {
        "node_id": error.node_id,
        "node_type": error.node_type,
        "node_title": prompt.title(error.node_id),
        "exception_type": error.exception_type,
        "traceback": [line[:_MAX_INPUT_CHARACTERS] for line in error.traceback[-_MAX_TRACEBACK_LINES:]],
    }


async def check_cached_files(client: ComfyClient, end: AttemptResult, cached: Collection[str]) -> AttemptResult:
    """Mark files of a cached run that are gone: the run names old ones (comfyui-protocol.md, trap 9).

    ``end`` is a success. If ComfyUI ran every output node again (none is ``cached``), the backend is not queried.
    Returns the end with its missing files marked ``"missing": true`` and a warning for each; if no file is left,
    ``output_gone`` is its failure. If the backend does not answer, the end is returned as it was.
    """
    if end.state is not AttemptState.SUCCESS or not end.node_outputs.keys() & set(cached):
        return end
    outputs = dict(end.outputs)
    warnings: list[str] = []
    for key, items in outputs.items():
        if isinstance(items, list):
            outputs[key] = [await _checked(client, item, warnings) for item in items]
    end = replace(end, outputs=outputs, warnings=(*end.warnings, *warnings))
    if not all_missing(outputs):
        return end
    return replace(
        end,
        failure=FailureClass.OUTPUT_GONE,
        error_message=f"Every file that ComfyUI names is gone from the backend: {warnings[0]}",
        error_type=ErrorType.COMFYUI,
    )


async def files_ahead(client: ComfyClient, end: AttemptResult) -> dt.timedelta | None:
    """Return how far the clock that dates a backend's outputs is ahead of the backend's own clock.

    A file server has a clock of its own. Without this, all its files would seem to be written after the ends of their
    jobs. The result is None if this end wrote no output, or is over for a while: another prompt may have written the
    file.
    """
    file = next(
        (
            item
            for node in sorted(end.executed)
            for items in end.node_outputs[node].values()
            if isinstance(items, list)
            for item in items
            if isinstance(item, dict) and _names_a_file(item) and item["type"] == "output"
        ),
        None,
    )
    if file is None or end.backend_ended_at is None:
        return None
    try:
        async with asyncio.timeout(_DATES_WITHIN):
            head = await client.file_head(file["filename"], subfolder=file["subfolder"])
    except (BackendError, TimeoutError):
        return None
    if head is None:
        return None
    written, answered = head.moment("last-modified"), head.moment("date")
    if written is None:
        # Its files are not compared by their dates.
        return dt.timedelta(0)
    if answered is None or answered - end.backend_ended_at > _FRESH:
        return None
    ahead = written - end.backend_ended_at
    # Headers have whole seconds.
    return ahead if ahead > dt.timedelta(seconds=1) else dt.timedelta(0)


async def free_memory(client: ComfyClient) -> None:
    """Have a backend unload its models and empty its cache; errors are ignored."""
    with contextlib.suppress(BackendError, TimeoutError):
        async with asyncio.timeout(_FREE_WITHIN):
            await client.free()


def refusal(error: PromptRefused) -> tuple[FailureClass, dict[str, Any]]:
    """Return why a prompt was refused, and the details that are stored of it."""
    said = error.refusal
    known = {"details": said.details, "extra_info": said.extra_info, "node_errors": said.node_errors}
    details = {"status": error.status, "refusal_type": said.error_type, **known}
    return class_of_refusal(said.error_type, said.message, said.node_errors), details


def unconfirmed_message(answer: PromptUnconfirmed, backend_id: str) -> str:
    """Return what a user reads of an answer that turned out to be a refusal."""
    if answer.raised:
        cause = "ComfyUI raised an exception while it checked the workflow, and queued nothing."
        return f"{answer.detail} {cause} The log of {backend_id} has the exception."
    if answer.status == 500:
        twice = f"Two prompts of this workflow got a 500 at {backend_id}, and nothing is queued."
        return f"{answer.detail} {twice} Its log may have the cause."
    twice = "This was the answer to the previous try too, and nothing is queued."
    return f"{answer.detail} {twice} Check the address of {backend_id} and any proxy before it."


def unconfirmed_details(answer: PromptUnconfirmed) -> dict[str, Any]:
    """Return the details that are stored of an answer that neither accepts nor refuses a prompt."""
    return {"status": answer.status, "answer": answer.text, "unconfirmed": True, "raised": answer.raised}


def unconfirmed_stored(message: str | None, details_json: str | None) -> PromptUnconfirmed | None:
    """Return the answer to the POST that an uncertain attempt was stored with, None for none."""
    details = json.loads(details_json or "{}")
    if details.get("unconfirmed") is not True:
        return None
    return PromptUnconfirmed(message or "", status=details["status"], text=details["answer"], raised=details["raised"])


async def _checked(client: ComfyClient, item: Any, warnings: list[str]) -> Any:
    if not (isinstance(item, dict) and "url" in item and _names_a_file(item)) or item["type"] == SENT:
        return item
    if item.get("missing"):
        warnings.append(f"{item['filename']} was replaced: another file has its name.")
        return item
    try:
        head = await client.file_head(item["filename"], subfolder=item["subfolder"], kind=item["type"])
    except BackendError:
        return item
    if head is not None:
        return item
    warnings.append(f"{item['filename']} comes from an earlier run and is gone from the backend.")
    return {**item, "missing": True}


def _names_a_file(item: Mapping[str, Any]) -> bool:
    return all(isinstance(item.get(key), str) for key in ("filename", "subfolder", "type"))
