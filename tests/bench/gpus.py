"""Simulated ComfyUIs that are measured against: some in a process of their own, and their control.

The process reads a JSON list a line, ``[word, …]``, and prints its answer as JSON:

- ``["hold"]``, ``["go"]``: samplers stand still; go on.
- ``["beat", N]``: each sends frames of its running prompt N times a second, or of no known prompt
  where it has none; 0 ends it. The sampler's ``value`` is the moment of sending (``stamp``).
- ``["counts"]``: frames sent to sockets, prompts that run or wait, and running prompts whose client
  is connected, over all of them.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.simulator import Simulator, read_audit_log
from tests.harness.processes import ROOT
from tests.harness.waits import until

#: The largest number of steps that is stored; a stamp must stay below.
STEPS = 2**31 - 1

Entry = dict[str, Any]


def stamp(moment: float | None = None) -> int:
    """Return a moment of the monotonic clock in microseconds; repeats after 35 minutes.

    All processes of a machine share that clock, so it times a frame from one to another.
    """
    return int((time.monotonic() if moment is None else moment) * 1e6) % STEPS


class Gpus:
    """The process, and its simulators' URLs and ids."""

    def __init__(self, folder: Path, count: int, seconds: float, steps: int) -> None:
        self._audit_log = folder / "audit.jsonl"
        words = [str(count), str(seconds), str(steps), str(self._audit_log)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.gpus", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.urls: list[str] = self._answer()
        self.ids = [f"localhost_{url.rsplit(':', 1)[1]}" for url in self.urls]

    def tell(self, word: str, *values: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([word, *values]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the simulators ended"
        return json.loads(line)

    def wait_counts(self, what: Callable[[dict[str, int]], bool], within: float = 60.0) -> None:
        until(lambda: what(self.tell("counts")), within, lambda: self.tell("counts"))

    def seen(self) -> list[Entry]:
        return read_audit_log(self._audit_log)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def simulated(folder: Path, count: int, *, seconds: float = 0.0, steps: int = 1) -> Iterator[Gpus]:
    """Run simulators whose prompts take so many seconds in so many steps, of two frames each."""
    gpus = Gpus(folder, count, seconds, steps)
    try:
        yield gpus
    finally:
        gpus.close()


class _Controls:
    def __init__(self, simulators: list[Simulator]) -> None:
        self._simulators = simulators
        self._frames = 0
        self._beats: list[asyncio.Task[None]] = []
        for one in simulators:
            self._count_frames(one)

    def _count_frames(self, simulator: Simulator) -> None:
        deliver = simulator.state.hub._deliver

        async def counted(socket: web.WebSocketResponse, frame: str | bytes) -> None:
            await deliver(socket, frame)
            self._frames += 1

        simulator.state.hub._deliver = counted  # type: ignore[method-assign]

    def hold(self) -> None:
        for one in self._simulators:
            one.fault("stuck", count=0)

    def go(self) -> None:
        for one in self._simulators:
            one.clear_faults()

    def beat(self, rate: float) -> None:
        for task in self._beats:
            task.cancel()
        self._beats = []
        for number, one in enumerate(self._simulators if rate else ()):
            # Spread over the time between two frames: GPUs do not step together.
            first = number / len(self._simulators) / rate
            self._beats.append(asyncio.get_running_loop().create_task(_beat(one, rate, first)))

    def counts(self) -> dict[str, int]:
        standing = followed = 0
        for one in self._simulators:
            standing += len(one.state.queue.pending) + len(one.state.queue.running)
            for item in one.state.queue.running.values():
                followed += item[3].get("client_id") in one.state.hub.sockets
        return {"frames": self._frames, "standing": standing, "followed": followed}


async def _beat(simulator: Simulator, rate: float, first: float) -> None:
    due = time.monotonic() + first
    while True:
        await asyncio.sleep(due - time.monotonic())
        due += 1 / rate
        running = list(simulator.state.queue.running.values())
        prompt_id, client_id = (
            (running[0][1], running[0][3].get("client_id")) if running else ("0" * 36, None)
        )
        nodes = {one: _node(one, prompt_id, 1, 1, "finished") for one in ("4", "5", "6")}
        nodes["3"] = _node("3", prompt_id, stamp(), STEPS, "running")
        simulator.state.hub.send(
            "progress_state", {"prompt_id": prompt_id, "nodes": nodes}, client_id
        )


def _node(node_id: str, prompt_id: str, value: float, total: float, state: str) -> dict[str, Any]:
    names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
    whose = {"prompt_id": prompt_id, "parent_node_id": None}
    return {"value": value, "max": total, "state": state, **names, **whose}


async def _serve(count: str, seconds: str, steps: str, audit_log: str) -> None:
    """Serve until the standard input ends."""
    options: dict[str, Any] = {
        "seconds": float(seconds),
        "steps": int(steps),
        "audit_log": Path(audit_log),
    }
    async with AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(Simulator(name=f"gpu-{number}", **options))
            for number in range(1, int(count) + 1)
        ]
        controls = _Controls(simulators)
        print(json.dumps([one.url for one in simulators]), flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            word, *values = json.loads(line)
            print(json.dumps(getattr(controls, word)(*values)), flush=True)
        controls.beat(0)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
