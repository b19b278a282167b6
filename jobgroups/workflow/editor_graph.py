"""Reads a workflow of ComfyUI's editor format: nodes with their inputs and values, links,
subgraphs. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from backends.node_classes import NodeClass, NodeInput
from jobgroups.workflow.editor_widgets import Widget, by_name, is_widget, widgets

MAX_DEPTH: Final = 30  #: Subgraphs inside each other.
PRIMITIVE: Final = "PrimitiveNode"
_OUTPUTS: Final = "-20"  #: The id of a subgraph's outputs in its links.


class NodeProblem(NamedTuple):
    """Why a node cannot be converted, or what differs from the editor."""

    node_id: str
    class_type: str
    message: str


class ConversionFailed(ValueError):
    """Some nodes cannot be converted."""

    def __init__(self, *errors: NodeProblem) -> None:
        super().__init__(
            "; ".join(
                f"{error.node_id} {error.class_type}: {error.message}" for error in errors[:5]
            )
        )
        self.errors = errors


class Link(NamedTuple):
    """A link between an output and an input of two nodes of one graph."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(slots=True)
class Slot:
    """One input of a node: it has a link, a widget, both or none."""

    name: str
    type: Any
    link: str | None = None  #: The id of its link.
    widget: str = ""  #: The name of its widget.


@dataclass(slots=True)
class Node:
    """One node of a graph or of a subgraph; a subgraph may be used several times."""

    id: str
    type: str
    raw: Mapping[str, Any]
    slots: list[Slot]
    subgraph: "Graph | None" = None  #: What it stands for.
    known: NodeClass | None = None
    widgets: dict[str, Widget] = field(default_factory=dict)
    #: The values of its inputs that show widgets inside.
    promoted: dict[str, Any] = field(default_factory=dict)
    #: Values of other widgets inside, by node and name.
    inside: dict[tuple[str, str], Any] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """A workflow, or the definition of a subgraph."""

    nodes: dict[str, Node]
    links: dict[str, Link]
    inputs: dict[str, list[str]]  #: Of a subgraph: its inputs with the ids of their links.
    outputs: dict[int, Link]  #: Of a subgraph: the links to its outputs.
    is_ready: bool = False  #: The nodes of subgraphs have their values, and ``ends`` is complete.
    ends: dict[str, tuple[Node, Slot]] = field(default_factory=dict)  #: Where each link ends.

    def widget_of(self, name: str) -> tuple[Node, Slot, Any] | None:
        """Return the widget that an input of a subgraph shows: its node, the node's input, the
        value.
        """
        for node, slot in filter(None, map(self.ends.get, self.inputs[name])):
            if slot.name in node.promoted:
                return node, slot, node.promoted[slot.name]
            if slot.widget in node.widgets:
                return node, slot, node.widgets[slot.widget].value
        return None


def items(raw: object) -> list[Any]:
    """Return a list of the file, or an empty one."""
    return raw if isinstance(raw, list) else []


def objects(raw: object) -> list[dict[str, Any]]:
    """Return the objects of a list of the file."""
    return [item for item in items(raw) if isinstance(item, dict)]


def _fields(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def read(editor: Mapping[str, Any]) -> list[Graph]:
    """Return the graph of a workflow, followed by those of its subgraphs."""
    subgraphs = objects(_fields(editor.get("definitions")).get("subgraphs"))
    graphs = [_graph(editor_graph) for editor_graph in (editor, *subgraphs)]
    by_id = {
        str(subgraph.get("id")): graph
        for subgraph, graph in zip(subgraphs, graphs[1:], strict=True)
    }
    for node in (node for graph in graphs for node in graph.nodes.values()):
        node.subgraph = by_id.get(node.type)
    return graphs


def _graph(raw: Mapping[str, Any]) -> Graph:
    named = [
        raw_node for raw_node in objects(raw.get("nodes")) if isinstance(raw_node.get("type"), str)
    ]
    nodes = [_node(raw_node) for raw_node in named if isinstance(raw_node.get("id"), str | int)]
    inputs = {
        str(slot.get("name")): list(map(str, items(slot.get("linkIds"))))
        for slot in objects(raw.get("inputs"))
    }
    links = dict(_links(raw.get("links")))
    outputs = {
        link.target_slot: link for link in reversed(links.values()) if link.target == _OUTPUTS
    }
    return Graph({node.id: node for node in nodes}, links, inputs, outputs)


def _node(raw: Mapping[str, Any]) -> Node:
    slots = [
        Slot(
            str(slot.get("name")),
            slot.get("type"),
            None if slot.get("link") is None else str(slot["link"]),
            str(_fields(slot.get("widget")).get("name", "")),
        )
        for slot in objects(raw.get("inputs"))
    ]
    return Node(str(raw["id"]), raw["type"], raw, slots)


def _links(raw: object) -> Iterator[tuple[str, Link]]:
    """Yield the links by id: lists in version 0.4, objects in version 1.0 and in subgraphs."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for entry in items(raw):
        match [entry.get(key) for key in keys] if isinstance(entry, dict) else entry:
            case [link_id, origin, int(origin_slot), target, int(target_slot), *_] if (
                origin_slot >= 0
            ):
                yield str(link_id), Link(str(origin), origin_slot, str(target), target_slot)


def describe(node: Node, known: NodeClass) -> None:
    """Give a node its widgets, and its inputs in the editor's order, which bypassing depends on."""
    node.known = known
    saved = {old_slot.name: old_slot for old_slot in node.slots}
    node.widgets = widgets(node.type, known, node.raw, saved)
    slots: dict[str, Slot] = {}
    sockets_first = dict(
        sorted(known.inputs.items(), key=lambda named_input: is_widget(named_input[1]))
    )
    for name, declared in _declared_inputs(sockets_first, "", node.widgets, saved):
        was = saved.get(name) or Slot(name, declared.type)
        kind = was.type if declared.type.startswith("COMFY_") else declared.type
        slots[name] = Slot(name, kind, was.link, name if name in node.widgets else "")
    gone = tuple(f"{name}." for name, declared in known.inputs.items() if declared.nested)
    for name, slot in saved.items():
        # Inputs of a choice that is not chosen, and of widgets that the class does not have any
        # more, are gone.
        if (
            name not in slots
            and not name.startswith(gone)
            and (not slot.widget or slot.widget in node.widgets)
        ):
            slots[name] = slot
    node.slots = list(slots.values())


def _declared_inputs(
    inputs: Mapping[str, NodeInput],
    above: str,
    widgets_by_name: Mapping[str, Widget],
    saved: Mapping[str, Slot],
) -> Iterator[tuple[str, NodeInput]]:
    """Yield the inputs that a node has with its chosen values."""
    for key, declared in inputs.items():
        name = above + key
        if declared.members:
            yield from (
                (saved_name, declared) for saved_name in saved if saved_name.startswith(f"{name}.")
            )
        elif declared.has_socket or name not in widgets_by_name:
            yield name, declared
        if declared.nested and name in widgets_by_name:
            yield from _declared_inputs(
                declared.nested.get(str(widgets_by_name[name].value), {}),
                f"{name}.",
                widgets_by_name,
                saved,
            )


def prepare(graph: Graph, above: tuple[Graph, ...] = ()) -> None:
    """Set the values of the nodes of all subgraphs, the innermost first."""
    for node in () if graph.is_ready else graph.nodes.values():
        if node.subgraph is None:
            continue
        if len(above) >= MAX_DEPTH or any(node.subgraph is outer for outer in (*above, graph)):
            message = (
                f"A subgraph must not contain itself, nor {MAX_DEPTH} others inside each other."
            )
            raise ConversionFailed(NodeProblem(node.id, node.type, message))
        prepare(node.subgraph, (*above, graph))
        _promote(node, node.subgraph)
    ends = ((slot.link, node, slot) for node in graph.nodes.values() for slot in node.slots)
    graph.ends |= {link: (node, slot) for link, node, slot in ends if link and link in graph.links}
    graph.is_ready = True


def _promote(host: Node, graph: Graph) -> None:
    """Set the values of a subgraph's node: those of the widgets inside it, then those that it has
    saved.
    """
    saved = {old_slot.name: old_slot for old_slot in host.slots}
    host.slots = [saved.get(name) or Slot(name, None) for name in graph.inputs]
    widgets_by_input = {name: end for name in graph.inputs if (end := graph.widget_of(name))}
    proxies = items(_fields(host.raw.get("properties")).get("proxyWidgets"))
    raw = (None if proxies else by_name(host.raw, list(widgets_by_input))) or host.raw.get(
        "widgets_values"
    )
    values = [raw.get(name) for name in widgets_by_input] if isinstance(raw, dict) else items(raw)
    host.promoted = {name: value for name, (_, _, value) in widgets_by_input.items()}
    host.promoted.update(zip(host.promoted, values, strict=False))
    # The older form: the values belong to widgets inside, of which some have no input of the
    # subgraph.
    proxies = [list(map(str, proxy)) for proxy in proxies if len(items(proxy)) >= 2]
    for (node_id, widget, *_), value in zip(proxies, values, strict=False):
        target = graph.nodes.get(node_id)
        name = next(
            (
                name
                for name, end in widgets_by_input.items()
                if _is_shown(*end[:2], node_id, widget)
            ),
            None,
        )
        if name or (node_id == "-1" and widget in widgets_by_input):
            host.promoted[name or widget] = value
        elif target and target.type == PRIMITIVE:
            linked = (link_id for link_id, link in graph.links.items() if link.origin == node_id)
            host.inside.update(
                {
                    (node.id, slot.widget): value
                    for node, slot in filter(None, map(graph.ends.get, linked))
                }
            )
        elif target and target.subgraph:
            inner = {
                input_name: target.subgraph.widget_of(input_name)
                for input_name in target.subgraph.inputs
            }
            names = [
                input_name
                for input_name, at in inner.items()
                if input_name == widget or (at and at[1].widget == widget)
            ]
            host.inside.update({(node_id, input_name): value for input_name in names[:1]})
        else:
            host.inside[node_id, widget] = value


def _is_shown(node: Node, slot: Slot, node_id: str, widget: str) -> bool:
    return (node.id, slot.name if node.subgraph else slot.widget) == (node_id, widget)
