"""The result of an attempt, from ComfyUI's history, or from its frames if the history was cleared.
Pure.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.comfyui.answers import HistoryEntry
from backends.comfyui.errors import PromptRefused, PromptUnconfirmed
from backends.comfyui.outputs import collect_outputs, plain_error, without_added
from backends.comfyui.protocol import Event, ExecutionError, ExecutionInterrupted, ExecutionSuccess
from backends.comfyui.refusals import not_executed
from jobgroups.domain.failures import FailureClass, class_of_error, class_of_refusal
from jobgroups.domain.outputs import SENT, output_url, reported_files
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState, ErrorType

#: ComfyUI's tracebacks name every frame of a deep graph; a person reads the last ones.
_MAX_TRACEBACK_LINES = 40
_MAX_INPUT_CHARACTERS = 2_000

#: Failures after which the backend is to free its memory: there is too much in it, or its cache
#: would name the same files again.
FREED_AFTER: Final = frozenset({FailureClass.OUT_OF_MEMORY, FailureClass.OUTPUT_GONE})
NO_OUTPUT: Final = "ComfyUI reports a success without any output."
_ENDS: Final = ("execution_success", "execution_error", "execution_interrupted")
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
        """Return the outputs of a job, as its nodes reported them."""
        return self.collected({node: without_added(ui) for node, ui in node_outputs.items()})

    def collected(self, node_outputs: NodeOutputs) -> dict[str, Any]:
        """Return the outputs of a job, of nodes whose files have marks of the Director alone."""
        collected = collect_outputs(
            node_outputs, self.base_url, self.prompt_id, list(self.workflow)
        )
        for number, item in enumerate(reported_files(collected)):
            if item.get("type") == SENT:
                item["url"] = output_url(self.group_id, self.child_id, number)
        return collected

    def title(self, node_id: str | None) -> str | None:
        """Return what the user called a node, None where it has no title."""
        meta = self.workflow.get((node_id or "").split(".", maxsplit=1)[0], {}).get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        return title if isinstance(title, str) else None


def from_history(
    prompt: PromptInfo, entry: HistoryEntry, socket_outputs: NodeOutputs
) -> AttemptResult:
    """Return the result that ComfyUI's history shows; its status decides.

    The history has all outputs of the sockets, unless a node's output came to the sockets alone.
    """
    outputs = {**socket_outputs, **entry.outputs}
    if entry.outcome == "success":
        end = replace(_success(prompt, outputs), warnings=tuple(map(blocked_warning, entry.raised)))
    elif entry.outcome == "interrupted":
        end = interrupted_result(prompt, outputs)
    else:
        end = _error_result(prompt, outputs, entry.error)
    moments = list(_moments(entry))
    if not moments:
        return end
    kind, ended_at = moments[-1]
    began_at = dict(moments).get("execution_start")
    # Old versions of ComfyUI have no message of a success.
    seconds = (ended_at - began_at).total_seconds() if began_at and kind in _ENDS else None
    return replace(end, backend_ended_at=ended_at, seconds=seconds)


def _moments(entry: HistoryEntry) -> Iterator[tuple[str, dt.datetime]]:
    """Yield the type of each message with its time by the backend's clock."""
    for kind, data in entry.messages:
        # A blocked output's message has none.
        milliseconds = data.get("timestamp")
        if isinstance(milliseconds, int | float) and 0 < milliseconds < _LATEST_MS:
            yield kind, dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def is_blocked(error: ExecutionError) -> bool:
    """Return whether a node was only blocked: the prompt continues, and may succeed."""
    return error.exception_type == "ExecutionBlocked"


def blocked_warning(error: ExecutionError) -> str:
    """Return the warning about a blocked node, on one line."""
    return not_executed(error.node_id, error.node_type, plain_error(error.exception_message))


def from_frame(
    prompt: PromptInfo, frame: Event, socket_outputs: NodeOutputs
) -> AttemptResult | None:
    """Return the result from an end frame, for a cleared history; None: the frame is no end."""
    match frame:
        case ExecutionSuccess():
            return _success(prompt, socket_outputs)
        case ExecutionInterrupted():
            return interrupted_result(prompt, socket_outputs)
        case ExecutionError():
            return _error_result(prompt, socket_outputs, frame)
        case _:
            return None


def _success(prompt: PromptInfo, outputs: NodeOutputs) -> AttemptResult:
    return AttemptResult(
        state=AttemptState.SUCCESS, outputs=prompt.outputs(outputs), node_outputs=dict(outputs)
    )


def interrupted_result(
    prompt: PromptInfo, outputs: NodeOutputs, *, ran: bool = True
) -> AttemptResult:
    """Return the result of a stopped prompt; if we requested the stop, the attempt holds the
    reason.
    """
    return AttemptResult(
        state=AttemptState.INTERRUPTED,
        outputs=prompt.outputs(outputs),
        node_outputs=dict(outputs),
        error_message="Interrupted at the machine" if ran else "Removed from the queue",
        error_type=ErrorType.INTERRUPTED,
        failure=FailureClass.INTERRUPTED,
        ran=ran,
    )


def _error_result(
    prompt: PromptInfo, outputs: NodeOutputs, error: ExecutionError | None
) -> AttemptResult:
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
        "traceback": [
            line[:_MAX_INPUT_CHARACTERS] for line in error.traceback[-_MAX_TRACEBACK_LINES:]
        ],
    }


def refusal(error: PromptRefused) -> tuple[FailureClass, dict[str, Any]]:
    """Return why a prompt was refused, and the details that are stored of it."""
    answer = error.refusal
    known = {
        "details": answer.details,
        "extra_info": answer.extra_info,
        "node_errors": answer.node_errors,
    }
    details = {"status": error.status, "refusal_type": answer.error_type, **known}
    return class_of_refusal(answer.error_type, answer.message, answer.node_errors), details


def dangling(node: str, name: str, missing: str) -> dict[str, Any]:
    """Return the message and details of a prompt that is not sent: its graph would kill the
    backend's worker.
    """
    message = f"Node {node}: its input {name!r} is linked to node {missing}, which is not there."
    return {
        "message": message,
        "details": {"node_id": node, "input_name": name, "refused_by": "director"},
    }


def unconfirmed_message(answer: PromptUnconfirmed, backend: str) -> str:
    """Return what a user reads of an answer that turned out to be a refusal."""
    if answer.raised:
        cause = "ComfyUI raised an exception while it checked the workflow, and queued nothing."
        return f"{answer.detail} {cause} The log of {backend} has the exception."
    if answer.status == 500:
        twice = f"Two prompts of this workflow got a 500 at {backend}, and nothing is queued."
        return f"{answer.detail} {twice} Its log may have the cause."
    twice = "This was the answer to the previous try too, and nothing is queued."
    return f"{answer.detail} {twice} Check the address of {backend} and any proxy before it."


def unconfirmed_details(answer: PromptUnconfirmed) -> dict[str, Any]:
    """Return the details that are stored of an answer that neither accepts nor refuses a prompt."""
    return {
        "status": answer.status,
        "answer": answer.text,
        "unconfirmed": True,
        "raised": answer.raised,
    }


def unconfirmed_stored(message: str | None, details_json: str | None) -> PromptUnconfirmed | None:
    """Return the answer to the POST that an uncertain attempt was stored with, None for none."""
    details = json.loads(details_json or "{}")
    if details.get("unconfirmed") is not True:
        return None
    return PromptUnconfirmed(
        message or "", status=details["status"], text=details["answer"], raised=details["raised"]
    )
