"""Reads nodes, links, literals and titles of a workflow, and changes a copy of it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

#: One node: ``{"class_type": str, "inputs": {name: literal or link}[, "_meta": {"title": str}]}``.
Node: TypeAlias = Mapping[str, Any]
#: Node id → node, as ``POST /prompt`` takes it (comfyui-protocol.md, "HTTP").
Workflow: TypeAlias = Mapping[str, Node]


def is_link(value: object) -> bool:
    """Return whether an input's value is a link: ``[node id, output slot]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def is_literal(value: object) -> bool:
    """Return whether an input's value is a literal. ComfyUI treats every list as a link."""
    return not isinstance(value, list)


def is_integer(value: object) -> bool:
    """Return whether a JSON value is an integer. ``bool`` is excluded, a subclass of ``int`` in
    Python.
    """
    return isinstance(value, int) and not isinstance(value, bool)


def linked_node(value: object) -> str | None:
    """Return the node id that a link leads to, or None if the value is not a link."""
    return value[0] if isinstance(value, list) and is_link(value) else None


def only_integer_input(node: Node) -> str | None:
    """Return the name of a node's only integer input, or None."""
    names = [name for name, value in node["inputs"].items() if is_integer(value)]
    return names[0] if len(names) == 1 else None


def only_linked_source(node: Node) -> str | None:
    """Return the source of the only link of a node without integers, or None.

    Such a node (a primitive with a linked value, a reroute) returns the value that it reads.
    """
    values = node["inputs"].values()
    links = [value for value in values if not is_literal(value)]
    if len(links) != 1 or any(is_integer(value) for value in values):
        return None
    return linked_node(links[0])


def links(workflow: Workflow) -> Iterator[tuple[str, str, str]]:
    """Yield node id, input and source of each link, also of a link to a missing node."""
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            source = linked_node(value)
            if source is not None:
                yield node_id, name, source


def closure(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """Return all nodes that are reached from some nodes, these included."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        node_id = waiting.pop()
        if node_id not in reached:
            reached.add(node_id)
            waiting += following(node_id)
    return reached


def input_names_by_source(workflow: Workflow) -> dict[str, set[str]]:
    """Return the names of the inputs that read each node."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for _, name, source in links(workflow):
        names[source].add(name)
    return dict(names)


def dangling_link(workflow: Workflow) -> tuple[str, str, str] | None:
    """Return ``(node, input, missing node)`` of the first link to a missing node, or None.

    ComfyUI checks only inputs that the node's class declares. Any other one ends its worker thread
    while HTTP still works, and the queue stops (0.3.64). Such a graph must never be sent.
    """
    return next((link for link in links(workflow) if link[2] not in workflow), None)


def node_title(node: Node) -> str | None:
    """Return the node's title in the editor, or None."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else None


def nodes_by_title(workflow: Workflow) -> dict[str, list[str]]:
    """Return the node ids with each title."""
    node_ids: defaultdict[str, list[str]] = defaultdict(list)
    for node_id, node in workflow.items():
        title = node_title(node)
        if title is not None:
            node_ids[title].append(node_id)
    return dict(node_ids)


class WorkflowCopy:
    """A copy of a workflow that shares all unchanged nodes; the order of keys stays.

    A workflow can have megabytes and a group a thousand children.
    """

    def __init__(self, workflow: Workflow) -> None:
        self.nodes: dict[str, Node] = dict(workflow)
        self._copied: set[str] = set()

    def set(self, node_id: str, name: str, value: Any) -> None:
        """Set one existing input of one existing node."""
        if node_id not in self._copied:
            node = self.nodes[node_id]
            self.nodes[node_id] = {**node, "inputs": dict(node["inputs"])}
            self._copied.add(node_id)
        self.nodes[node_id]["inputs"][name] = value
