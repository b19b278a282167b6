"""The simulated ComfyUIs that are measured against, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.simulator import read_audit_log
from tests.harness.processes import ROOT

Entry = dict[str, Any]


class Gpus:
    """Some simulators: where they are, what they are told, what they saw.

    Args:
        folder: for their audit log.
        count: how many.
        seconds: that a prompt takes; ``steps``: in which it reports, two frames each.
    """

    def __init__(self, folder: Path, count: int, *, seconds: float = 0.0, steps: int = 1) -> None:
        self._audit_log = folder / "audit.jsonl"
        numbers = ["--count", str(count), "--seconds", str(seconds), "--steps", str(steps)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.simulated", *numbers, "--audit-log", self._audit_log],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.urls: list[str] = self._answer()
        self.ids = [f"localhost_{url.rsplit(':', 1)[1]}" for url in self.urls]

    @property
    def pid(self) -> int:
        """Their process."""
        return self._process.pid

    def tell(self, word: str, *values: Any) -> Any:
        """Tell them something (see ``tests.bench.simulated``), and return their answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([word, *values]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the simulators ended"
        return json.loads(line)

    def wait_counts(self, what: Callable[[dict[str, int]], bool], within: float = 60.0) -> dict[str, int]:
        """Wait until what they count satisfies a condition, and return it."""
        end = time.monotonic() + within
        while not what(counts := self.tell("counts")):
            assert time.monotonic() < end, f"not within {within:g} s: {counts}"
            time.sleep(0.02)
        return counts

    def seen(self) -> list[Entry]:
        """Return what their audit log contains, oldest first."""
        return read_audit_log(self._audit_log)

    def close(self) -> None:
        """End them."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def simulated(folder: Path, count: int, *, seconds: float = 0.0, steps: int = 1) -> Iterator[Gpus]:
    """Run simulators for the block."""
    gpus = Gpus(folder, count, seconds=seconds, steps=steps)
    try:
        yield gpus
    finally:
        gpus.close()


def group_of(entry: Entry) -> str:
    """Return the group that a prompt is of; empty where it is not the Director's."""
    group: str = (entry.get("extra_data") or {}).get("director", {}).get("group", "")
    return group
