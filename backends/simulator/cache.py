"""The node cache: what the last prompt computed, found again by what went into it (comfyui-protocol.md, "WebSocket")."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backends.simulator.catalog import Catalog
from backends.simulator.changes import has_nan
from backends.simulator.graph import Graph, Node, is_link

Signature = str
Change = Callable[[Node], Any]  # a value that differs if the node must run again


@dataclass(frozen=True, slots=True)
class Ui:
    """What an output node showed."""

    output: dict[str, Any]
    meta: dict[str, Any]


@dataclass(slots=True)
class NodeCache:
    """Results by signature; `enter` keeps only those of the nodes of the coming prompt."""

    catalog: Catalog
    changed: Change
    outputs: dict[Signature, tuple[Any, ...]] = field(default_factory=dict)
    ui: dict[Signature, Ui] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _keys: dict[str, Signature] = field(default_factory=dict)

    def enter(self, graph: Graph) -> None:
        """Start a prompt: sign its nodes, drop what none of them can use.

        Raises KeyError for a node without "inputs": the worker dies of it (comfyui-protocol.md, trap 1b).
        """
        self._keys = {}
        self.sign(graph, graph.prompt)
        kept = set(self._keys.values())
        self.outputs = {k: v for k, v in self.outputs.items() if k in kept}
        self.ui = {k: v for k, v in self.ui.items() if k in kept}
        alive = {(node_id, node["class_type"]) for node_id, node in graph.prompt.items()}
        self.objects = {k: v for k, v in self.objects.items() if k in alive}

    def sign(self, graph: Graph, node_ids: Iterable[str]) -> None:
        """Give nodes their signatures (again after an expansion, for the new ones)."""
        signer = _Signer(graph, self.catalog, self.changed)
        for node_id in node_ids:
            self._keys[node_id] = signer.sign(node_id)

    def node_ids(self) -> list[str]:
        """The nodes signed in this prompt."""
        return list(self._keys)

    def output(self, node_id: str) -> tuple[Any, ...] | None:
        """A node's results, if they are there."""
        return self.outputs.get(self._keys.get(node_id, ""))

    def shown(self, node_id: str) -> Ui | None:
        """What a node showed, if anything."""
        return self.ui.get(self._keys.get(node_id, ""))

    def keep(self, node_id: str, outputs: tuple[Any, ...]) -> None:
        """Store a node's results."""
        self.outputs[self._keys[node_id]] = outputs

    def keep_ui(self, node_id: str, shown: Ui) -> None:
        """Store what a node showed."""
        self.ui[self._keys[node_id]] = shown

    def memory(self, node_id: str, class_type: str) -> dict[str, Any]:
        """What an instance of a node remembers while prompts keep using it."""
        return self.objects.setdefault((node_id, class_type), {})

    def forget(self) -> None:
        """Empty it all (POST /free with free_memory)."""
        self.outputs, self.ui, self.objects, self._keys = {}, {}, {}, {}


class _Signer:
    """Signatures of one graph: class, constants, and the signatures of what is linked."""

    def __init__(self, graph: Graph, catalog: Catalog, changed: Change) -> None:
        self._graph = graph
        self._catalog = catalog
        self._changed = changed
        self._signed: dict[str, Signature] = {}

    def sign(self, node_id: str) -> Signature:
        if node_id in self._signed:
            return self._signed[node_id]
        if node_id not in self._graph:
            return f"missing {node_id}"
        self._signed[node_id] = f"cycle {node_id}"
        node = self._graph.node(node_id)
        parts = [node["class_type"], self._changed(node)]
        if "UNIQUE_ID" in self._catalog.hidden(node["class_type"]).values():
            parts.append(node_id)
        for name in sorted(node["inputs"]):
            value = node["inputs"][name]
            linked = is_link(value)
            parts.append([name, [self.sign(value[0]), value[1]] if linked else [value]])
        if has_nan(parts):
            parts.append(uuid.uuid4().hex)  # no other prompt's node is like this one
        self._signed[node_id] = _short(json.dumps(parts, sort_keys=True, default=str))
        return self._signed[node_id]


def _short(text: str) -> Signature:
    """A signature of bounded length, so that long chains stay cheap."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
