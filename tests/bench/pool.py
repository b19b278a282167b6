"""The end of the pool's line on unequal backends of known speed, against the shortest possible
time.
"""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.figures import Figure
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import subfolder
from tests.bench.submission import Client
from tests.harness.processes import Served, serving
from tests.harness.schedules import shortest_time
from tests.harness.waits import until

#: By name the seconds of a job on each backend, the jobs, and the gate.
_CASES: Final = {
    "one of six is ten times slower": ((10.0, *[1.0] * 5), 40, 1.10),
    "speeds 1:2:4": ((0.8, 0.4, 0.2), 42, 1.20),
}


def measure(folder: Path, *, times: float = 1.0) -> list[Figure]:
    """Measure both farms; all durations are multiplied by ``times``."""
    return [
        _measure(subfolder(folder, str(at)), name, [times * one for one in seconds], jobs, gate)
        for at, (name, (seconds, jobs, gate)) in enumerate(_CASES.items())
    ]


def _measure(folder: Path, name: str, seconds: Sequence[float], jobs: int, gate: float) -> Figure:
    with ExitStack() as stack:
        gpus = [
            stack.enter_context(simulated(subfolder(folder, f"gpu-{at}"), 1, seconds=one))
            for at, one in enumerate(seconds)
        ]
        served = stack.enter_context(serving(folder, [one.urls[0] for one in gpus]))
        client = stack.enter_context(Client(served.url))
        client.wait(client.submit([one.ids[0] for one in gpus] * 2), within=120)
        until(lambda: _known(served) == len(gpus), 30.0)
        began = time.time()
        group = client.wait(client.submit(["*"], count=jobs), within=120, every=0.1)
        took = time.time() - began
        assert group["completed_count"] == jobs
        shortest = shortest_time(jobs, [_seconds_of(one) for one in gpus])
    return Figure(f"{jobs} jobs, {name}", took, "s", floor=shortest, of_floor=True, gate=gate)


def _known(served: Served) -> int:
    """Return for how many backends the Director has learned how long a job takes."""
    with sqlite3.connect(served.data / "director.sqlite3") as database:
        found: int = database.execute(
            "SELECT count(*) FROM jobgroups_timing WHERE seconds IS NOT NULL"
        ).fetchone()[0]
    return found


def _seconds_of(gpus: Gpus) -> float:
    """Return the seconds of most jobs of a backend: on a busy machine it is slower than it should
    be.
    """
    seen = gpus.seen()
    started = {one["prompt_id"]: one["time"] for one in seen if one["kind"] == "started"}
    return median(one["time"] - started[one["prompt_id"]] for one in seen if one["kind"] == "ended")
