"""Processes of the Director, and their cost: CPU time and memory, read where Linux keeps them."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.processes import LaunchedRunner, Served, stop_in_order
from tests.harness.servers import is_there, postgres

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, fields: int = 2) -> float:
    """Return the CPU time of a process, all its threads together; with 4 fields also that of its
    ended children.
    """
    # Its name stands in brackets and may hold blanks.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_name[11 : 11 + fields])) / _TICKS


def family_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all its children."""
    total = cpu_seconds(pid, 4)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):  # it has just ended
            total += cpu_seconds(int(child))
    return total


def resident_kib(pid: int) -> int:
    """Return the memory of a process and of its children; what they share counts once."""
    pids = [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return sum(
        int(Path(f"/proc/{one}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
        for one in pids
    )


@dataclass(slots=True)
class Span:
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    def share(self, name: str) -> float:
        return self.cpu[name] / self.seconds * 100


@contextmanager
def spent(**pids: int) -> Iterator[Span]:
    """Measure the block; its figures are there when it is over. A ``serve`` counts with its
    processes.
    """

    def used() -> dict[str, float]:
        return {
            name: (family_cpu_seconds if name == "serve" else cpu_seconds)(pid)
            for name, pid in pids.items()
        }

    span = Span()
    before = used()
    began = time.perf_counter()
    yield span
    span.seconds = time.perf_counter() - began
    span.cpu = {name: seconds - before[name] for name, seconds in used().items()}


@contextmanager
def split(
    folder: Path, backends: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Served, LaunchedRunner]]:
    web = Served(
        folder, backends, arguments=("--no-runner", "--port", "0"), environment=environment
    )
    runner = LaunchedRunner(folder, environment=environment)
    try:
        runner.start()
        web.wait_online(60)
        yield web, runner
        stop_in_order(runner)
        stop_in_order(web)
    finally:
        runner.close()
        web.close()


def subfolder(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def databases(
    folder: Path, *, with_postgres: bool = True
) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Yield for SQLite, and for a PostgreSQL that syncs its commits, its name, a folder and the
    settings.
    """
    yield "SQLite", subfolder(folder, "sqlite"), {}
    if with_postgres and is_there("initdb"):
        with postgres(durable=True) as server:
            url = server.create("bench")
            yield "PostgreSQL", subfolder(folder, "postgres"), {"DIRECTOR_DATABASE_URL": url}
