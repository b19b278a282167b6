"""Starts and ends the demo's Director."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from django.conf import settings

from director.demo.child_process import GRACE_S

#: Seconds until the Director must be ready. The first start compiles every module.
READY_WITHIN_S: Final = 60.0
#: The child process exits GRACE_S after its input closes. Afterwards its process group is killed.
_KILL_AFTER_S: Final = GRACE_S + 2.0
_READY: Final = re.compile(r"Director is ready at (http://\S+)\s")
_POLL_S: Final = 0.1  #: Seconds between two reads of the log.
_TAIL_LINES: Final = 12


class ProcessFailed(Exception):
    """The Director ended unexpectedly or did not become ready. The message has its last lines."""


class DirectorProcess:
    """A Director in a process and process group of its own. An async context manager.

    Leaving it ends the process, and raises ``ProcessFailed`` if it has ended by itself. ``folder``
    is for its data and its log file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "director.log"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is None:
            return
        if self._process.returncode is not None:
            raise self._failure()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            # Not asyncio.timeout: early releases of Python 3.11 miscount cancellations there, and
            # this runs while the task is being cancelled.
            await asyncio.wait_for(self._process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            await self.kill()

    async def start(self, port: int) -> str:
        """Start it and return its address; port 0 is any free one. Raises ProcessFailed after
        READY_WITHIN_S.
        """
        # Append: a restarted process must not overwrite its earlier output.
        with self._log.open("ab") as log:
            before = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "director.demo.child_process",
                    "serve",
                    "--port",
                    str(port),
                ),
                cwd=settings.BASE_DIR,
                env=_environment(self._folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl-C in the terminal must reach the demo only; the demo ends the Director in
                # order.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while self._process.returncode is None and time.monotonic() < deadline:
            if match := _READY.search(self._log.read_bytes()[before:].decode(errors="replace")):
                return match[1]
            await asyncio.sleep(_POLL_S)
        raise self._failure()

    async def wait(self) -> None:
        """Wait until it ends by itself, and raise ProcessFailed."""
        if self._process is not None:
            await self._process.wait()
        raise self._failure()

    async def kill(self) -> None:
        """Kill the process group without an orderly end, which is no failure."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _failure(self) -> ProcessFailed:
        code = None if self._process is None else self._process.returncode
        what = (
            f"was not ready within {READY_WITHIN_S:.0f} s"
            if code is None
            else f"ended with status {code}"
        )
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return ProcessFailed("\n  ".join([f"The Director {what}.", *lines[-_TAIL_LINES:]]))


def _environment(folder: Path) -> Mapping[str, str]:
    inherited = os.environ.items()  # noqa: TID251 passed on, not read
    return {name: value for name, value in inherited if not name.startswith("DIRECTOR_")} | {
        "DJANGO_SETTINGS_MODULE": "director.settings",
        "PYTHONUNBUFFERED": "1",
        "DIRECTOR_DATA_DIR": str(folder),
        "DIRECTOR_DISCOVER": "0",
    }
