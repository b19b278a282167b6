"""Converts a workflow of ComfyUI's editor format to the API format, as the editor's own export
does. Pure.

The editor's format has no names for values, and has nodes that exist in the editor alone: reroutes,
primitives, notes and subgraphs. A node that cannot be converted is named; nothing is guessed.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

from backends.node_classes import NodeClass
from jobgroups.workflow import editor_graph
from jobgroups.workflow.editor_graph import (
    PRIMITIVE,
    ConversionFailed,
    Graph,
    Link,
    Node,
    NodeProblem,
    items,
)
from jobgroups.workflow.editor_widgets import MISSING, RENDERED, Widget
from jobgroups.workflow.embedded import with_mark_of

MAX_NODES: Final = 20_000  #: Nodes after subgraphs are expanded.
_MAX_STEPS: Final = 1_000  #: Nodes of the editor alone between two nodes that are sent.
_MAX_ALL_STEPS: Final = 200_000  #: Such nodes behind all inputs: about 5 s.
_MUTED, _BYPASSED = 2, 4  #: Modes of nodes that are not executed.
_REROUTE: Final = "Reroute"
_EDITOR_ONLY: Final = frozenset({_REROUTE, PRIMITIVE, "Note", "MarkdownNote"})
_INPUTS: Final = "-10"  #: The id of a subgraph's inputs in its links.
#: How the class of a group node begins, which subgraphs replaced.
_GROUP_NODES: Final = ("workflow>", "workflow/")
_ANY: Final = ("*", "", 0, None)
#: One that has no end stays. It is the rest of the text at once, since a search from each "/*"
#: takes the square of the time.
_COMMENTS: Final = re.compile(r"/\*[\s\S]*?\*/|//.*|(/\*[\s\S]*)")
_DATE: Final = re.compile(r"%date:([^%]+)%")
_PART: Final = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")

#: The nodes of the subgraphs around a node, the outermost first.
_Path: TypeAlias = tuple[Node, ...]


class _Value(NamedTuple):
    value: Any


class _Input(NamedTuple):
    """An input of a node, and the type of the link that ends there."""

    path: _Path
    node: Node
    at: int
    type: Any = None


def class_types(editor: Mapping[str, Any]) -> set[str]:
    """Return the node classes whose descriptions a conversion needs."""
    nodes = (
        node
        for graph in editor_graph.read(editor)
        for node in graph.nodes.values()
        if node.subgraph is None
    )
    return {
        node.type
        for node in nodes
        if node.type not in _EDITOR_ONLY and not node.type.startswith(_GROUP_NODES)
    }


def convert(
    editor: Mapping[str, Any],
    classes: Mapping[str, NodeClass | None],
    *,
    now: datetime | None = None,
) -> tuple[dict[str, dict[str, Any]], list[NodeProblem]]:
    """Return a workflow of the editor's format in the API format, with warnings.

    ``classes`` has None for a class that no backend has. ``now`` is the time for
    ``%date:yyyy-MM-dd%`` in names of files. Raises ``ConversionFailed`` with every node that cannot
    be converted.
    """
    graphs = editor_graph.read(editor)
    for graph in graphs:
        for node in graph.nodes.values():
            if node.subgraph is None and (known := classes.get(node.type)):
                editor_graph.describe(node, known)
    editor_graph.prepare(graphs[0])
    for graph in graphs:
        for link_id, link in graph.links.items():
            source, end = graph.nodes.get(link.origin), graph.ends.get(link_id)
            values = (
                items(source.raw.get("widgets_values"))
                if source and source.type == PRIMITIVE
                else []
            )
            if values and end and (widget := end[0].widgets.get(end[1].widget or end[1].name)):
                widget.value = values[0]
    return _Export(graphs, classes, now).run()


class _Export:
    """Writes the nodes of a graph and of its subgraphs."""

    def __init__(
        self, graphs: list[Graph], classes: Mapping[str, NodeClass | None], now: datetime | None
    ) -> None:
        self._root, self._classes, self._now = graphs[0], classes, now
        self._count = self._steps = 0
        self._workflow: dict[str, dict[str, Any]] = {}
        self._warnings: list[NodeProblem] = []
        self._errors: list[NodeProblem] = []

    def run(self) -> tuple[dict[str, dict[str, Any]], list[NodeProblem]]:
        self._walk(self._root, ())
        if self._errors or not self._workflow:
            nothing = NodeProblem("", "", "The workflow has no node that ComfyUI executes.")
            raise ConversionFailed(*(self._errors or [nothing]))
        return self._workflow, self._warnings

    def _walk(self, graph: Graph, path: _Path) -> None:
        for node in graph.nodes.values():
            mode = node.raw.get("mode")
            if mode in (_MUTED, _BYPASSED) or (node.subgraph is None and node.type in _EDITOR_ONLY):
                continue
            self._count += 1
            if self._count > MAX_NODES:
                raise ConversionFailed(
                    _problem(path, node, f"The workflow has more than {MAX_NODES} nodes.")
                )
            if node.subgraph is not None:
                self._walk(node.subgraph, (*path, node))
            elif message := self._obstacle(node):
                self._errors.append(_problem(path, node, message))
            else:
                self._write(node, path)

    def _obstacle(self, node: Node) -> str:
        """Return why a node cannot be converted, empty if it can."""
        if node.type.startswith(_GROUP_NODES):
            return "Group nodes are not supported: convert it to a subgraph in the editor."
        if node.known is None:
            is_missing = node.type in self._classes
            return (
                "No backend has this node class."
                if is_missing
                else "No backend described this node class in time."
            )
        for name in (
            name for name, declared in node.known.inputs.items() if declared.widget in RENDERED
        ):
            return (
                f'The editor makes the value of "{name}" in the browser: export the workflow with '
                '"Export (API)".'
            )
        return ""

    def _write(self, node: Node, path: _Path) -> None:
        inputs: dict[str, Any] = {}
        for name, widget in node.widgets.items():
            if widget.kind != "RESOLUTION_PREVIEW":
                _set_value(inputs, name, self._sent_value(node, path, widget), widget.kind)
        for at, slot in enumerate(node.slots):
            source = self._source(_Input(path, node, at))
            if isinstance(source, _Value):
                _set_value(inputs, slot.name, source.value)
            elif source:
                inputs[slot.name] = source
        for (node_id, name), value in path[-1].inside.items() if path else ():
            if node_id == node.id:
                _set_value(inputs, name, value)
        meta = {
            "title": str(node.raw.get("title") or (node.known and node.known.title) or node.type)
        }
        self._workflow[_id(path, node)] = {"inputs": inputs, "class_type": node.type, "_meta": meta}

    def _sent_value(self, node: Node, path: _Path, widget: Widget) -> Any:
        value = widget.value
        if isinstance(value, str) and widget.is_dynamic_prompt:
            value = _COMMENTS.sub(lambda match: re.sub("//.*", "", match[1] or ""), value)
            if "{" in value:
                message = (
                    f'"{widget.name}" has braces: of {{a|b}} the editor takes one part by chance. '
                    "They stay."
                )
                self._warnings.append(_problem(path, node, message))
        if isinstance(value, str) and widget.name == "filename_prefix" and self._now:
            now = self._now
            parts = {
                "y": now.year,
                "M": now.month,
                "d": now.day,
                "h": now.hour,
                "m": now.minute,
                "s": now.second,
            }
            value = _DATE.sub(
                lambda date: _PART.sub(
                    lambda match: f"{parts[match[0][0]]:0{len(match[0])}}"[-len(match[0]) :],
                    date[1],
                ),
                value,
            )
        return with_mark_of(widget.value, value) if isinstance(value, str) else value

    def _source(self, end: _Input) -> list[Any] | _Value | None:
        """Return the link or value of an input, through what exists in the editor alone."""
        first = end
        for _ in range(min(_MAX_STEPS, _MAX_ALL_STEPS - self._steps)):
            self._steps += 1
            path, node, at, kind = end
            if at >= len(node.slots):
                return None
            slot = node.slots[at]
            link = (path[-1].subgraph or self._root if path else self._root).links.get(
                slot.link or ""
            )
            if link is None:
                # Only the node of a subgraph is reached without its own values being written.
                inside = path[-1].inside if path else {}
                promoted = node.promoted.get(slot.name, MISSING)
                return _Value(inside.get((node.id, slot.name), promoted)) if node.subgraph else None
            if link.origin == _INPUTS and path:
                end = _Input(path[:-1], path[-1], link.origin_slot)
                continue
            source = self._output(path, link, slot.type if kind is None else kind)
            if not isinstance(source, _Input):
                return source
            end = source
        raise ConversionFailed(
            _problem(*first[:2], "Its inputs are linked in a circle, or through too many reroutes.")
        )

    def _output(self, path: _Path, link: Link, kind: Any) -> list[Any] | _Input | None:
        """Return the link to a node that is sent, or the input that the output of another node
        stands for.
        """
        for _ in range(editor_graph.MAX_DEPTH + 1):
            graph = (path[-1].subgraph if path else None) or self._root
            node, slot = graph.nodes.get(link.origin), link.origin_slot
            mode = node.raw.get("mode") if node else _MUTED
            if node is None or mode == _MUTED:
                break
            if mode == _BYPASSED:
                return _Input(path, node, _bypassed_slot(node, slot, kind))
            if node.subgraph is None:
                if node.type in _EDITOR_ONLY:
                    return _Input(path, node, 0, kind) if node.type == _REROUTE else None
                return [_id(path, node), slot]
            inner = node.subgraph.outputs.get(slot)
            if inner is None:
                break
            if inner.origin == _INPUTS:
                return _Input(path, node, inner.origin_slot)
            path, link = (*path, node), inner
        return None


def _bypassed_slot(node: Node, slot: int, kind: Any) -> int:
    """Return the input in the place of an output of a bypassed node: the same slot, else the first
    that fits.
    """
    kinds = [input_slot.type for input_slot in node.slots]
    if kind in ("*", ""):
        return slot if slot < len(kinds) else 0
    outputs = editor_graph.objects(node.raw.get("outputs"))
    output = outputs[slot].get("type") if slot < len(outputs) else None
    fitting = [
        at
        for at, input_kind in enumerate(kinds)
        if _fits(input_kind, output) and _fits(input_kind, kind)
    ]
    if slot in fitting:
        return slot
    return kinds.index(kind) if kind in kinds else next(iter(fitting), len(kinds))


def _fits(kind: Any, other: Any) -> bool:
    """Return whether an output of one type can be linked to an input of the other."""
    if kind in _ANY or other in _ANY:
        return True
    return not set(str(kind).lower().split(",")).isdisjoint(str(other).lower().split(","))


def _set_value(inputs: dict[str, Any], name: str, value: Any, kind: str = "") -> None:
    """Set a value as the API format has it: a list alone would be a link."""
    if kind == "CURVE" and value is not None:
        inputs[name] = {"__type__": "CURVE", "__value__": value}
    elif value is not MISSING:
        inputs[name] = {"__value__": value} if isinstance(value, list) else value


def _id(path: _Path, node: Node) -> str:
    return ":".join(step.id for step in (*path, node))


def _problem(path: _Path, node: Node, message: str) -> NodeProblem:
    return NodeProblem(_id(path, node), node.type, message)
