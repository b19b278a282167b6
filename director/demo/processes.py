"""The demo's processes: started on a leash, read until they are ready, ended and looked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from director.demo.child_process import GRACE_S

#: Seconds until a process must be ready; a first start compiles every module.
READY_WITHIN_S: Final = 60.0
#: The leash insists after GRACE_S; this is for what not even that ends.
_KILL_AFTER_S: Final = GRACE_S + 2.0
#: The longest line that is read from a process.
_MAX_LINE: Final = 2**20
_TAIL_LINES: Final = 12


class ProcessFailed(Exception):
    """A process of the demo ended by itself, or did not become ready; the message has its last lines."""


class DemoProcess:
    """One management command in a process and process group of its own.

    Args:
        name: for people, and of its log file.
        process: started with pipes for stdin (the leash) and stdout (stderr goes there too).
        log: file that takes what it prints.
        ready: what the line matches that says it is ready.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, log: Path, ready: re.Pattern[str]
    ) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._pattern = ready
        self._ready: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        self._stopping = False

    async def follow(self) -> None:
        """Keep what it prints, until it ends.

        Raises:
            ProcessFailed: it ended though nobody asked it to.
        """
        assert self._process.stdout is not None  # noqa: S101 it was started with a pipe
        # Appended: one that is started again must not wipe out what it said before its end.
        with self._log.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._notice(line.decode(errors="replace"))
        code = await self._process.wait()
        if not self._stopping:
            raise ProcessFailed(f"{self.name} ended with status {code}.{self._last_words()}")

    def _notice(self, line: str) -> None:
        match = self._pattern.search(line)
        if match and not self._ready.done():
            self._ready.set_result(match)

    async def ready(self) -> re.Match[str]:
        """Wait for the line that says it is ready, and return its match.

        Raises:
            ProcessFailed: there was none within READY_WITHIN_S.
        """
        try:
            return await asyncio.wait_for(self._ready, READY_WITHIN_S)
        except TimeoutError:
            raise ProcessFailed(
                f"{self.name} was not ready within {READY_WITHIN_S:.0f} s.{self._last_words()}"
            ) from None

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n  ".join(["", *lines[-_TAIL_LINES:]])

    async def stop(self) -> None:
        """Let go of the leash and wait for the end; kill the process group if there is none."""
        self._stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            # Not asyncio.timeout: this runs while the task is being cancelled, which it miscounts
            # in early releases of Python 3.11.
            await asyncio.wait_for(self._process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            self._kill()
            await self._process.wait()

    async def kill(self) -> None:
        """End it with no time for anything, as a power cut does; whoever asks for it expects it."""
        self._stopping = True
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    def remains(self) -> bool:
        """Whether anything of its process group is still there."""
        if self._process.returncode is None:
            return True
        if sys.platform == "win32":
            return False
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Processes:
    """All processes of one demo; ended in the reverse order of their start.

    Args:
        tasks: follows each process; one that ends by itself ends the whole group of tasks.
        folder: for the Director's data, pictures and log files.
    """

    def __init__(self, tasks: asyncio.TaskGroup, folder: Path) -> None:
        self._tasks = tasks
        self._folder = folder
        self._started: list[DemoProcess] = []

    async def start(
        self, name: str, arguments: Sequence[str], *, ready: re.Pattern[str]
    ) -> re.Match[str]:
        """Start a management command and wait until it is ready.

        Raises:
            ProcessFailed: it did not become ready.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "director.demo.child_process", *arguments),
            cwd=settings.BASE_DIR,
            env=_environment(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE,
            # Ctrl-C in the terminal is for the demo; it ends its processes in order.
            **_own_group(),
        )
        log = self._folder / f"{name.lower().replace(' ', '-')}.log"
        started = DemoProcess(name, process, log, ready)
        self._started.append(started)
        self._tasks.create_task(started.follow(), name=f"follow {name}")
        return await started.ready()

    async def kill(self, name: str) -> None:
        """Kill those of this name that run, process groups and all."""
        for process in self._started:
            if process.name == name:
                await process.kill()

    async def stop(self) -> None:
        """End all of them."""
        for process in reversed(self._started):
            await process.stop()

    def remaining(self) -> list[str]:
        """Return the names of those of which anything is still there."""
        return [process.name for process in self._started if process.remains()]


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        import subprocess  # noqa: PLC0415 a constant that exists on Windows alone

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _environment(folder: Path) -> Mapping[str, str]:
    """Return the environment: the user's own, without any setting of their real Director."""
    inherited = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 handed on, not read
        if not name.startswith("DIRECTOR_")
    }
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": "director.settings",
        "PYTHONUNBUFFERED": "1",
        "DIRECTOR_DATA_DIR": str(folder),
        "DIRECTOR_DISCOVER": "0",
    }
