"""Reading a workflow: nodes, links, literals, titles, who reads whom; and changing a copy of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

#: One node: ``{"class_type": str, "inputs": {name: literal or link}[, "_meta": {"title": str}]}``.
Node: TypeAlias = Mapping[str, Any]
#: Node id → node, as ``POST /prompt`` takes it (comfyui-protocol.md, "HTTP").
Workflow: TypeAlias = Mapping[str, Node]

LINK_LENGTH: Final = 2


def is_link(value: object) -> bool:
    """Whether an input's value is a link: ``[node id, output slot]``."""
    return isinstance(value, list) and len(value) == LINK_LENGTH and isinstance(value[0], str)


def is_literal(value: object) -> bool:
    """Whether an input's value is a literal. A list never is: ComfyUI takes it for a link."""
    return not isinstance(value, list)


def is_integer(value: object) -> bool:
    """Whether a JSON value is an integer; ``true`` is none, though Python says so."""
    return isinstance(value, int) and not isinstance(value, bool)


def linked_node(value: object) -> str | None:
    """Return the node id that a link leads to; None if the value is no link."""
    return value[0] if isinstance(value, list) and is_link(value) else None


def only_integer_input(node: Node) -> str | None:
    """Return the name of a node's only literal integer; None if it has none or several."""
    names = [name for name, value in node["inputs"].items() if is_integer(value)]
    return names[0] if len(names) == 1 else None


def only_linked_source(node: Node) -> str | None:
    """Return the node id that the only link of a node without integers leads to; else None.

    Such a node (a primitive whose value is linked, a reroute) passes on what it reads.
    """
    values = node["inputs"].values()
    links = [value for value in values if not is_literal(value)]
    if len(links) != 1 or any(is_integer(value) for value in values):
        return None
    return linked_node(links[0])


def input_names_by_source(workflow: Workflow) -> dict[str, set[str]]:
    """Return, for each node id that some link leads to, the names of the inputs that read it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for node in workflow.values():
        for name, value in node["inputs"].items():
            source = linked_node(value)
            if source is not None:
                found[source].add(name)
    return dict(found)


def dangling_link(workflow: Workflow) -> tuple[str, str, str] | None:
    """Return ``(node, input, missing node)`` of the first link that leads nowhere, if there is one.

    ComfyUI notices one only in an input that the node's class declares. In any other its worker
    thread dies on it behind healthy HTTP, and takes the queue with it (seen on a real 0.3.64): such a
    graph must never be sent.
    """
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            source = linked_node(value)
            if source is not None and source not in workflow:
                return node_id, name, source
    return None


def node_title(node: Node) -> str | None:
    """Return the title a person gave the node in the editor, None if it has none."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else None


def nodes_by_title(workflow: Workflow) -> dict[str, list[str]]:
    """Return the node ids that bear each title."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node_id, node in workflow.items():
        title = node_title(node)
        if title is not None:
            found[title].append(node_id)
    return dict(found)


class WorkflowCopy:
    """A workflow in change: only what is written to is copied, the order of keys stays.

    A workflow can be megabytes and a group a thousand children, so copies share what is equal.
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
