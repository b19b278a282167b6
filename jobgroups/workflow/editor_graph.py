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
            "; ".join(f"{one.node_id} {one.class_type}: {one.message}" for one in errors[:5])
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
    promoted: dict[str, Any] = field(
        default_factory=dict
    )  #: The values of its inputs that show widgets inside.
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

    def shown(self, name: str) -> tuple[Node, Slot, Any] | None:
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
    return [one for one in items(raw) if isinstance(one, dict)]


def _fields(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def read(editor: Mapping[str, Any]) -> list[Graph]:
    """Return the graph of a workflow, followed by those of its subgraphs."""
    subgraphs = objects(_fields(editor.get("definitions")).get("subgraphs"))
    found = [_graph(one) for one in (editor, *subgraphs)]
    by_id = {str(one.get("id")): graph for one, graph in zip(subgraphs, found[1:], strict=True)}
    for node in (node for graph in found for node in graph.nodes.values()):
        node.subgraph = by_id.get(node.type)
    return found


def _graph(raw: Mapping[str, Any]) -> Graph:
    named = [one for one in objects(raw.get("nodes")) if isinstance(one.get("type"), str)]
    nodes = [_node(one) for one in named if isinstance(one.get("id"), str | int)]
    inputs = {
        str(one.get("name")): list(map(str, items(one.get("linkIds"))))
        for one in objects(raw.get("inputs"))
    }
    links = dict(_links(raw.get("links")))
    outputs = {
        link.target_slot: link for link in reversed(links.values()) if link.target == _OUTPUTS
    }
    return Graph({node.id: node for node in nodes}, links, inputs, outputs)


def _node(raw: Mapping[str, Any]) -> Node:
    slots = [
        Slot(
            str(one.get("name")),
            one.get("type"),
            None if one.get("link") is None else str(one["link"]),
            str(_fields(one.get("widget")).get("name", "")),
        )
        for one in objects(raw.get("inputs"))
    ]
    return Node(str(raw["id"]), raw["type"], raw, slots)


def _links(raw: object) -> Iterator[tuple[str, Link]]:
    """Yield the links by id: lists in version 0.4, objects in version 1.0 and in subgraphs."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for one in items(raw):
        match [one.get(key) for key in keys] if isinstance(one, dict) else one:
            case [link_id, origin, int(origin_slot), target, int(target_slot), *_] if (
                origin_slot >= 0
            ):
                yield str(link_id), Link(str(origin), origin_slot, str(target), target_slot)


def describe(node: Node, known: NodeClass) -> None:
    """Give a node its widgets, and its inputs in the editor's order, which bypassing depends on."""
    node.known = known
    saved = {one.name: one for one in node.slots}
    node.widgets = widgets(node.type, known, node.raw, saved)
    found: dict[str, Slot] = {}
    sockets_first = dict(sorted(known.inputs.items(), key=lambda one: is_widget(one[1])))
    for name, declared in _declared(sockets_first, "", node.widgets, saved):
        was = saved.get(name) or Slot(name, declared.type)
        kind = was.type if declared.type.startswith("COMFY_") else declared.type
        found[name] = Slot(name, kind, was.link, name if name in node.widgets else "")
    gone = tuple(f"{name}." for name, declared in known.inputs.items() if declared.nested)
    for name, slot in saved.items():
        # Inputs of a choice that is not chosen, and of widgets that the class does not have any
        # more, are gone.
        if (
            name not in found
            and not name.startswith(gone)
            and (not slot.widget or slot.widget in node.widgets)
        ):
            found[name] = slot
    node.slots = list(found.values())


def _declared(
    inputs: Mapping[str, NodeInput],
    above: str,
    shown: Mapping[str, Widget],
    saved: Mapping[str, Slot],
) -> Iterator[tuple[str, NodeInput]]:
    """Yield the inputs that a node has with its chosen values."""
    for key, declared in inputs.items():
        name = above + key
        if declared.members:
            yield from ((one, declared) for one in saved if one.startswith(f"{name}."))
        elif declared.has_socket or name not in shown:
            yield name, declared
        if declared.nested and name in shown:
            yield from _declared(
                declared.nested.get(str(shown[name].value), {}), f"{name}.", shown, saved
            )


def prepare(graph: Graph, above: tuple[Graph, ...] = ()) -> None:
    """Set the values of the nodes of all subgraphs, the innermost first."""
    for node in () if graph.is_ready else graph.nodes.values():
        if node.subgraph is None:
            continue
        if len(above) >= MAX_DEPTH or any(node.subgraph is one for one in (*above, graph)):
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
    saved = {one.name: one for one in host.slots}
    host.slots = [saved.get(name) or Slot(name, None) for name in graph.inputs]
    shown = {name: found for name in graph.inputs if (found := graph.shown(name))}
    proxies = items(_fields(host.raw.get("properties")).get("proxyWidgets"))
    raw = (None if proxies else by_name(host.raw, list(shown))) or host.raw.get("widgets_values")
    values = [raw.get(name) for name in shown] if isinstance(raw, dict) else items(raw)
    host.promoted = {name: value for name, (_, _, value) in shown.items()}
    host.promoted.update(zip(host.promoted, values, strict=False))
    # The older form: the values belong to widgets inside, of which some have no input of the
    # subgraph.
    proxies = [list(map(str, one)) for one in proxies if len(items(one)) >= 2]
    for (node_id, widget, *_), value in zip(proxies, values, strict=False):
        target = graph.nodes.get(node_id)
        name = next(
            (name for name, one in shown.items() if _is_shown(*one[:2], node_id, widget)), None
        )
        if name or (node_id == "-1" and widget in shown):
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
            inner = {one: target.subgraph.shown(one) for one in target.subgraph.inputs}
            names = [
                one for one, at in inner.items() if one == widget or (at and at[1].widget == widget)
            ]
            host.inside.update({(node_id, one): value for one in names[:1]})
        else:
            host.inside[node_id, widget] = value


def _is_shown(node: Node, slot: Slot, node_id: str, widget: str) -> bool:
    return (node.id, slot.name if node.subgraph else slot.widget) == (node_id, widget)
