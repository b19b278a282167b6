"""The progress of one prompt's nodes, sent in frames (comfyui-protocol.md, "WebSocket")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backends.simulator.graph import Graph
from backends.simulator.hub import Hub


@dataclass(frozen=True, slots=True)
class Preview:
    """An encoded image to go out with a step; kind is "jpeg" or "png"."""

    image: bytes
    kind: str = "jpeg"


@dataclass(slots=True)
class Progress:
    """States of the nodes that have started, in that order."""

    hub: Hub
    graph: Graph
    prompt_id: str
    client_id: Any
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def start(self, node_id: str) -> None:
        """A node begins: 0.0 of 1.0 until it reports its own numbers."""
        self._tell(node_id, 0.0, 1.0, "running")

    def step(self, node_id: str, value: int, total: int, preview: Preview | None) -> None:
        """A node reports a step, optionally with an image."""
        self._tell(node_id, value, total, "running")
        named = preview is not None and self.hub.wants_metadata(self.client_id)
        if preview is not None and named:
            metadata = self._names(node_id)
            self.hub.send_named_preview(preview.image, preview.kind, metadata, self.client_id)
        data = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": node_id}
        self.hub.send("progress", data, self.client_id)
        if preview is not None and not named:
            self.hub.send_preview(preview.image, preview.kind, self.client_id)

    def finish(self, node_id: str) -> None:
        """A node is done; one that never began (cached) goes from nothing to 1 of 1."""
        total = self.nodes.get(node_id, {}).get("max", 1)
        self._tell(node_id, total, total, "finished")

    def _tell(self, node_id: str, value: float, total: float, state: str) -> None:
        names = self._names(node_id)
        self.nodes[node_id] = {"value": value, "max": total, "state": state} | names
        self.hub.send("progress_state", {"prompt_id": self.prompt_id, "nodes": self.nodes}, self.client_id)

    def _names(self, node_id: str) -> dict[str, Any]:
        real = self.graph.real(node_id)
        return {
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": real,
            "parent_node_id": self.graph.parent(node_id),
            "real_node_id": real,
        }
