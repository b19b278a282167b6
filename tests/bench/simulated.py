"""``python -m tests.bench.simulated``: simulated ComfyUIs in one process, which do as they are told.

Reads a JSON list a line, ``[word, …]``, and prints its answer as JSON:

- ``["hold"]``, ``["go"]``: whatever samples stands still; goes on.
- ``["beat", N]``: each tells of its running prompt N times a second, or tells everybody of no prompt
  where it has none; 0 ends it. The sampler's ``value`` is the moment it was told (``stamp``).
- ``["counts"]``: frames handed to sockets, prompts that stand, and running prompts whose client is
  connected, over all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.simulator import Simulator

#: The largest number of steps that is stored; a stamp must stay below.
STEPS = 2**31 - 1


def stamp(moment: float | None = None) -> int:
    """Return a moment of the monotonic clock in microseconds; repeats after 35 minutes.

    All processes of a machine share that clock, so it times a frame from one to another.
    """
    return int((time.monotonic() if moment is None else moment) * 1e6) % STEPS


def _node(node_id: str, prompt_id: str, value: float, total: float, state: str) -> dict[str, Any]:
    names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
    whose = {"prompt_id": prompt_id, "parent_node_id": None}
    return {"value": value, "max": total, "state": state, **names, **whose}


class _Farm:
    """The simulators, and what is done to all of them."""

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

    def obey(self, word: str, *values: Any) -> Any:
        return getattr(self, f"_{word}")(*values)

    def _hold(self) -> None:
        for one in self._simulators:
            one.fault("stuck", count=0)

    def _go(self) -> None:
        for one in self._simulators:
            one.clear_faults()

    def _beat(self, rate: float) -> None:
        for task in self._beats:
            task.cancel()
        self._beats = []
        for number, one in enumerate(self._simulators if rate else ()):
            # Spread over the time between two frames: GPUs do not step together.
            first = number / len(self._simulators) / rate
            self._beats.append(asyncio.get_running_loop().create_task(_tell(one, rate, first)))

    def _counts(self) -> dict[str, int]:
        standing = followed = 0
        for one in self._simulators:
            standing += one.state.queue.depth()
            for item in one.state.queue.running.values():
                followed += item[3].get("client_id") in one.state.hub.sockets
        return {"frames": self._frames, "standing": standing, "followed": followed}


async def _tell(simulator: Simulator, rate: float, first: float) -> None:
    due = time.monotonic() + first
    while True:
        await asyncio.sleep(due - time.monotonic())
        due += 1 / rate
        running = list(simulator.state.queue.running.values())
        prompt_id, client_id = (running[0][1], running[0][3].get("client_id")) if running else ("0" * 36, None)
        nodes = {one: _node(one, prompt_id, 1, 1, "finished") for one in ("4", "5", "6")}
        nodes["3"] = _node("3", prompt_id, stamp(), STEPS, "running")
        simulator.emit("progress_state", {"prompt_id": prompt_id, "nodes": nodes}, client_id)


async def _serve(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(
                Simulator(
                    name=f"gpu-{number}", seconds=options.seconds, steps=options.steps, audit_log=options.audit_log
                )
            )
            for number in range(1, options.count + 1)
        ]
        farm = _Farm(simulators)
        _say([one.url for one in simulators])
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            _say(farm.obey(*json.loads(line)))
        farm.obey("beat", 0)


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulated")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--audit-log", type=Path)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
