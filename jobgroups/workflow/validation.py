"""What is refused before anything else looks at it: text nobody can store, graphs that are none.

The graph's inputs are not judged here, ComfyUI does that. What is judged is what would break a
ComfyUI that answered 200 (comfyui-protocol.md, trap 1), and what no JSON or database can carry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Objects and lists may be nested this deep. ComfyUI's own go to about 5; Python's JSON writer, here
#: and in ComfyUI, gives up at some hundreds.
MAX_DEPTH: Final = 100

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_SHOWN_KEY_CHARACTERS: Final = 64

#: Types of a JSON value in which nothing can be wrong. Long lists consist of them.
_SOUND: Final = frozenset({int, bool, type(None)})


@dataclass(slots=True)
class _Wrong:
    """Something wrong inside a JSON value: its depth, its keys (innermost first) and the sentence."""

    depth: int
    message: str
    keys: list[str | int] = field(default_factory=list)


class FieldInvalid(ValueError):
    """A field of a request is wrong.

    ``field`` is its path (``workflow_json.3.inputs``), safe to print whatever the request's keys
    were; ``message`` a sentence that repeats no value of the request.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class WorkflowInvalid(FieldInvalid):
    """This is not a workflow in ComfyUI's API format."""


class TextInvalid(FieldInvalid):
    """A JSON value holds what cannot be stored or written as JSON again."""


def check_workflow(workflow: object, *, field: str = "workflow_json") -> None:
    """Refuse what is not a non-empty object of node id → ``{class_type: str, inputs: object}``.

    Raises:
        WorkflowInvalid: With the path of the first thing that is wrong. A node without ``inputs``
            kills the worker thread of a ComfyUI that had answered 200 (comfyui-protocol.md, trap 1b).
    """
    if not isinstance(workflow, dict):
        raise WorkflowInvalid(field, "Must be an object of node ids and nodes.")
    if not workflow:
        raise WorkflowInvalid(field, "Must have at least one node.")
    if _is_editor_format(workflow):
        raise WorkflowInvalid(
            field,
            'This is the editor\'s format: export the workflow with "Save (API format)",'
            ' which newer versions of ComfyUI call "Export (API)".',
        )
    if _is_request(workflow):
        raise WorkflowInvalid(
            field, 'This is a request to ComfyUI: send what is inside "prompt", and that alone.'
        )
    for node_id, node in workflow.items():
        _check_node(node, f"{field}.{shown_key(node_id)}")


def check_text(value: object, *, field: str, outer: int = 0) -> None:
    """Refuse NUL, lone surrogates, numbers that are not finite and bottomless nesting, anywhere.

    Keys count too. PostgreSQL stores no NUL, UTF-8 has no lone surrogates, JSON has no infinity
    (which ``1e999`` becomes). The search takes memory for the current path alone, never for each
    element: a body of 16 MB may have 8 million of them.

    Args:
        value: Anything that ``json.loads`` returns.
        field: The path of ``value`` itself, for the error.
        outer: How many objects and lists ``value`` stands in: they count as levels too.

    Raises:
        TextInvalid: With the path of the outermost thing that is wrong, the first of its level.
    """
    wrong = _wrong_in(value, outer)
    if wrong is not None:
        keys = [shown_key(str(key)) for key in reversed(wrong.keys)]
        raise TextInvalid(".".join([field, *keys]), wrong.message)


def shown_key(key: str) -> str:
    """Return a request's key as it may stand in an answer: printable, at most 64 characters."""
    cut = key[:_SHOWN_KEY_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in cut)


def _is_editor_format(workflow: Mapping[str, Any]) -> bool:
    """Whether it has ``nodes`` and ``links`` that are not themselves nodes with odd ids."""
    if "nodes" not in workflow or "links" not in workflow:
        return False
    nodes = workflow["nodes"]
    return not (isinstance(nodes, dict) and "class_type" in nodes)


def _is_request(workflow: Mapping[str, Any]) -> bool:
    """Whether it is what ComfyUI's ``POST /prompt`` takes (comfyui-protocol.md, "HTTP"), not the graph in it."""
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


def _wrong_in(value: object, depth: int, above: float = math.inf) -> _Wrong | None:
    """Return the outermost thing that is wrong in a value, among those above a depth.

    Recursive, but never deeper than ``MAX_DEPTH``: a container at that depth is itself wrong.
    """
    complaint = _complaint(value, depth)
    if complaint is not None:
        return _Wrong(depth, complaint)
    found = None
    for key, item in _doubtful(value) if depth + 1 < above else ():
        wrong = _wrong_in(item, depth + 1, above)
        if wrong is not None:
            wrong.keys.append(key)
            found, above = wrong, wrong.depth
            if above == depth + 1:
                break
    return found


def _doubtful(value: object) -> Iterable[tuple[str | int, object]]:
    """Return the items of an object or list that are to be looked into, with their keys."""
    if isinstance(value, list):
        # A set of types costs 10 ns an element, a call for each of them 50 times as much.
        return () if _SOUND.issuperset(map(type, value)) else enumerate(value)
    return value.items() if isinstance(value, dict) else ()


def _complaint(value: object, depth: int) -> str | None:
    """Return what is wrong with one value, its keys included; None if nothing is."""
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
    bad_key = next((found for found in keys if found), None)
    return f"Must not have a key that contains {bad_key}." if bad_key else None


def _unstorable(text: str) -> str | None:
    """Name the first thing in a text that cannot be stored; None if there is none."""
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    return "NUL" if found[0] == "\x00" else "a lone surrogate"
