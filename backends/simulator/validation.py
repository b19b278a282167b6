"""Checks a prompt as ComfyUI does before it is queued, with its error bodies (comfyui-protocol.md,
"HTTP").

Two things follow from ComfyUI's order and are kept: values are converted in place (queue and
history show the converted ones), and only nodes that lead to an output are checked.
"""

from dataclasses import dataclass, field
from typing import Any

from backends.simulator import releases
from backends.simulator.catalog import Catalog, Input
from backends.simulator.file_inputs import FILE_INPUTS
from backends.simulator.folders import Folders
from backends.simulator.releases import Release

Prompt = Any  # what a client sent: hopefully {id: {"class_type", "inputs"}}
Problem = dict[str, Any]

_CONVERTERS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_LONG_LIST = 20  # choices; longer lists aren't repeated in an error


@dataclass(slots=True)
class Verdict:
    """What became of a prompt: outputs to run, or `error`; `node_errors` in both cases."""

    outputs: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(
    prompt: Prompt, targets: Any, catalog: Catalog, folders: Folders, release: Release
) -> Verdict:
    """Check a prompt. A malformed one raises an exception, which is ComfyUI's 500.

    `targets` is `partial_execution_targets`: ids of the outputs to run, or None for all.
    """
    outputs: list[str] = []
    for node_id in prompt:
        node = prompt[node_id]
        if "class_type" not in node or node["class_type"] not in catalog:
            return Verdict(error=_missing(node_id, node, release))
        class_type = node["class_type"]
        if catalog.is_output(class_type) and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=_problem("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Check(prompt, catalog, folders, release).run(outputs)


def _missing(node_id: str, node: Any, release: Release) -> Problem:
    """The refusal of a node without a known class. Raises AttributeError in newer versions for what
    is no node.
    """
    where = f"Node ID '#{node_id}'"
    if release < releases.MISSING_NODE_TYPE:
        message = "Cannot execute because a node is missing the class_type property."
        if "class_type" in node:
            message = f"Cannot execute because node {node['class_type']} does not exist."
        return _problem("invalid_prompt", message, where)
    class_type = node.get("class_type")
    title = node.get("_meta", {}).get("title", class_type)
    fault = "not found. The custom node may not be installed."
    if "class_type" not in node:
        fault = "has no class_type. The workflow may be corrupted or a custom node is missing."
    info = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return _problem(
        "missing_node_type", f"Node '{title or f'ID #{node_id}'}' {fault}", where, **info
    )


class _Check:
    """One walk from the outputs to their roots."""

    def __init__(
        self, prompt: Prompt, catalog: Catalog, folders: Folders, release: Release
    ) -> None:
        self._prompt = prompt
        self._catalog = catalog
        self._folders = folders
        self._checked: dict[str, tuple[bool, list[Problem]]] = {}
        self._names_cycles = release >= releases.DEPENDENCY_CYCLE
        # The way to the node that is checked, with its cycles.
        self._walking: dict[str, list[Problem]] = {}

    def run(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        problems: list[Problem] = []
        node_errors: dict[str, Any] = {}
        for node_id in outputs:
            valid, reasons = self._output(node_id)
            if valid:
                good.append(node_id)
                continue
            problems += reasons
            self._collect(node_id, node_errors)
        if good:
            return Verdict(outputs=good, node_errors=node_errors)
        details = "\n".join(f"{p['message']}: {p['details']}" for p in problems)
        error = _problem(
            "prompt_outputs_failed_validation", "Prompt outputs failed validation", details
        )
        return Verdict(error=error, node_errors=node_errors)

    def _output(self, node_id: str) -> tuple[bool, list[Problem]]:
        try:
            return self._node(node_id)
        except Exception as error:  # noqa: BLE001 - any is an answer here, as in ComfyUI
            kind, message = "exception_during_validation", "Exception when validating node"
            self._invalid(
                node_id, _problem(kind, message, error, **_exception_entry(error, "prompt"))
            )
            return self._checked[node_id]

    def _invalid(self, node_id: str, reason: Problem) -> None:
        self._checked[node_id] = (False, [reason])
        self._walking.pop(node_id, None)

    def _collect(self, output: str, node_errors: dict[str, Any]) -> None:
        for node_id, (valid, reasons) in self._checked.items():
            if valid or not reasons:
                continue
            class_type = self._prompt[node_id]["class_type"]
            fresh = {"errors": reasons, "dependent_outputs": [], "class_type": class_type}
            node_errors.setdefault(node_id, fresh)["dependent_outputs"].append(output)

    def _node(self, node_id: str) -> tuple[bool, list[Problem]]:
        if node_id in self._checked:
            return self._checked[node_id]
        inputs = self._prompt[node_id]["inputs"]
        class_type = self._prompt[node_id]["class_type"]
        problems: list[Problem] = []
        self._walking[node_id] = problems
        valid = True
        for name, declared in self._catalog.inputs(class_type).items():
            about = {"input_name": name, "input_config": [declared.type, declared.options]}
            if name not in inputs:
                if declared.category == "required":
                    kind, message = "required_input_missing", "Required input is missing"
                    problems.append(_problem(kind, message, name, input_name=name))
            elif isinstance(inputs[name], list):
                valid &= self._link(inputs[name], declared, about, problems)
            else:
                problems += self._value(inputs, declared, about, class_type)
        problems += self._custom(class_type, inputs)
        del self._walking[node_id]
        self._checked[node_id] = (valid and not problems, problems)
        return self._checked[node_id]

    def _link(
        self, link: Any, declared: Input, about: dict[str, Any], problems: list[Problem]
    ) -> bool:
        """Check a link and what it leads to; False if something upstream is invalid."""
        name = about["input_name"]
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            problems.append(
                _problem("bad_linked_input", message, name, **about, received_value=link)
            )
            return True
        source, slot = link
        received = tuple(self._catalog.returns(self._prompt[source]["class_type"]))[slot]
        if not _fits(received, declared.type):
            message = "Return type mismatch between linked nodes"
            details = f"{name}, received_type({received}) mismatch input_type({declared.type})"
            info = about | {"received_type": received, "linked_node": link}
            problems.append(_problem("return_type_mismatch", message, details, **info))
            return True
        if source in self._walking:
            self._blame_cycle(source)  # older versions run out of stack here and name no node
            return False
        try:
            return self._node(source)[0]
        except Exception as error:  # noqa: BLE001 - any is an answer here, as in ComfyUI
            kind = "exception_during_inner_validation"
            message = "Exception when validating inner node"
            info = about | {"exception_message": str(error)} | _exception_entry(error, "inputs")
            self._invalid(source, _problem(kind, message, error, **info, linked_node=link))
            return False

    def _blame_cycle(self, start: str) -> None:
        if not self._names_cycles:
            return
        way = list(self._walking)
        cycle = way[way.index(start) :]
        details = " -> ".join(
            f"{node_id} ({self._prompt[node_id]['class_type']})" for node_id in [*cycle, start]
        )
        for node_id in cycle:
            info = {"node_id": node_id, "cycle_nodes": cycle}
            problem = _problem("dependency_cycle", "Dependency cycle detected", details, **info)
            self._walking[node_id].append(problem)

    def _value(
        self, inputs: dict[str, Any], declared: Input, about: dict[str, Any], class_type: str
    ) -> list[Problem]:
        """Convert a constant in place; return what is wrong with it."""
        name = about["input_name"]
        value = inputs[name]
        try:
            if isinstance(value, dict) and "__value__" in value:
                value = inputs[name] = value["__value__"]
            if isinstance(declared.type, str) and declared.type in _CONVERTERS:
                value = inputs[name] = _CONVERTERS[declared.type](value)
        except Exception as error:  # noqa: BLE001 - any is an answer here, as in ComfyUI
            message = f"Failed to convert an input value to a {declared.type} value"
            info = about | {"received_value": value, "exception_message": str(error)}
            details = f"{name}, {value}, {error}"
            return [_problem("invalid_input_type", message, details, **info)]
        if (file_input := FILE_INPUTS.get(class_type)) and file_input.name == name:
            return []  # its own check reads the folder
        return _out_of_range(value, declared, about | {"received_value": value})

    def _custom(self, class_type: str, inputs: dict[str, Any]) -> list[Problem]:
        if (file_input := FILE_INPUTS.get(class_type)) is None:
            return []
        if (complaint := file_input.complaint(inputs, self._folders)) is None:
            return []
        name = file_input.name
        details, message = f"{name} - {complaint}", "Custom validation failed for node"
        return [_problem("custom_validation_failed", message, details, input_name=name)]


def _out_of_range(value: Any, declared: Input, info: dict[str, Any]) -> list[Problem]:
    name = info["input_name"]
    low, high = declared.options.get("min"), declared.options.get("max")
    if low is not None and value < low:
        message = f"Value {value} smaller than min of {low}"
        return [_problem("value_smaller_than_min", message, name, **info)]
    if high is not None and value > high:
        message = f"Value {value} bigger than max of {high}"
        return [_problem("value_bigger_than_max", message, name, **info)]
    choices = declared.options.get("options", []) if declared.type == "COMBO" else declared.type
    if not isinstance(choices, list) or value in choices:
        return []
    listed = str(choices)
    if len(choices) > _LONG_LIST:
        listed = f"(list of length {len(choices)})"
        info["input_config"] = None
    details = f"{name}: '{value}' not in {listed}"
    return [_problem("value_not_in_list", "Value not in list", details, **info)]


def _fits(received: Any, wanted: Any) -> bool:
    """Whether a slot's type may go into an input: equal, "*", or one of "A,B" in common."""
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return bool({t.strip() for t in received.split(",")} & {t.strip() for t in wanted.split(",")})


def _problem(kind: str, message: str, details: object, **info: Any) -> Problem:
    return {"type": kind, "message": message, "details": str(details), "extra_info": info}


def _exception_entry(error: Exception, function: str) -> dict[str, Any]:
    """An exception in ComfyUI's form; the traceback names no file of the machine it runs on."""
    trace = f'  File "/opt/ComfyUI/execution.py", line 1, in validate_{function}\n'
    return {"exception_type": type(error).__qualname__, "traceback": [trace]}


def no_prompt() -> dict[str, Any]:
    message = "No prompt provided"
    return {"error": _problem("no_prompt", message, message), "node_errors": {}}


def invalid_prompt_id() -> dict[str, Any]:
    details = (
        "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let "
        "the server generate one"
    )
    error = _problem("invalid_prompt_id", "prompt_id must be a valid UUID", details)
    return {"error": error, "node_errors": {}}
