"""Check a prompt as ComfyUI does before it is queued, by one machine's descriptions of its classes,
with ComfyUI's errors. Pure.

A wrong refusal would keep a job from a machine that executes it, so there is an error only where
ComfyUI is certain to refuse: a custom class may check its values by itself (see
``jobgroups.workflow.inventory``).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backends.node_union import choices
from jobgroups.workflow.digest import MODEL_FILES

#: Returns the description of a class, as in ``/object_info``; None: the machine does not have it.
Describe = Callable[[str], Mapping[str, Any] | None]
Problem = dict[str, Any]
Slot = tuple[str, str]  #: Node id and name of an input.

_CORE_MODULES: Final = ("nodes", "comfy_extras")
#: Types of inputs that stand for several inputs, or for none.
_DYNAMIC: Final = "COMFY_"
_LONG_LIST: Final = (
    20  #: Above this number an error has the length of a list instead of its choices.
)
_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
#: Of the flag of an input of uploaded files, ComfyUI's word for such a file.
_NOUNS: Final = {"image_upload": "image", "audio_upload": "audio", "video_upload": "video"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a machine would answer.

    Attributes:
        outputs: the nodes that it would execute.
        error: the refusal, in ComfyUI's shape; None: it would accept the prompt.
        node_errors: why it would not execute other outputs, in ComfyUI's shape.
    """

    outputs: Sequence[str] = ()
    error: Problem | None = None
    node_errors: Mapping[str, Any] = field(default_factory=dict)


def check_prompt(
    graph: Mapping[str, Mapping[str, Any]],
    describe: Describe,
    *,
    targets: Collection[str] | None = None,
    resolved: Collection[Slot] = (),
    missing: Collection[Slot] = (),
) -> Checked:
    """Return what a machine would answer to a prompt.

    Args:
        graph: node id to an object with ``inputs``.
        describe: see ``Describe``.
        targets: the outputs to execute; None: all.
        resolved: inputs whose values the Director replaces before it sends the prompt.
        missing: inputs whose files the machine does not have, of ``unlisted_files``.
    """
    outputs = []
    for node_id, node in graph.items():
        described = describe(node["class_type"]) if "class_type" in node else None
        if described is None:
            return Checked(error=missing_class(node_id, node))
        if described.get("output_node") is True and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Checked(error=problem("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Walk(graph, describe, frozenset(resolved), frozenset(missing)).run(outputs)


def unlisted_files(
    graph: Mapping[str, Mapping[str, Any]], describe: Describe, *, resolved: Collection[Slot] = ()
) -> dict[Slot, str]:
    """Return the values that name files of a machine which no list of choices has: those in a
    folder (``shots/cat.png``), and annotated ones (``cat.png [output]``).
    """
    walk = _Walk(graph, describe, frozenset(resolved), frozenset())
    return {
        (node_id, declared.name): value
        for node_id, node in graph.items()
        if any(map(_may_be_elsewhere, node["inputs"].values()))
        for declared in walk.inputs(node_id)
        if (node_id, declared.name) not in walk.resolved
        and isinstance(value := node["inputs"].get(declared.name), str)
        and declared.is_unlisted_file(value)
    }


def missing_class(node_id: str, node: Mapping[str, Any]) -> Problem:
    """Return ComfyUI's refusal of a node whose class it does not have, or which names none."""
    class_type, meta = node.get("class_type"), node.get("_meta")
    title = meta.get("title", class_type) if isinstance(meta, dict) else class_type
    if class_type is None:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type. The workflow may be corrupted "
            "or a custom node is missing."
        )
    else:
        message = f"Node '{title}' not found. The custom node may not be installed."
    info = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return problem("missing_node_type", message, f"Node ID '#{node_id}'", **info)


def problem(kind: str, message: str, details: str, **info: Any) -> Problem:
    """Return an error in ComfyUI's shape; ``kind`` is its ``type``."""
    return {"type": kind, "message": message, "details": details, "extra_info": info}


def failed(problems: Sequence[Problem]) -> Problem:
    """Return ComfyUI's refusal of a prompt without a valid output, for the reasons of its nodes."""
    details = "\n".join(f"{one['message']}: {one['details']}" for one in problems)
    return problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)


@dataclass(slots=True)
class _Node:
    """A node that was checked; the problems are its own."""

    is_valid: bool = True
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _Walk:
    """One walk from the outputs to what they need."""

    graph: Mapping[str, Mapping[str, Any]]
    describe: Describe
    resolved: frozenset[Slot]
    missing: frozenset[Slot]
    checked: dict[str, _Node] = field(default_factory=dict)

    def run(self, outputs: Sequence[str]) -> Checked:
        good: list[str] = []
        problems: list[Problem] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            self._check(output)
            if self.checked[output].is_valid:
                good.append(output)
                continue
            problems += self.checked[output].problems
            for node_id, node in self.checked.items():
                if node.problems:
                    entry = {
                        "errors": node.problems,
                        "dependent_outputs": [],
                        "class_type": self.graph[node_id]["class_type"],
                    }
                    node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)
        return Checked(good, None if good else failed(problems), node_errors)

    def _check(self, output: str) -> None:
        """Check a node and what it needs. Without recursion: a graph may be deep."""
        #: The way to the node that is checked: of each, the sources that are left.
        way: dict[str, list[str]] = {}
        self._enter(output, way)
        while way:
            node_id, left = next(reversed(way.items()))
            if not left:
                del way[node_id]
                node = self.checked[node_id]
                sources = self._sources(node_id)
                node.is_valid = not node.problems and all(
                    self.checked[source].is_valid for source in sources
                )
                continue
            source = left.pop(0)
            if source in way:
                self._report_cycle(list(way), source)
            elif source not in self.checked:
                self._enter(source, way)

    def _enter(self, node_id: str, way: dict[str, list[str]]) -> None:
        self.checked[node_id] = _Node()
        self.checked[node_id].problems.extend(self._problems(node_id))
        way[node_id] = self._sources(node_id)

    def _sources(self, node_id: str) -> list[str]:
        """Return the nodes that declared inputs are linked to."""
        inputs = self.graph[node_id]["inputs"]
        return [
            str(link[0])
            for name, _, _ in self._declared(node_id)
            if isinstance(link := inputs.get(name), list)
            and len(link) == 2
            and str(link[0]) in self.graph
        ]

    def _report_cycle(self, way: list[str], start: str) -> None:
        cycle = way[way.index(start) :]
        details = " -> ".join(
            f"{node_id} ({self.graph[node_id]['class_type']})" for node_id in [*cycle, start]
        )
        for node_id in cycle:
            info = {"node_id": node_id, "cycle_nodes": cycle}
            found = problem("dependency_cycle", "Dependency cycle detected", details, **info)
            self.checked[node_id].problems.append(found)
            self.checked[node_id].is_valid = False

    def _declared(self, node_id: str) -> list[tuple[str, str, list[Any]]]:
        """Return the inputs of a node's class: name, category, description."""
        described = self.describe(self.graph[node_id]["class_type"]) or {}
        declared = described.get("input")
        return [
            (name, category, entry)
            for category in ("required", "optional")
            if isinstance(declared, dict) and isinstance(declared.get(category), dict)
            for name, entry in declared[category].items()
            if isinstance(entry, list) and entry and isinstance(entry[0], str | list)
        ]

    def inputs(self, node_id: str) -> Iterator["_Input"]:
        """Yield the inputs of a node's class that are judged."""
        described = self.describe(self.graph[node_id]["class_type"]) or {}
        is_core = _is_core(described)
        for name, category, entry in self._declared(node_id):
            kind = entry[0]
            if isinstance(kind, str) and kind.startswith(_DYNAMIC):
                continue
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
            is_required = category == "required"
            yield _Input(
                name, kind, options, choices(entry), is_core=is_core, is_required=is_required
            )

    def _problems(self, node_id: str) -> list[Problem]:
        inputs = self.graph[node_id]["inputs"]
        found: list[Problem] = []
        for declared in self.inputs(node_id):
            name = declared.name
            if name not in inputs:
                if declared.is_required:
                    found.append(
                        problem(
                            "required_input_missing",
                            "Required input is missing",
                            name,
                            input_name=name,
                        )
                    )
            elif isinstance(inputs[name], list):
                found += self._link(inputs[name], declared)
            elif (node_id, name) in self.missing:
                found.append(declared.no_file(inputs[name]))
            elif (node_id, name) not in self.resolved:
                found += declared.problems(inputs[name])
        return found

    def _link(self, link: list[Any], declared: "_Input") -> list[Problem]:
        about = declared.about
        if len(link) != 2:
            if declared.options.get("multiselect"):
                return []
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            info = {**about, "received_value": link}
            return [problem("bad_linked_input", message, declared.name, **info)]
        source = self.graph.get(link[0]) if isinstance(link[0], str) else None
        if source is None:
            return [_exception("KeyError", repr(link[0]))]
        described = self.describe(source["class_type"]) or {}
        returned: Any = described.get("output")
        slot = link[1]
        is_known = isinstance(returned, list) and isinstance(slot, int) and slot >= 0
        if is_known and slot >= len(returned) and _is_core(described):
            return [_exception("IndexError", "tuple index out of range")]
        # A custom class may have any number of outputs.
        received = returned[slot] if is_known and slot < len(returned) else "*"
        if not declared.is_core or _fits(received, declared.kind):
            return []
        message = "Return type mismatch between linked nodes"
        details = f"{declared.name}, received_type({received}) mismatch input_type({declared.kind})"
        info = {**about, "received_type": received, "linked_node": link}
        return [problem("return_type_mismatch", message, details, **info)]


def _is_core(described: Mapping[str, Any]) -> bool:
    module = described.get("python_module")
    return isinstance(module, str) and module.partition(".")[0] in _CORE_MODULES


def _exception(kind: str, details: str) -> Problem:
    """Return ComfyUI's refusal of a link while whose reading it raises an exception."""
    message, info = "Exception when validating node", {"exception_type": kind, "traceback": []}
    return problem("exception_during_validation", message, details, **info)


def _fits(received: Any, wanted: Any) -> bool:
    """Return whether a value of an output may go into an input; types that are no texts are not
    judged.
    """
    if not isinstance(received, str) or not isinstance(wanted, str):
        return True
    if "*" in (received, wanted) or _DYNAMIC in received + wanted:
        return True
    return bool(
        {one.strip() for one in received.split(",")} & {one.strip() for one in wanted.split(",")}
    )


def _may_be_elsewhere(value: Any) -> bool:
    """Return whether a value may name a file that is not in the input folder itself."""
    return isinstance(value, str) and (value.endswith("]") or "/" in value or "\\" in value)


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    kind: Any
    options: Mapping[str, Any]
    listed: Sequence[Any] | None
    is_core: bool
    is_required: bool

    @property
    def is_uploaded(self) -> bool:
        """Return whether its choices are uploaded files: such a node reads the file itself."""
        return any(flag.endswith("_upload") and on for flag, on in self.options.items())

    def is_unlisted_file(self, value: str) -> bool:
        """Return whether a value may name a file that a machine has and does not list."""
        is_listed = self.listed is None or value in self.listed
        return _may_be_elsewhere(value) and self.is_core and self.is_uploaded and not is_listed

    @property
    def about(self) -> dict[str, Any]:
        return {"input_name": self.name, "input_config": [self.kind, dict(self.options)]}

    def problems(self, value: Any) -> list[Problem]:
        """Return what ComfyUI says of a value, at most one problem."""
        if isinstance(value, dict) and "__value__" in value:
            value = value["__value__"]
        convert = _CONVERTERS.get(self.kind) if isinstance(self.kind, str) else None
        if convert is not None:
            try:
                value = convert(value)
            except (TypeError, ValueError, OverflowError) as error:
                message = f"Failed to convert an input value to a {self.kind} value"
                info = {**self.about, "received_value": value, "exception_message": str(error)}
                details = f"{self.name}, {value}, {error}"
                return [problem("invalid_input_type", message, details, **info)]
        if self.listed is not None:
            return self._not_listed(value)
        return self._out_of_range(value) if self.is_core else []

    def _out_of_range(self, value: Any) -> list[Problem]:
        if not isinstance(value, int | float):
            return []
        low, high = self.options.get("min"), self.options.get("max")
        info = {**self.about, "received_value": value}
        if isinstance(low, int | float) and value < low:
            message = f"Value {value} smaller than min of {low}"
            return [problem("value_smaller_than_min", message, self.name, **info)]
        if isinstance(high, int | float) and value > high:
            message = f"Value {value} bigger than max of {high}"
            return [problem("value_bigger_than_max", message, self.name, **info)]
        return []

    def _not_listed(self, value: Any) -> list[Problem]:
        listed = self.listed or ()
        if value in listed or self.options.get("remote") or isinstance(value, list | dict):
            return []
        is_text = isinstance(value, str)
        has_noun = any(self.options.get(flag) for flag in _NOUNS)
        is_model = is_text and value.lower().endswith(MODEL_FILES) and not has_noun
        if is_model and not listed and not self.is_core:
            # Some custom nodes fill an empty list later.
            return []
        if not is_model and not self.is_core:
            return []
        if self.is_uploaded:
            if not is_text or not value or self.is_unlisted_file(value):
                return []
            return [self.no_file(value)]
        return [self.not_in_list(value)]

    def no_file(self, value: Any) -> Problem:
        """Return ComfyUI's refusal of a name that is no file at the machine."""
        noun = next((noun for flag, noun in _NOUNS.items() if self.options.get(flag)), "image")
        details = f"{self.name} - Invalid {noun} file: {value}"
        message = "Custom validation failed for node"
        return problem("custom_validation_failed", message, details, input_name=self.name)

    def not_in_list(self, value: Any) -> Problem:
        about, shown = self.about, str(list(self.listed or ()))
        if len(self.listed or ()) > _LONG_LIST:
            about["input_config"] = None
            shown = f"(list of length {len(self.listed or ())})"
        details = f"{self.name}: {value!r} not in {shown}"
        info = {**about, "received_value": value}
        return problem("value_not_in_list", "Value not in list", details, **info)
