"""The demo as a user starts it, and what is left of it afterwards."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Seconds for what takes a few on an idle machine.
PATIENCE_S = 90.0
NEEDS_PROC = not Path("/proc/self/environ").exists()


def command(folder: Path, *options: str) -> list[str]:
    """The command line of a fast demo in ``folder``."""
    demo = [sys.executable, "manage.py", "demo", "--seconds", "0.5", "--folder", str(folder)]
    return [*demo, *options]


class Demo:
    """A demo that serves on; read line by line."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read its output up to a line that matches, or fail with what it said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"It never said {pattern!r} but:\n{self.said}")

    def end(self) -> int:
        """Read what it still says, and return its status."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait(PATIENCE_S)


@contextmanager
def serving(folder: Path) -> Iterator[Demo]:
    """A demo without ``--once``, killed at the end if it is still there."""
    with subprocess.Popen(
        command(folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Demo(process, folder)
        finally:
            process.kill()


def processes_of(folder: Path) -> dict[int, str]:
    """Command lines, by id, of every process that was started with ``folder`` as its data folder."""
    mark = f"DIRECTOR_DATA_DIR={folder}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = b" ".join(arguments).decode(errors="replace")
        except OSError:
            continue
    return found


def only(folder: Path, word: str) -> int:
    """The id of the one process of ``folder`` whose command line has ``word``."""
    [found] = [number for number, line in processes_of(folder).items() if word in line]
    return found


def wait_until_gone(folder: Path) -> None:
    """Wait for the end of all processes of ``folder``; fail if one outlives the patience."""
    deadline = time.monotonic() + PATIENCE_S
    for number in processes_of(folder):
        try:
            handle = os.pidfd_open(number)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([handle], [], [], deadline - time.monotonic())
        finally:
            os.close(handle)
        assert ended, f"still there: {processes_of(folder)}"


def interrupt(number: int, sent: signal.Signals) -> None:
    """Send a signal to one process, not to its group."""
    os.kill(number, sent)
