"""Makes a workflow of ComfyUI's editor format from the API format. Pure.

The editor opens its own format alone from an address. Each node gets its widgets in the order of the
editor, and a position right of the nodes that it uses.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from backends.node_classes import NodeClass
from jobgroups.workflow.editor_graph import Node, Slot, describe
from jobgroups.workflow.editor_widgets import saved_values
from jobgroups.workflow.graph import Workflow, is_link, linked_node

_MAX_OUTPUTS: Final = 1_000  #: Of a node; links to others are left out.
_WIDTH, _GAP, _LINE = 320, 80, 28  #: Pixels.


def to_editor(graph: Workflow, classes: Mapping[str, NodeClass | None]) -> dict[str, Any]:
    """Return a workflow of the API format in the editor's, which the editor sends as it was.

    A class that no backend describes has no entry in ``classes``, or None: its values keep their
    order, and the editor shows that it is missing.
    """
    ids = _ids(graph)
    links: list[list[Any]] = []
    used: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    columns = _columns(graph)
    bottoms: dict[int, int] = defaultdict(int)
    nodes: list[dict[str, Any]] = []
    for node_id, sent in graph.items():
        known = classes.get(sent["class_type"])
        values = {
            name: _plain(value) for name, value in sent["inputs"].items() if not is_link(value)
        }
        linked = {name: value for name, value in sent["inputs"].items() if is_link(value)}
        node = Node(node_id, sent["class_type"], {"widgets_values": values}, [*map(_slot, linked)])
        if known:
            describe(node, known)
        slots: list[dict[str, Any]] = []
        for slot in node.slots:
            origin, at = linked.get(slot.name, ("", 0))
            is_linked = origin in ids and isinstance(at, int) and 0 <= at < _MAX_OUTPUTS
            kind = slot.type or (_type(graph, classes, origin, at) if is_linked else "*")
            saved: dict[str, Any] = {"name": slot.name, "type": kind, "link": None}
            if slot.widget:
                saved["widget"] = {"name": slot.widget}
            if is_linked:
                saved["link"] = len(links) + 1
                used[origin][at].append(len(links) + 1)
                links.append([len(links) + 1, ids[origin], at, ids[node_id], len(slots), kind])
            slots.append(saved)
        column = columns[node_id]
        height = _LINE * (2 + len({*linked, *values}))
        nodes.append(
            {
                "id": ids[node_id],
                "type": sent["class_type"],
                "pos": [column * (_WIDTH + _GAP), bottoms[column]],
                "size": [_WIDTH, height],
                "flags": {},
                "order": len(nodes),
                "mode": 0,
                "title": _title(sent, known),
                "inputs": slots,
                "properties": {"Node name for S&R": sent["class_type"]},
                "widgets_values": saved_values(sent["class_type"], known, values),
            }
        )
        bottoms[column] += height + _GAP
    for saved, (node_id, sent) in zip(nodes, graph.items(), strict=True):
        known = classes.get(sent["class_type"])
        outputs = list(known.outputs) if known else []
        outputs += [("*", "*")] * (max(used[node_id], default=-1) + 1 - len(outputs))
        saved["outputs"] = [
            {"name": name, "type": kind, "links": used[node_id].get(at, []), "slot_index": at}
            for at, (kind, name) in enumerate(outputs)
        ]
    return {
        "last_node_id": max(ids.values(), default=0),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _ids(graph: Workflow) -> dict[str, int]:
    """Return the ids that nodes get: their own if it is a number; those of flattened subgraphs
    (``194:45``) and others get the next ones.
    """
    kept = {node_id: int(node_id) for node_id in graph if node_id.isascii() and node_id.isdigit()}
    following = max(kept.values(), default=0) + 1
    others = [node_id for node_id in graph if node_id not in kept]
    return kept | {node_id: following + at for at, node_id in enumerate(others)}


def _slot(name: str) -> Slot:
    return Slot(name, None)


def _plain(value: Any) -> Any:
    """Return a value as a widget has it."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _title(node: Mapping[str, Any], known: NodeClass | None) -> str:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return str(title or (known and known.title) or node["class_type"])


def _type(graph: Workflow, classes: Mapping[str, NodeClass | None], origin: str, at: int) -> str:
    """Return the type of an output; ``*`` if it is not known."""
    known = classes.get(graph[origin]["class_type"])
    return known.outputs[at][0] if known and at < len(known.outputs) else "*"


def _columns(graph: Workflow) -> dict[str, int]:
    """Return the column of each node: right of all nodes that it uses."""
    columns = dict.fromkeys(graph, 0)
    sources = {
        node_id: columns.keys() & set(filter(None, map(linked_node, node["inputs"].values())))
        for node_id, node in graph.items()
    }
    # ComfyUI refuses a circle.
    with suppress(CycleError):
        for node_id in TopologicalSorter(sources).static_order():
            columns[node_id] = max((columns[name] + 1 for name in sources[node_id]), default=0)
    return columns
