"""What a node sees while it runs, what it hands back, and its progress (comfyui-protocol.md,
"WebSocket").
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from backends.simulator import releases
from backends.simulator.graph import Graph, Node
from backends.simulator.server_state import ServerState


class NodeFailure(Exception):
    """An exception of a node, under the type name a ComfyUI would report."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # dotted, builtins without module: "torch.OutOfMemoryError"


@dataclass(frozen=True, slots=True)
class Outcome:
    outputs: tuple[Any, ...] = ()
    ui: dict[str, Any] | None = None  # what it shows: {"images": [...]}
    expand: dict[str, Node] = field(default_factory=dict)  # nodes to run in its place


@dataclass(frozen=True, slots=True)
class Preview:
    """An encoded image to go out with a step; kind is "jpeg" or "png"."""

    image: bytes
    kind: str = "jpeg"


@dataclass(slots=True)
class PromptRun:
    """What the nodes of a running prompt share, and the frames about their progress."""

    state: ServerState
    graph: Graph
    facts: dict[str, Any]  # what faults are filtered by: prompt_id, client_id, extra_data
    theme: int = 0
    samplers: int = 1  # how many nodes share the prompt's seconds
    last_preview: float = float("-inf")  # loop time
    sampled: bool = False
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)  # their states
    _reported: dict[str, float] = field(
        default_factory=dict
    )  # node: when its last step was, loop time

    def start(self, node_id: str) -> None:
        self._tell(node_id, 0.0, 1.0, "running")

    def step(self, node_id: str, value: int, total: int, preview: Preview | None) -> None:
        now = asyncio.get_running_loop().time()
        throttle = 0.1 if self.state.config.release >= releases.THROTTLE else 0.0
        is_soon = now - self._reported.get(node_id, -math.inf) < throttle
        if is_soon and value < total and preview is None:
            return
        self._reported[node_id] = now
        self._tell(node_id, value, total, "running")
        hub, client_id = self.state.hub, self.facts["client_id"]
        named = preview is not None and hub.wants_metadata(client_id)
        if preview is not None and named:
            hub.send_named_preview(preview.image, preview.kind, self._names(node_id), client_id)
        data = {"value": value, "max": total, "prompt_id": self.facts["prompt_id"], "node": node_id}
        hub.send("progress", data, client_id)
        if preview is not None and not named:
            hub.send_preview(preview.image, preview.kind, client_id)

    def finish(self, node_id: str) -> None:
        """A node is done; one that never began (cached) goes from nothing to 1 of 1."""
        total = self.nodes.get(node_id, {}).get("max", 1)
        self._tell(node_id, total, total, "finished")

    def _tell(self, node_id: str, value: float, total: float, state: str) -> None:
        names = self._names(node_id)
        self.nodes[node_id] = {"value": value, "max": total, "state": state} | names
        data = {"prompt_id": self.facts["prompt_id"], "nodes": self.nodes}
        self.state.hub.send("progress_state", data, self.facts["client_id"])

    def _names(self, node_id: str) -> dict[str, Any]:
        real = self.graph.real(node_id)
        return {
            "node_id": node_id,
            "prompt_id": self.facts["prompt_id"],
            "display_node_id": real,
            "parent_node_id": self.graph.parents.get(node_id),
            "real_node_id": real,
        }


@dataclass(frozen=True, slots=True)
class NodeContext:
    run: PromptRun
    node_id: str
    class_type: str

    @property
    def state(self) -> ServerState:
        return self.run.state

    async def wait(self, seconds: float, *, interruptible: bool = True) -> None:
        """Take time. Raises Interrupted at once if it may be interrupted and is."""
        if interruptible:
            await self.state.interrupt.sleep(seconds)
        else:
            await asyncio.sleep(max(0.0, seconds))

    def step(
        self, value: int, total: int, preview: Preview | None = None, *, look: bool = True
    ) -> None:
        """Report a step; ComfyUI's nodes check the interrupt flag here."""
        if look:
            self.state.interrupt.check()
        self.run.step(self.node_id, value, total, preview)


Runner = Callable[[NodeContext, dict[str, Any]], Awaitable[Outcome]]
