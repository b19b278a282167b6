"""Servers a recording can be played against: the simulator, in this process or its own, or a ComfyUI."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import httpx

START_PATIENCE = 120.0  # seconds; a real ComfyUI imports torch
POLL = 0.05  # seconds between two looks whether it answers
SIMULATOR = shlex.join([sys.executable, "-m", "backends.simulator", "--port", "{port}", "--output-dir", "{folder}"])


class Server(Protocol):
    """What a replay needs of a server.

    Attributes:
        url: where it answers, without a slash at the end.
        outputs: the folder its output images are saved in.
    """

    url: str
    outputs: Path

    async def kill(self, number: signal.Signals) -> None:
        """Send a signal to the server's process and wait for its end."""

    async def restart(self) -> None:
        """Start it again, on the same port and folders."""


class Endless:
    """A server that no replay may end: the simulator in this process, or a running ComfyUI."""

    def __init__(self, url: str, outputs: Path) -> None:
        self.url = url.rstrip("/")
        self.outputs = outputs

    async def kill(self, number: signal.Signals) -> None:
        """Refuse."""
        raise AssertionError("this recording needs a server with a process of its own")

    async def restart(self) -> None:
        """Refuse."""
        raise AssertionError("this recording needs a server with a process of its own")


class Process:
    """A server in a process of its own, started by a command line with {port} and {folder}."""

    def __init__(self, command: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.outputs = folder / "output"
        self._argv = [word.format(port=port, folder=folder) for word in shlex.split(command)]
        self._log = folder / "log.txt"
        self._process: asyncio.subprocess.Process | None = None

    async def restart(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self._argv, stdout=log, stderr=log)
        async with asyncio.timeout(START_PATIENCE), httpx.AsyncClient(trust_env=False) as http:
            while not await self._answers(http):
                await asyncio.sleep(POLL)

    async def _answers(self, http: httpx.AsyncClient) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError(f"the server ended at its start:\n{self._log.read_text()[-3000:]}")
        try:
            return (await http.get(f"{self.url}/prompt")).status_code == 200
        except httpx.TransportError:
            return False

    async def kill(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        await self._process.wait()

    async def stop(self) -> None:
        """End it if it has not ended by itself."""
        if self._process is not None and self._process.returncode is None:
            await self.kill(signal.SIGKILL)


@asynccontextmanager
async def process(command: str, folder: Path) -> AsyncIterator[Server]:
    """A server started by ``command``, ended with the block."""
    server = Process(command, folder)
    try:
        await server.restart()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def simulator(folder: Path, *, previews: bool) -> AsyncIterator[Server]:
    """A simulator in this loop; with ``previews``, one at every step."""
    from backends.simulator import Simulator

    async with Simulator(name="contract", output_dir=folder, preview_fps=1000.0 if previews else 0.0) as running:
        yield Endless(running.url, running.output_folder)


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
