"""State of one start of a simulated ComfyUI process: what a restart loses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from backends.simulator.audit_log import AuditLog
from backends.simulator.cache import NodeCache
from backends.simulator.catalog import Catalog
from backends.simulator.changes import changed
from backends.simulator.config import Config
from backends.simulator.faults import NODE_FAILURES, Fault, Faults
from backends.simulator.folders import Folders
from backends.simulator.hub import Hub
from backends.simulator.interrupt import InterruptFlag
from backends.simulator.prompt_queue import PromptQueue

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class ServerState:
    """What the routes, the worker and the sockets of one process share."""

    config: Config
    folders: Folders
    catalog: Catalog
    faults: Faults
    audit_log: AuditLog
    act: Callable[[Fault], None]  # carry out an action that is due
    spawn: Callable[[Coroutine[Any, Any, None]], None]  # run in the background until this process ends
    painters: ThreadPoolExecutor
    number: int = 0  # the counter of prompts, consumed by refused ones too
    client_id: Any = None  # of the running prompt, or the last one
    last_node_id: str | None = None  # the node being executed, as displayed
    worker_alive: bool = True
    ended: bool = False
    free_requested: bool = False
    gpu_broken: Fault | None = None  # the order that broke it
    node_succeeded: bool = True  # the last node that ran, of any prompt; see Execution
    awake: asyncio.Event = field(default_factory=asyncio.Event)  # cleared during a pause
    interrupt: InterruptFlag = field(default_factory=InterruptFlag)
    hub: Hub = field(init=False)
    queue: PromptQueue = field(init=False)
    cache: NodeCache = field(init=False)

    def __post_init__(self) -> None:
        self.hub = Hub(self.faults)
        self.queue = PromptQueue(self.audit_log, self.send_status)
        self.cache = NodeCache(self.catalog, lambda node: changed(node, self.folders))
        self.awake.set()

    def status(self) -> dict[str, Any]:
        """How many prompts are pending or running."""
        return {"exec_info": {"queue_remaining": self.queue.depth()}}

    def send_status(self) -> None:
        """Send the depth of the queue to all sockets."""
        self.hub.send("status", {"status": self.status()})

    def node_failure(self, names: Sequence[str], **facts: Any) -> Fault | None:
        """The error that a node shall raise: ordered for it, or a broken GPU's; None for none."""
        if self.gpu_broken is not None:
            return self.gpu_broken
        for kind in NODE_FAILURES:
            if (fault := self.faults.take(kind, node=names, **facts)) is not None:
                self.gpu_broken = fault if kind == "cuda_fatal" else None
                return fault
        return None

    async def apply_due_faults(self, name: str, step: int = 0, **facts: Any) -> None:
        """Inject the faults that are due at this point of a prompt."""
        due = self.faults.take_actions(name, step, **facts)
        for fault in due:
            self.act(fault)
        if due:
            await asyncio.sleep(0)  # one of them may have ended the task that is here
        if self.ended:
            await asyncio.Event().wait()  # until the cancellation that is on its way

    async def run_in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do slow work in a thread, so that HTTP stays responsive."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.painters, lambda: work(*args, **kwargs))
