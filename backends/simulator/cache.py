"""The node cache: what the last prompt computed, found again by what went into it
(comfyui-protocol.md, "WebSocket").
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backends.simulator.catalog import Catalog
from backends.simulator.file_inputs import has_nan
from backends.simulator.graph import Graph, Node, is_link

Signature = str
Change = Callable[[Node], Any]  # a value that differs if the node must run again


@dataclass(frozen=True, slots=True)
class Ui:
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
    keys: dict[str, Signature] = field(default_factory=dict)  # of the nodes of this prompt

    def enter(self, graph: Graph) -> None:
        """Start a prompt: sign its nodes, drop what none of them can use.

        Raises KeyError for a node without "inputs": the worker dies of it (comfyui-protocol.md,
        trap 1b).
        """
        self.keys = {}
        self.sign(graph, graph.prompt)
        kept = set(self.keys.values())
        self.outputs = {k: v for k, v in self.outputs.items() if k in kept}
        self.ui = {k: v for k, v in self.ui.items() if k in kept}
        alive = {(node_id, node["class_type"]) for node_id, node in graph.prompt.items()}
        self.objects = {k: v for k, v in self.objects.items() if k in alive}

    def sign(self, graph: Graph, node_ids: Iterable[str]) -> None:
        """Give nodes their signatures (again after an expansion, for the new ones)."""
        signed: dict[str, Signature] = {}
        for node_id in node_ids:
            self.keys[node_id] = self._sign(graph, node_id, signed)

    def output(self, node_id: str) -> tuple[Any, ...] | None:
        return self.outputs.get(self.keys.get(node_id, ""))

    def node_ui(self, node_id: str) -> Ui | None:
        return self.ui.get(self.keys.get(node_id, ""))

    def memory(self, node_id: str, class_type: str) -> dict[str, Any]:
        """What an instance of a node remembers while prompts keep using it."""
        return self.objects.setdefault((node_id, class_type), {})

    def forget(self) -> None:
        self.outputs, self.ui, self.objects, self.keys = {}, {}, {}, {}

    def _sign(self, graph: Graph, node_id: str, signed: dict[str, Signature]) -> Signature:
        if node_id in signed:
            return signed[node_id]
        if node_id not in graph.nodes:
            return f"missing {node_id}"
        signed[node_id] = f"cycle {node_id}"
        node = graph.nodes[node_id]
        parts = [node["class_type"], self.changed(node)]
        if "UNIQUE_ID" in self.catalog.hidden(node["class_type"]).values():
            parts.append(node_id)
        for name in sorted(node["inputs"]):
            value = node["inputs"][name]
            linked = is_link(value)
            source = [self._sign(graph, value[0], signed), value[1]] if linked else [value]
            parts.append([name, source])
        if has_nan(parts):
            parts.append(uuid.uuid4().hex)  # no other prompt's node is like this one
        # A digest: signatures of long chains stay short.
        text = json.dumps(parts, sort_keys=True, default=str)
        signed[node_id] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return signed[node_id]
