"""Checks of submitted text and graphs, which ComfyUI does not make.

Refused is what would break a ComfyUI that answered 200 (comfyui-protocol.md, trap 1), and what no
JSON or database can carry.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

from backends.errors import FieldInvalid

#: Maximum depth of objects and lists. ComfyUI's own graphs have about 5 levels; Python's JSON
#: writer, here and in ComfyUI, fails at some hundreds.
MAX_DEPTH: Final = 100

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_SHOWN_KEY_CHARACTERS: Final = 64

#: JSON types that are always valid. Long lists consist of them.
_VALID_TYPES: Final = frozenset({int, bool, type(None)})


class WorkflowInvalid(FieldInvalid):
    """The value is not a workflow in ComfyUI's API format."""


class TextInvalid(FieldInvalid):
    """A JSON value has a part that cannot be stored or written as JSON."""


def check_workflow(workflow: object, *, field: str = "workflow_json") -> None:
    """Refuse everything but a non-empty object of node id → ``{class_type: str, inputs: object}``.

    Raises ``WorkflowInvalid`` with the path of the first invalid part. A node without ``inputs``
    kills the worker thread of a ComfyUI that had answered 200 (comfyui-protocol.md, trap 1b).
    """
    if not isinstance(workflow, dict):
        raise WorkflowInvalid(field, "Must be an object of node ids and nodes.")
    if not workflow:
        raise WorkflowInvalid(field, "Must have at least one node.")
    if is_editor_format(workflow):
        raise WorkflowInvalid(
            field, "This is the editor's format: convert it with POST /api/workflows/convert."
        )
    if _is_request(workflow):
        raise WorkflowInvalid(
            field, 'This is a request to ComfyUI: send what is inside "prompt", and that alone.'
        )
    for node_id, node in workflow.items():
        _check_node(node, f"{field}.{shown_key(node_id)}")


def check_text(value: object, *, field: str, outer: int = 0) -> None:
    """Refuse NUL, lone surrogates, infinite numbers (``1e999``) and deep nesting, also in keys.

    The search needs memory for the current path only: a body of 16 MB can have 8 million elements.
    Raises ``TextInvalid`` with the path of the first invalid part.

    Args:
        field: The path of ``value``, for the error.
        outer: The number of objects and lists around ``value``; they count as levels.
    """
    if problem := _find_problem(value, outer):
        message, keys = problem
        raise TextInvalid(
            ".".join([field, *(shown_key(str(key)) for key in reversed(keys))]), message
        )


def shown_key(key: str) -> str:
    """Return a request's key for a response: printable, at most 64 characters."""
    cut = key[:_SHOWN_KEY_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in cut)


def is_editor_format(workflow: object) -> TypeGuard[dict[str, Any]]:
    """Return whether it has ``nodes`` and ``links`` that are not nodes with these ids."""
    if not isinstance(workflow, dict) or "nodes" not in workflow or "links" not in workflow:
        return False
    nodes = workflow["nodes"]
    return not (isinstance(nodes, dict) and "class_type" in nodes)


def _is_request(workflow: Mapping[str, Any]) -> bool:
    """Return whether it is a body of ``POST /prompt`` (comfyui-protocol.md, "HTTP") instead of its
    graph.
    """
    prompt = workflow.get("prompt")
    return isinstance(prompt, dict) and "class_type" not in prompt and "inputs" not in prompt


def _check_node(node: object, path: str) -> None:
    if not isinstance(node, dict):
        raise WorkflowInvalid(path, "A node must be an object with class_type and inputs.")
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        raise WorkflowInvalid(f"{path}.class_type", "Must be the name of the node's class.")
    if not isinstance(node.get("inputs"), dict):
        raise WorkflowInvalid(f"{path}.inputs", "Must be an object, empty for a node without any.")


def _find_problem(value: object, depth: int) -> tuple[str, list[str | int]] | None:
    """Return what is wrong with the first invalid part of a value, and its keys, innermost first.

    Recursive to at most ``MAX_DEPTH``: a container at that depth is invalid.
    """
    if message := _problem_of(value, depth):
        return message, []
    for key, item in _items_to_check(value):
        if problem := _find_problem(item, depth + 1):
            problem[1].append(key)
            return problem
    return None


def _items_to_check(value: object) -> Iterable[tuple[str | int, object]]:
    """Return the items of an object or list with their keys; none if all are valid."""
    if isinstance(value, list):
        # A set of types costs 10 ns per element, a function call 50 times as much.
        return () if _VALID_TYPES.issuperset(map(type, value)) else enumerate(value)
    return value.items() if isinstance(value, dict) else ()


def _problem_of(value: object, depth: int) -> str | None:
    """Return a message if a value or one of its keys is invalid."""
    if isinstance(value, str):
        unstorable = _unstorable(value)
        return f"Must not contain {unstorable}." if unstorable else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "Must be a finite number."
    if not isinstance(value, dict | list):
        return None
    if depth >= MAX_DEPTH:
        return f"Must not be nested more than {MAX_DEPTH} levels deep."
    keys = (_unstorable(key) for key in value) if isinstance(value, dict) else ()
    bad_key = next((character for character in keys if character), None)
    return f"Must not have a key that contains {bad_key}." if bad_key else None


def _unstorable(text: str) -> str | None:
    """Name the first character of a text that cannot be stored, or return None."""
    # A picture as a text has 100 MB, of which the expression takes a second.
    if text.isascii() and "\0" not in text:
        return None
    match = _UNSTORABLE.search(text)
    if match is None:
        return None
    return "NUL" if match[0] == "\x00" else "a lone surrogate"
