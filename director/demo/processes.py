"""Starts, follows and ends the demo's processes."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from django.conf import settings

from director.demo.child_process import GRACE_S

READY_WITHIN_S: Final = 60.0  #: Seconds until a process must be ready. The first start compiles every module.
#: The child process exits GRACE_S after its input closes. Afterwards its process group is killed.
_KILL_AFTER_S: Final = GRACE_S + 2.0
_MAX_LINE: Final = 2**20  #: The longest line that is read from a process.
_TAIL_LINES: Final = 12


class ProcessFailed(Exception):
    """A process of the demo ended unexpectedly or did not become ready. The message has its last lines."""


class DemoProcess:
    """One management command in a process and process group of its own.

    ``name`` is also the base name of the log file. The process has pipes for stdin (closing it ends the process) and
    stdout (includes stderr). ``ready`` is the pattern of the line that reports readiness.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, ready: re.Pattern[str]) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._pattern = ready
        self._ready: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        self._stopping = False

    async def follow(self) -> None:
        """Write the output to the log file; raise ProcessFailed after an end without `stop` or `kill`."""
        assert self._process.stdout is not None  # noqa: S101 started with a pipe
        # Append: a restarted process must not overwrite its earlier output.
        with self._log.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                match = self._pattern.search(line.decode(errors="replace"))
                if match and not self._ready.done():
                    self._ready.set_result(match)
        code = await self._process.wait()
        if not self._stopping:
            raise ProcessFailed(f"{self.name} ended with status {code}.{self._last_lines()}")

    async def ready(self) -> re.Match[str]:
        """Return the match of the line that reports readiness; ProcessFailed after READY_WITHIN_S."""
        try:
            return await asyncio.wait_for(self._ready, READY_WITHIN_S)
        except TimeoutError:
            raise ProcessFailed(
                f"{self.name} was not ready within {READY_WITHIN_S:.0f} s.{self._last_lines()}"
            ) from None

    def _last_lines(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n  ".join(["", *lines[-_TAIL_LINES:]])

    async def stop(self) -> None:
        """Close standard input and wait for the end; kill the process group after a timeout."""
        self._stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            # Not asyncio.timeout: early releases of Python 3.11 miscount cancellations there, and this
            # runs while the task is being cancelled.
            await asyncio.wait_for(self._process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            self._kill()
            await self._process.wait()

    async def kill(self) -> None:
        """Kill the process group without an orderly end. ``follow`` reports no failure."""
        self._stopping = True
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)


class Processes:
    """All processes of one demo. They are ended in reverse order of their start.

    ``tasks`` follows each process; an unexpected end cancels all tasks. ``folder`` is for the Director's data, images
    and log files.
    """

    def __init__(self, tasks: asyncio.TaskGroup, folder: Path) -> None:
        self._tasks = tasks
        self._folder = folder
        self._started: list[DemoProcess] = []

    async def start(self, name: str, arguments: Sequence[str], *, ready: re.Pattern[str]) -> re.Match[str]:
        """Start a management command and wait until it is ready. Raises ProcessFailed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "director.demo.child_process", *arguments),
            cwd=settings.BASE_DIR,
            env=_environment(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE,
            # Ctrl-C in the terminal must reach the demo only; the demo ends its processes in order.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows
        )
        log = self._folder / f"{name.lower().replace(' ', '-')}.log"
        started = DemoProcess(name, process, log, ready)
        self._started.append(started)
        self._tasks.create_task(started.follow(), name=f"follow {name}")
        return await started.ready()

    async def kill(self, name: str) -> None:
        for process in self._started:
            if process.name == name:
                await process.kill()

    async def stop(self) -> None:
        for process in reversed(self._started):
            await process.stop()


def _environment(folder: Path) -> Mapping[str, str]:
    inherited = os.environ.items()  # noqa: TID251 passed on, not read
    return {name: value for name, value in inherited if not name.startswith("DIRECTOR_")} | {
        "DJANGO_SETTINGS_MODULE": "director.settings",
        "PYTHONUNBUFFERED": "1",
        "DIRECTOR_DATA_DIR": str(folder),
        "DIRECTOR_DISCOVER": "0",
    }
