"""What a node sees while it runs, and what it hands back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from backends.simulator.graph import Node
from backends.simulator.progress import Preview, Progress
from backends.simulator.server_state import ServerState


class NodeFailure(Exception):
    """An exception of a node, under the type name a ComfyUI would report."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # dotted, builtins without module: "torch.OutOfMemoryError"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a node gave."""

    outputs: tuple[Any, ...] = ()
    ui: dict[str, Any] | None = None  # what it shows: {"images": [...]}
    expand: dict[str, Node] = field(default_factory=dict)  # nodes to run in its place


@dataclass(slots=True)
class PromptRun:
    """The prompt being run, as all its nodes see it."""

    state: ServerState
    prompt_id: str
    prompt: dict[str, Node]
    extra_data: Any
    client_id: Any
    progress: Progress
    theme: int
    samplers: int = 1  # how many nodes share the prompt's seconds
    last_preview: float = float("-inf")  # loop time
    sampled: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What faults are filtered by."""
        return {"prompt_id": self.prompt_id, "client_id": self.client_id, "extra_data": self.extra_data}


@dataclass(frozen=True, slots=True)
class NodeContext:
    """One node's view."""

    run: PromptRun
    node_id: str
    class_type: str

    @property
    def state(self) -> ServerState:
        """The server it runs on."""
        return self.run.state

    async def wait(self, seconds: float, *, interruptible: bool = True) -> None:
        """Take time. Raises Interrupted at once if it may be interrupted and is."""
        if interruptible:
            await self.state.interrupt.sleep(seconds)
        else:
            await asyncio.sleep(max(0.0, seconds))

    def step(self, value: int, total: int, preview: Preview | None = None, *, look: bool = True) -> None:
        """Report a step; ComfyUI's nodes check the interrupt flag here."""
        if look:
            self.state.interrupt.check()
        self.run.progress.step(self.node_id, value, total, preview)

    @property
    def memory(self) -> dict[str, Any]:
        """What this node remembers from prompt to prompt."""
        return self.state.cache.memory(self.node_id, self.class_type)


Runner = Callable[[NodeContext, dict[str, Any]], Awaitable[Outcome]]
