"""A real ComfyUI of the tests' own, started by ``COMFYUI_COMMAND``: one that may be killed."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.real.comfyui import ComfyUI
from tests.real.waiting import eventually

#: Seconds until it answers; it imports PyTorch first.
START_PATIENCE = 120.0


class OwnComfyUI(ComfyUI):
    """The client of a ComfyUI, and its process.

    Args:
        command: a command line with ``{port}`` and ``{folder}``, which runs it in the foreground.
        folder: its own; the command has it save its pictures in ``folder / "comfyui"`` or below.
    """

    def __init__(self, command: str, folder: Path) -> None:
        port = _free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self._folder = folder / "comfyui"
        self._folder.mkdir()
        self._arguments = [word.format(port=port, folder=self._folder) for word in shlex.split(command)]
        self._log = folder / "comfyui.log"
        self.start()

    def start(self) -> None:
        """Start it, on the same port and folder each time, and return once it answers.

        Raises:
            AssertionError: It ended, or did not answer in time.
        """
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(self._arguments, stdout=out, stderr=out, start_new_session=True)
        eventually("ComfyUI answers", self._answers, seconds=START_PATIENCE)

    def _answers(self) -> bool:
        code = self._process.poll()
        assert code is None, f"ComfyUI ended with {code}:\n{self._log.read_text()[-3000:]}"
        try:
            return bool(self.get("/system_stats"))
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it and all that it started as a power cut does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def count_pictures(self, prefix: str) -> int:
        """Return how many pictures of ``prefix`` are in its folder: also such as it forgot."""
        return len(list(self._folder.rglob(f"{prefix}_*.png")))

    def close(self) -> None:
        """Close the client, and end the process if it has not ended."""
        super().close()
        if self._process.poll() is None:
            self.kill()


@contextmanager
def own_comfyui(command: str, folder: Path) -> Iterator[OwnComfyUI]:
    """A ComfyUI that is started by ``command`` and ended with the block."""
    comfyui = OwnComfyUI(command, folder)
    try:
        yield comfyui
    finally:
        comfyui.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
