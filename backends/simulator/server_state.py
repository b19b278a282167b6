"""State of one start of a simulated ComfyUI process: what a restart loses."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from aiohttp import web

from backends.simulator.audit_log import AuditLog
from backends.simulator.cache import NodeCache
from backends.simulator.catalog import Catalog
from backends.simulator.config import Config
from backends.simulator.faults import NODE_FAILURES, Fault, Faults
from backends.simulator.file_inputs import change_value
from backends.simulator.folders import Folders
from backends.simulator.hub import Hub
from backends.simulator.prompt_queue import PromptQueue

P = ParamSpec("P")
R = TypeVar("R")


class Interrupted(Exception):
    """The running prompt stops here."""


class InterruptFlag(asyncio.Event):
    """The flag of the process: one for all prompts, as ComfyUI has it (comfyui-protocol.md, trap
    4).

    POST /interrupt sets it, the start of a prompt clears it, nodes check it.
    """

    def check(self) -> None:
        """Raise Interrupted and clear the flag if an interrupt was requested."""
        if self.is_set():
            self.clear()
            raise Interrupted

    async def sleep(self, seconds: float) -> None:
        """Wait, or raise Interrupted as soon as an interrupt is requested."""
        self.check()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait()
            self.check()


@dataclass(slots=True)
class ServerState:
    """What the routes, the worker and the sockets of one process share."""

    config: Config
    folders: Folders
    catalog: Catalog
    faults: Faults
    audit_log: AuditLog
    act: Callable[[Fault], None]  # carry out an action that is due
    painters: ThreadPoolExecutor
    started_at: str = field(default_factory=lambda: dt.datetime.now().isoformat())  # noqa: DTZ005 as ComfyUI
    number: int = 0  # the counter of prompts, consumed by refused ones too
    client_id: Any = None  # of the running prompt, or the last one
    last_node_id: str | None = None  # the node being executed, as displayed
    ended: bool = False
    # Krita's images by their ids: content and media type.
    images: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    #: The models that were uploaded by Krita's nodes, by folder: name and bytes.
    models: dict[str, dict[str, int]] = field(default_factory=dict)
    free_requested: bool = False
    gpu_broken: Fault | None = None  # the order that broke it
    node_succeeded: bool = True  # the last node that ran, of any prompt; see Execution
    interrupt: InterruptFlag = field(default_factory=InterruptFlag)
    # Runs a coroutine in the background until this process ends; set by `Process`.
    spawn: Callable[[Coroutine[Any, Any, None]], object] = field(init=False)
    hub: Hub = field(init=False)
    queue: PromptQueue = field(init=False)
    cache: NodeCache = field(init=False)

    def __post_init__(self) -> None:
        self.hub = Hub()
        self.queue = PromptQueue(
            self.audit_log, lambda: self.hub.send("status", {"status": self.status()})
        )
        self.cache = NodeCache(self.catalog, lambda node: change_value(node, self.folders))

    def status(self) -> dict[str, Any]:
        remaining = len(self.queue.pending) + len(self.queue.running)
        return {"exec_info": {"queue_remaining": remaining}}

    def later(self, fault: Fault, work: Callable[[], object]) -> None:
        """Call a function after the seconds of a fault, unless this process has ended by then."""

        async def wait() -> None:
            await fault.last()
            work()

        self.spawn(wait())

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
        due = self.faults.take_actions(name, step, **facts)
        for fault in due:
            self.act(fault)
        if due:
            await asyncio.sleep(0)  # one of them may have ended the task that is here
        if self.ended:
            await asyncio.Event().wait()  # until the cancellation that is on its way

    async def run_in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.painters, lambda: work(*args, **kwargs))


STATE: web.AppKey[ServerState] = web.AppKey("state", ServerState)


async def break_connection(request: web.Request) -> web.Response:
    """Cut the request's connection without an answer; never returns one that arrives."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(0)
    return web.Response(status=500)
