"""The simulated ComfyUI, for tests and commands: `async with Simulator(name="gpu-1") as sim:`."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from backends.simulator.audit_log import AuditLog, Entry
from backends.simulator.catalog import Catalog
from backends.simulator.config import Config
from backends.simulator.faults import Fault, Faults, parse_fault
from backends.simulator.folders import Folders
from backends.simulator.http_prompts import raise_flag, submit
from backends.simulator.process import PortInUse, Process
from backends.simulator.prompt_queue import identity
from backends.simulator.server_state import ServerState

Work = Coroutine[Any, Any, None]

logger = logging.getLogger(__name__)


class Simulator:
    """One simulated ComfyUI in the running loop; it can die and come back under its address.

    Settings are `Config`'s fields. All methods are for the loop it runs in.
    """

    def __init__(self, *, faults: Iterable[str] = (), **settings: Any) -> None:
        self.config = Config(**settings)
        self.name = self.config.name
        self.audit_log = AuditLog(self.config.name, self.config.audit_log)
        self.wait_for = self.audit_log.wait_for
        self.faults = Faults(self._note_fault)
        self._stack = contextlib.AsyncExitStack()
        self._group: asyncio.TaskGroup
        self._process: Process | None = None
        self._starts = 0
        self._closing = False
        self._returns: set[asyncio.Task[None]] = set()
        for text in faults:
            name, options = parse_fault(text)
            self.faults.inject(name, **options)

    async def __aenter__(self) -> Self:
        """Start listening. Raises PortInUse."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        self._process_now().spawn_background(self.state.apply_due_faults("now"))
        return self

    async def _open(self) -> None:
        stack = self._stack
        stack.callback(self.audit_log.close)
        root = self.config.output_dir
        if root is None:
            folder = tempfile.TemporaryDirectory(prefix="simulator-", ignore_cleanup_errors=True)
            root = Path(stack.enter_context(folder))
        self._folders = Folders(root)
        self._catalog = Catalog(
            self._folders, self.config.checkpoints, self.config.release, has_krita=self.config.krita
        )
        self._painters = stack.enter_context(ThreadPoolExecutor(1, "painter"))
        self._group = await stack.enter_async_context(asyncio.TaskGroup())
        await self._start()
        stack.push_async_callback(self._stop)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    # state for tests

    @property
    def port(self) -> int:
        """The port it listens on, the same after a restart."""
        return self.config.port

    @property
    def url(self) -> str:
        """Its base address, without a slash at the end."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.config.port}"

    @property
    def state(self) -> ServerState:
        return self._process_now().state

    @property
    def output_folder(self) -> Path:
        return Path(self._folders.of("output"))

    @property
    def prompts(self) -> list[Entry]:
        """The audit log's `accepted` entries, oldest first."""
        return [entry for entry in self.audit_log.entries if entry["kind"] == "accepted"]

    @property
    def is_up(self) -> bool:
        """Whether it listens (it may be down on order)."""
        return self._process is not None and not self._process.state.ended

    # what a test does to it

    def fault(self, name: str, **options: Any) -> Fault:
        """Order a fault (see `faults.KINDS`); an action with `at=now` happens before this returns.

        Raises FaultError.
        """
        fault = self.faults.inject(name, **options)
        if fault.options.get("at") == "now":
            for due in self.faults.take_actions("now"):
                self._act(due)
        return fault

    def clear_faults(self, name: str | None = None) -> None:
        self.faults.clear(name)

    async def restart(self, down_s: float = 0.0) -> None:
        """Die, stay down, come back under the same address with everything forgotten."""
        self._die("restarted", down=down_s)
        await self._come_back(down_s)

    def crash(self) -> None:
        """Die and stay down until `restart`."""
        self._die("crashed")

    # starts and ends

    def _process_now(self) -> Process:
        if self._process is None:
            raise RuntimeError("The simulator isn't started: use it as `async with`.")
        return self._process

    async def _start(self) -> None:
        self._folders.wipe_temp()
        state = ServerState(
            config=self.config,
            folders=self._folders,
            catalog=self._catalog,
            faults=self.faults,
            audit_log=self.audit_log,
            act=self._act,
            painters=self._painters,
        )
        process = Process(state, self._spawn)
        try:
            port = await process.start(self.config.port, self.crash)
        except OSError:
            process.kill()
            await process.wait_closed()
            raise
        self.config = state.config = replace(self.config, port=port)
        self._process = process
        self._starts += 1

    async def _stop(self) -> None:
        self._closing = True  # one that is down comes back no more
        for task in self._returns:
            task.cancel()
        if self.is_up:
            self._die("stopped")
        await self._process_now().wait_closed()

    def _die(self, kind: str, **facts: Any) -> None:
        process = self._process_now()
        if process.state.ended:
            return
        process.kill()
        queue = process.state.queue
        for item in [*queue.running.values(), *queue.pending]:
            self.audit_log.write("lost", **identity(item[1], item[3]))
        self.audit_log.write(kind, starts=self._starts, **facts)

    async def _come_back(self, down_s: float) -> None:
        await self._process_now().wait_closed()
        await asyncio.sleep(down_s)
        async with asyncio.timeout(10.0):
            while not self._closing:
                # While the server was down, an outgoing connection may have got the port.
                with contextlib.suppress(PortInUse):
                    await self._start()
                    return
                await asyncio.sleep(0.05)

    def _spawn(self, work: Work) -> asyncio.Task[None]:
        task = self._group.create_task(_run_guarded(work))
        # A process can end before its tasks have started: their coroutines are closed.
        task.add_done_callback(lambda _: work.close())
        return task

    def _act(self, fault: Fault) -> None:
        if not self.is_up:
            return
        process = self._process_now()
        match fault.name:
            case "crash":
                self.crash()
            case "restart":
                self._die("restarted", down=fault["down"])
                task = self._spawn(self._come_back(fault["down"]))
                self._returns.add(task)
                task.add_done_callback(self._returns.discard)
            case "refuse_connections":
                process.spawn_background(process.reject_connections(self.port, fault))
            case "worker_dead":
                process.kill_worker()
            case _:
                _carry_out(process.state, fault)

    def _note_fault(self, fault: Fault, facts: Mapping[str, Any]) -> None:
        details = {key: facts[key] for key in ("prompt_id", "path", "method") if facts.get(key)}
        self.audit_log.write("fault", name=fault.name, **details)


async def _run_guarded(work: Work) -> None:
    try:
        await work
    except Exception:
        logger.exception("A part of the simulator failed")


def _carry_out(state: ServerState, fault: Fault) -> None:
    client_id: str = fault["client_id"]
    match fault.name:
        case "drop_sockets":
            state.hub.drop(client_id)
        case "stall_sockets":
            state.hub.stall(client_id)
        case "deaf":
            state.hub.forget(client_id)
        case "delete_pending" if fault["prompt_id"]:
            state.queue.delete(fault["prompt_id"])
        case "delete_pending":
            state.queue.clear()
        case "interrupt":
            raise_flag(state)
        case "foreign_prompt":
            for index in range(fault["prompts"]):
                submit(state, _foreign(index, fault["seconds"], front=fault["front"]))


def _foreign(index: int, seconds: float, *, front: bool) -> dict[str, Any]:
    inputs: dict[str, Any] = {"seed": 1_000_000 + index, "steps": 10, "cfg": 7.0}
    inputs |= {"sampler_name": "euler", "delay": seconds / 10}
    prompt = {
        "1": {"class_type": "TestSampler", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    return {"prompt": prompt, "client_id": "foreign-client", "front": front}
