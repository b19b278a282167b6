"""Servers a recording can be played against: the simulator, in this process or its own, or a
ComfyUI.
"""

import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import Launched
from tests.harness.servers import free_port
from tests.harness.waits import answers, until

#: Seconds until a ComfyUI answers; it imports PyTorch first.
START_PATIENCE = 120.0
SIMULATOR = shlex.join(
    [sys.executable, "-m", "backends.simulator", "--port", "{port}", "--output-dir", "{folder}"]
)


@dataclass
class Server:
    """A server that no replay may end: its address, and the folder of its output images."""

    url: str
    outputs: Path
    #: Returns whether the prompt that runs may go on.
    go_on: Callable[[], Awaitable[bool]] | None = None


class Process(Launched):
    """A server in a process of its own, started by a command line with {port} and {folder}."""

    def __init__(self, command: str, folder: Path) -> None:
        port = free_port()
        words = [word.format(port=port, folder=folder) for word in shlex.split(command)]
        super().__init__(folder, words, os.environ)
        self.url, self.outputs = f"http://127.0.0.1:{port}", folder / "output"

    def _command(self) -> list[str]:
        return list(self._words)

    def wait_ready(self, within: float = START_PATIENCE) -> None:
        until(self._answers, within)

    def _answers(self) -> bool:
        assert self.runs, self.printed()[-3000:]
        return answers(f"{self.url}/prompt")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and all that it started, and wait for its end."""
        os.killpg(self.process.pid, number)
        self.process.wait()
