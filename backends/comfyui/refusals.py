"""What ComfyUI refused or did not execute, as sentences for a user. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from backends.comfyui.errors import Refusal
from backends.comfyui.texts import one_line

#: Node faults that the sentence names; all of them are in ``node_errors``.
_NAMED_FAULTS: Final = 3
#: The body with which aiohttp, ComfyUI's HTTP server, answers an exception in a handler.
_EXCEPTION_IN_HANDLER: Final = b"500 Internal Server Error\n\nServer got itself in trouble"


def is_exception_in_handler(status: int, body: bytes) -> bool:
    """Return whether an answer is aiohttp's own 500, and not the 5xx of a proxy."""
    return status == 500 and body.strip() == _EXCEPTION_IN_HANDLER


def unconfirmed_sentence(status: int, text: str, *, is_page: bool, location: str) -> str:
    """Return the sentence for an answer that neither accepts nor refuses the prompt.

    ``text`` is on one line; of HTML (``is_page``) nothing is repeated. ``location`` is where a
    redirect leads; its query may hold a secret and is left out.
    """
    if 300 <= status < 400:
        return f"POST /prompt was answered with a redirect ({status}){_target(location)}."
    what = "200 without a prompt_id" if status == 200 else str(status)
    quote = "a web page" if is_page else f'"{text}"' if text else ""
    return f"POST /prompt was answered with {what}{f': {quote}' if quote else ''}."


def _target(location: str) -> str:
    try:
        parts = urlsplit(location)
    except ValueError:
        return ""
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    target = one_line(f"{host}{parts.path}")
    return f" to {target}" if target else ""


def sentence(refusal: Refusal, *, status: int) -> str:
    """Return ComfyUI's reason for a refusal, with the first faulty nodes.

    ``Prompt outputs failed validation: node 3 (KSampler): Value not in list:
    sampler_name: 'nope' not in (list of length 42)``
    """
    faults = [f"{where}: {fault}" for where, fault in _faults(refusal.node_errors)]
    reason = refusal.message or f"ComfyUI refused the prompt with {status}"
    if not faults:
        if class_type := refusal.extra_info.get("class_type"):
            # Since 0.12 the message names the title of the node, which a user may have changed.
            return f"{reason} It is node {refusal.extra_info.get('node_id')} ({class_type})."
        return f"{reason}: {refusal.details}" if refusal.details not in ("", reason) else reason
    named = "; ".join(faults[:_NAMED_FAULTS])
    more = len(faults) - _NAMED_FAULTS
    return f"{reason}: {named}" + (f"; and {more} more" if more > 0 else "")


def not_executed(node_id: str | None, class_type: str | None, cause: str) -> str:
    """Return the warning about a node that was not executed, on one line.

    ``ComfyUI did not execute node 3 (SaveImage): Execution Blocked: stop here``
    """
    return f"ComfyUI did not execute node {node_id or '?'} ({class_type or '?'}): {one_line(cause)}"


def partly(node_errors: Mapping[str, Any]) -> str:
    """Return what ComfyUI refused of a prompt that it accepted, with the first faulty nodes."""
    reason = "ComfyUI refused a part of the workflow"
    refusal = Refusal(error_type="", message=reason, details="", node_errors=dict(node_errors))
    return sentence(refusal, status=200)


def refused_outputs(node_errors: Mapping[str, Any]) -> Iterator[str]:
    """Give a warning for each node because of which ComfyUI does not execute some outputs.

    ``ComfyUI did not execute output node 3 (SaveImage): Required input is missing: images``
    """
    for node_id, node in node_errors.items():
        faults = [fault for _, fault in _faults({node_id: node})]
        cause = one_line("; ".join(faults) or "it gave no reason")
        where = _where(node_id, node)
        outputs = node.get("dependent_outputs") if isinstance(node, dict) else None
        others = [str(output_node) for output_node in outputs or () if output_node != node_id]
        if others:
            several = "s" if len(others) > 1 else ""
            yield (
                f"ComfyUI did not execute output node{several} {one_line(', '.join(others))}, "
                f"because of {where}: {cause}"
            )
        else:
            yield f"ComfyUI did not execute output {where}: {cause}"


def answer_lost(class_type: str) -> dict[str, Any]:
    """Return a node's entry in ``node_errors`` if ComfyUI's answer was lost: why is not known."""
    message = "it was refused, and ComfyUI's answer was lost"
    error = {"type": "answer_lost", "message": message, "details": "", "extra_info": {}}
    return {"errors": [error], "dependent_outputs": [], "class_type": class_type}


def _faults(node_errors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node_id, node in node_errors.items():
        errors = node.get("errors") if isinstance(node, dict) else None
        for error in errors if isinstance(errors, list) else []:
            if isinstance(error, dict):
                message, details = str(error.get("message", "")), str(error.get("details", ""))
                yield _where(node_id, node), f"{message}: {details}" if details else message


def _where(node_id: str, node: Any) -> str:
    class_type = node.get("class_type", "?") if isinstance(node, dict) else "?"
    return f"node {node_id} ({class_type})"
