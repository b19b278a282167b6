"""Whether a backend can execute a workflow, by the node classes that it describes. Pure.

ComfyUI has the last word: it checks each prompt. A wrong reason here would leave a GPU idle, while
a missing one costs a refusal. So there is a reason only where ComfyUI is certain to refuse.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from backends.node_classes import COMBO, NodeClass, NodeInput
from jobgroups.workflow.digest import MODEL_FILES
from jobgroups.workflow.graph import Workflow, closure, links

MAX_REASONS: Final = 100  #: Reasons of one backend; a workflow may have thousands of nodes.
#: Names with which a missing one is compared: it takes some microseconds each.
_MAX_COMPARED: Final = 2_000
#: Above this number ComfyUI's message has the length of a list instead of its choices.
_LONG_LIST: Final = 20
_MAX_SHOWN: Final = 200
_MAX_CHOICES: Final = 2_000  #: Choices of one input in an answer.
_MAX_ALL_CHOICES: Final = 20_000  #: Choices of all inputs in an answer: many nodes may load files.
_NO_CHANGES: Final[Mapping[tuple[str, str], Any]] = {}


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
        names = (choice for choice in self.choices[:_MAX_COMPARED] if isinstance(choice, str))
        return list(_nearest(self.value[:_MAX_SHOWN], tuple(names)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a workflow on one backend.

    With reasons, ComfyUI refuses the whole workflow (``is_refused``), or executes the outputs that
    they do not concern.
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
    """Return whether a node of a workflow is a partner's; None if no backend is known to have all
    of its classes.

    ``known`` has for each backend, of the classes that it has, whether they are a partner's.
    """
    names = class_types(workflow)
    known_by_backend = [[of_backend.get(name) for name in names] for of_backend in known]
    if any(True in of_backend for of_backend in known_by_backend):
        return True
    return None if all(None in of_backend for of_backend in known_by_backend) else False


def choices(
    workflow: Workflow, known: Sequence[Mapping[str, NodeClass | None]]
) -> dict[str, dict[str, Any]]:
    """Return the ``choices`` of the inputs with a value, by ``node.input``, in the order of the
    backends' lists.

    ``known`` has the classes of each backend. ``choice_backends`` has the number of backends with a
    choice, where another one lacks it.
    """
    fields: dict[str, dict[str, Any]] = {"choices": {}, "choice_backends": {}}
    counts: dict[tuple[str, str], tuple[int, Counter[Any]]] = {}
    left = _MAX_ALL_CHOICES
    for node_id, node in workflow.items():
        for name in (name for name, value in node["inputs"].items() if not isinstance(value, list)):
            key = node["class_type"], name
            if key not in counts:
                classes = (
                    node_class for of_backend in known if (node_class := of_backend.get(key[0]))
                )
                listed = [
                    node_class.inputs[name].choices
                    for node_class in classes
                    if name in node_class.inputs
                ]
                values = (
                    value
                    for choice_list in listed
                    for value in choice_list or ()
                    if isinstance(value, str | int | float)
                )
                counts[key] = len(listed), Counter(values)
            total, count = counts[key]
            offered = list(count)[: min(_MAX_CHOICES, left)]
            if not offered:
                continue
            left -= len(offered)
            fields["choices"][f"{node_id}.{name}"] = offered
            if lacking := {
                str(choice): count[choice] for choice in offered if count[choice] < total
            }:
                fields["choice_backends"][f"{node_id}.{name}"] = lacking
    return fields


class Judge:
    """Judges whether a backend can execute a workflow with its parameters set, also with other
    values of some inputs.

    ``classes`` are those that are known of the backend; None for one that it does not have.
    """

    def __init__(self, workflow: Workflow, classes: Mapping[str, NodeClass | None]) -> None:
        sources: defaultdict[str, set[str]] = defaultdict(set)
        self._readers: defaultdict[str, set[str]] = defaultdict(set)
        for node_id, _, source in links(workflow):
            if source in workflow:
                sources[node_id].add(source)
                self._readers[source].add(node_id)
        known = {
            id_: node_class
            for id_, node in workflow.items()
            if (node_class := classes.get(node["class_type"])) is not None
        }
        self._fatal = [*_missing_nodes(workflow, classes), *_missing_sources(workflow)]
        outputs = [node_id for node_id, node_class in known.items() if node_class.is_output]
        needed = closure(outputs, lambda node_id: sources[node_id])
        #: ComfyUI checks no node that no output needs.
        self._checked = {
            node_id: node_class for node_id, node_class in known.items() if node_id in needed
        }
        self._faults = {
            (node_id, name): reason
            for node_id, node_class in self._checked.items()
            for name, reason in _faults(node_id, workflow[node_id], node_class)
        }
        # A node of an unknown class that no other node reads may be an output.
        self._possible = outputs + [
            node_id
            for node_id, node in workflow.items()
            if node["class_type"] not in classes and node_id not in self._readers
        ]
        self._workflow = workflow
        self._position = {node_id: at for at, node_id in enumerate(workflow)}
        self._is_known = classes.keys() >= class_types(workflow)

    def verdict(self, changes: Mapping[tuple[str, str], Any] = _NO_CHANGES) -> Verdict:
        """Return whether the workflow with these values of inputs, by (node id, name), is refused,
        and every reason.
        """
        faults = [reason for slot, reason in self._faults.items() if slot not in changes]
        faults += [
            fault for slot, value in changes.items() if (fault := self._fault_of(*slot, value))
        ]
        if not faults and not self._fatal:
            return Verdict(is_known=self._is_known)
        spoilt = closure(
            {fault.node_id for fault in faults}, lambda node_id: self._readers[node_id]
        )
        reasons = sorted([*self._fatal, *faults], key=lambda fault: self._position[fault.node_id])
        return Verdict(
            tuple(reasons[:MAX_REASONS]),
            is_refused=bool(self._fatal) or (bool(faults) and spoilt.issuperset(self._possible)),
            is_known=self._is_known,
        )

    def _fault_of(self, node_id: str, name: str, value: Any) -> Reason | None:
        known = self._checked.get(node_id)
        if known is None or name not in known.inputs:
            return None
        class_type = self._workflow[node_id]["class_type"]
        return _fault(node_id, class_type, name, value, known.inputs[name], is_core=known.is_core)


def _missing_nodes(workflow: Workflow, classes: Mapping[str, NodeClass | None]) -> Iterator[Reason]:
    for node_id, node in workflow.items():
        name = node["class_type"]
        if name in classes and classes[name] is None:
            message = f"Node '{_short_text(name)}' not found. The custom node may not be installed."
            yield Reason(ReasonCode.NODE_MISSING, node_id, name, None, message)


def _missing_sources(workflow: Workflow) -> Iterator[Reason]:
    for node_id, name, source in links(workflow):
        if source not in workflow:
            message = f"{_short_text(name)} is linked to node {_short_text(source)}, which does not exist."
            class_type = workflow[node_id]["class_type"]
            yield Reason(ReasonCode.INPUT_MISSING, node_id, class_type, name, message)


def _faults(
    node_id: str, node: Mapping[str, Any], known: NodeClass
) -> Iterator[tuple[str, Reason]]:
    """Give the inputs of one node that ComfyUI refuses, with the reasons."""
    class_type, inputs = node["class_type"], node["inputs"]
    for name, declared in known.inputs.items():
        if name in inputs:
            reason = _fault(
                node_id, class_type, name, inputs[name], declared, is_core=known.is_core
            )
            if reason is not None:
                yield name, reason
        elif declared.is_required:
            message = f"Required input is missing: {_short_text(name)}"
            yield name, Reason(ReasonCode.INPUT_MISSING, node_id, class_type, name, message)


def _fault(
    node_id: str, class_type: str, name: str, value: Any, declared: NodeInput, *, is_core: bool
) -> Reason | None:
    if isinstance(value, dict):
        value = value.get("__value__", value)
    if isinstance(value, list | dict):
        return None
    code: ReasonCode | None = ReasonCode.VALUE_INVALID
    if declared.type == COMBO:
        code = _code_of_choice(value, declared, is_core=is_core)
        message = _not_in_list(name, value, declared.choices or ()) if code else ""
    else:
        message = _wrong_number(value, declared) if is_core else ""
    if not code or not message:
        return None
    return Reason(code, node_id, class_type, name, message, value, declared.choices or ())


def _code_of_choice(value: Any, declared: NodeInput, *, is_core: bool) -> ReasonCode | None:
    """Return the code of a value that is certainly no choice; None if it may be one."""
    choices = declared.choices
    if choices is None or value in choices:
        return None
    is_text = isinstance(value, str)
    if is_text and value.lower().endswith(MODEL_FILES) and not declared.is_upload:
        # Some custom nodes fill an empty list later.
        return ReasonCode.FILE_MISSING if choices or is_core else None
    # A custom node may check its values by itself. So does a node that reads files: it also takes
    # those in folders ("a/b.png") and of other kinds ("a.png [output]"), which are not listed.
    if not is_core or (
        is_text and (not value or value.endswith("]") or "/" in value or "\\" in value)
    ):
        return None
    return ReasonCode.FILE_MISSING if declared.is_upload else ReasonCode.VALUE_INVALID


def _not_in_list(name: str, value: Any, choices: tuple[Any, ...]) -> str:
    listed = f"(list of length {len(choices)})" if len(choices) > _LONG_LIST else list(choices)
    return f"Value not in list: {_short_text(name)}: '{_short_text(value)}' not in {_short_text(listed)}"


def _wrong_number(value: Any, declared: NodeInput) -> str:
    """Return ComfyUI's message about a number, empty if the value may be accepted."""
    if declared.type not in ("INT", "FLOAT"):
        return ""
    try:
        number = int(value) if declared.type == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        return f"Failed to convert an input value to a {declared.type} value: {_short_text(value)}"
    if declared.low is not None and number < declared.low:
        return f"Value {number} smaller than min of {declared.low}"
    if declared.high is not None and number > declared.high:
        return f"Value {number} bigger than max of {declared.high}"
    return ""


def _short_text(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
