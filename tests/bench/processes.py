"""What a process has cost: CPU time and memory, read where Linux keeps them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads together."""
    # Its name stands in brackets and may hold blanks.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def resident_kib(pid: int) -> int:
    """Return how much of a process is in memory, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")


@dataclass(slots=True)
class Span:
    """A stretch of time, and the CPU time that some processes took in it."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    def share(self, name: str) -> float:
        """Return a process's CPU time in percent of one core."""
        return self.cpu[name] / self.seconds * 100


@contextmanager
def spent(**pids: int) -> Iterator[Span]:
    """Measure the block; its figures are there when it is over."""
    span = Span()
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    yield span
    span.seconds = time.perf_counter() - began
    span.cpu = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
