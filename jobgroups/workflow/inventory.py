"""Whether a backend can execute a workflow, by the node classes that it describes. Pure.

ComfyUI has the last word: it checks each prompt. A wrong reason here would leave a GPU idle, while a missing one costs
a refusal. So there is a reason only where ComfyUI is certain to refuse.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from backends.node_classes import COMBO, NodeClass, NodeInput
from jobgroups.workflow.digest import MODEL_FILES
from jobgroups.workflow.graph import Workflow, closure, links

MAX_REASONS: Final = 100  #: Reasons of one backend; a workflow may have thousands of nodes.
_MAX_COMPARED: Final = 2_000  #: Names with which a missing one is compared: it takes some microseconds each.
_LONG_LIST: Final = 20  #: Above this number ComfyUI's message has the length of a list instead of its choices.
_MAX_SHOWN: Final = 200


class ReasonCode(StrEnum):
    """Why ComfyUI refuses a node."""

    NODE_MISSING = "node_missing"
    FILE_MISSING = "file_missing"
    VALUE_INVALID = "value_invalid"
    INPUT_MISSING = "input_missing"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a backend cannot execute a node."""

    code: ReasonCode
    node_id: str
    class_type: str
    input: str | None
    message: str
    value: Any = field(default=None, repr=False)
    choices: tuple[Any, ...] = field(default=(), repr=False)

    def nearest(self) -> list[str]:
        """Return the choices that are most like the missing one, at most three."""
        if not isinstance(self.value, str):
            return []
        names = (one for one in self.choices[:_MAX_COMPARED] if isinstance(one, str))
        return list(_nearest(self.value[:_MAX_SHOWN], tuple(names)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a workflow on one backend.

    With reasons, ComfyUI refuses the whole workflow (``is_refused``), or executes the outputs that they do not concern.
    """

    reasons: tuple[Reason, ...] = ()  #: In the order of the nodes, at most ``MAX_REASONS``.
    is_refused: bool = False
    is_known: bool = False  #: Every class of the workflow is known.


@lru_cache(maxsize=256)
def _nearest(value: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(value, names, n=3))


def class_types(workflow: Workflow) -> set[str]:
    """Return the node classes of a workflow."""
    return {str(node["class_type"]) for node in workflow.values()}


def uses_partner_nodes(workflow: Workflow, known: Iterable[Mapping[str, bool]]) -> bool | None:
    """Return whether a node of a workflow is a partner's; None if no backend is known to have all of its classes.

    ``known`` has for each backend, of the classes that it has, whether they are a partner's.
    """
    names = class_types(workflow)
    found = [[of_backend.get(name) for name in names] for of_backend in known]
    if any(True in of_backend for of_backend in found):
        return True
    return None if all(None in of_backend for of_backend in found) else False


def judge(workflow: Workflow, classes: Mapping[str, NodeClass | None]) -> Verdict:
    """Return whether a backend can execute a workflow with its parameters set, and every reason why not.

    ``classes`` are those that are known of the backend; None for one that it does not have.
    """
    sources: defaultdict[str, set[str]] = defaultdict(set)
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node_id, _, source in links(workflow):
        if source in workflow:
            sources[node_id].add(source)
            readers[source].add(node_id)
    known = {node_id: one for node_id, node in workflow.items() if (one := classes.get(node["class_type"])) is not None}
    fatal = [*_missing_nodes(workflow, classes), *_missing_sources(workflow)]
    outputs = [node_id for node_id, one in known.items() if one.is_output]
    needed = closure(outputs, lambda node_id: sources[node_id])
    faults = [
        reason
        for node_id, one in known.items()
        if node_id in needed
        for reason in _faults(node_id, workflow[node_id], one)
    ]
    # A node of an unknown class that no other node reads may be an output.
    possible = outputs + [
        node_id for node_id, node in workflow.items() if node["class_type"] not in classes and node_id not in readers
    ]
    spoilt = closure({one.node_id for one in faults}, lambda node_id: readers[node_id])
    position = {node_id: at for at, node_id in enumerate(workflow)}
    reasons = sorted([*fatal, *faults], key=lambda one: position[one.node_id])
    return Verdict(
        tuple(reasons[:MAX_REASONS]),
        is_refused=bool(fatal) or (bool(faults) and spoilt.issuperset(possible)),
        is_known=classes.keys() >= class_types(workflow),
    )


def _missing_nodes(workflow: Workflow, classes: Mapping[str, NodeClass | None]) -> Iterator[Reason]:
    for node_id, node in workflow.items():
        name = node["class_type"]
        if name in classes and classes[name] is None:
            message = f"Node '{_shown(name)}' not found. The custom node may not be installed."
            yield Reason(ReasonCode.NODE_MISSING, node_id, name, None, message)


def _missing_sources(workflow: Workflow) -> Iterator[Reason]:
    for node_id, name, source in links(workflow):
        if source not in workflow:
            message = f"{_shown(name)} is linked to node {_shown(source)}, which does not exist."
            class_type = workflow[node_id]["class_type"]
            yield Reason(ReasonCode.INPUT_MISSING, node_id, class_type, name, message)


def _faults(node_id: str, node: Mapping[str, Any], known: NodeClass) -> Iterator[Reason]:
    """Give the reasons of one node that an output needs: ComfyUI checks no other one."""
    class_type, inputs = node["class_type"], node["inputs"]
    for name, declared in known.inputs.items():
        if name not in inputs:
            if declared.is_required:
                message = f"Required input is missing: {_shown(name)}"
                yield Reason(ReasonCode.INPUT_MISSING, node_id, class_type, name, message)
            continue
        value = inputs[name]
        if isinstance(value, dict):
            value = value.get("__value__", value)
        if isinstance(value, list | dict):
            continue
        if declared.type == COMBO:
            code = _code_of_choice(value, declared, is_core=known.is_core)
            message = _not_in_list(name, value, declared.choices or ())
        else:
            code = ReasonCode.VALUE_INVALID
            message = _wrong_number(value, declared) if known.is_core else ""
        if code and message:
            yield Reason(code, node_id, class_type, name, message, value, declared.choices or ())


def _code_of_choice(value: Any, declared: NodeInput, *, is_core: bool) -> ReasonCode | None:
    """Return the code of a value that is certainly no choice; None if it may be one."""
    choices = declared.choices
    if choices is None or value in choices:
        return None
    is_text = isinstance(value, str)
    if is_text and value.lower().endswith(MODEL_FILES) and not declared.is_upload:
        # Some custom nodes fill an empty list later.
        return ReasonCode.FILE_MISSING if choices or is_core else None
    # A custom node may check its values by itself. So does a node that reads files: it also takes those in folders
    # ("a/b.png") and of other kinds ("a.png [output]"), which are not listed.
    if not is_core or (is_text and (not value or value.endswith("]") or "/" in value or "\\" in value)):
        return None
    return ReasonCode.FILE_MISSING if declared.is_upload else ReasonCode.VALUE_INVALID


def _not_in_list(name: str, value: Any, choices: tuple[Any, ...]) -> str:
    listed = f"(list of length {len(choices)})" if len(choices) > _LONG_LIST else list(choices)
    return f"Value not in list: {_shown(name)}: '{_shown(value)}' not in {_shown(listed)}"


def _wrong_number(value: Any, declared: NodeInput) -> str:
    """Return ComfyUI's message about a number, empty if the value may be accepted."""
    if declared.type not in ("INT", "FLOAT"):
        return ""
    try:
        number = int(value) if declared.type == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        return f"Failed to convert an input value to a {declared.type} value: {_shown(value)}"
    if declared.low is not None and number < declared.low:
        return f"Value {number} smaller than min of {declared.low}"
    if declared.high is not None and number > declared.high:
        return f"Value {number} bigger than max of {declared.high}"
    return ""


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
