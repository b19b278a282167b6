"""How long a frame takes from a backend to a client, and how old the newest value there is.

Every frame carries the moment at which its backend sent it (``gpus.stamp``). The floor is a bare
relay between the same backends and the same client, measured before and after.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import STEPS, Gpus, simulated, stamp
from tests.bench.processes import split, subfolder
from tests.bench.sockets import StreamSocket, read_all
from tests.bench.submission import Client
from tests.harness.processes import Served, serving
from tests.harness.servers import is_there, own_redis

#: Backends, each with one child, and frames a second of each.
CHILDREN = 10
RATE = 5.0
FAST = 40.0

Arrivals = list[tuple[float, float]]
"""The moment at which each value arrived, and its age then, in seconds."""


def measure(folder: Path, *, seconds: float = 12.0, with_redis: bool = True) -> list[Figure]:
    """Measure the embedded Director, then web and runner as two processes on Redis."""
    with simulated(folder, CHILDREN, seconds=3_600) as gpus:
        before = relayed(gpus, seconds / 2)
        with serving(subfolder(folder, "embedded"), gpus.urls) as served:
            ours, fast = _through(served, gpus, seconds, fast_seconds=seconds / 2)
        apart = None
        if with_redis and is_there("redis-server"):
            place = subfolder(folder, "split")
            with (
                own_redis() as redis,
                split(place, gpus.urls, {"DIRECTOR_REDIS_URL": redis.url}) as (served, _),
            ):
                apart, _ = _through(served, gpus, seconds, fast_seconds=0)
        bare = before + relayed(gpus, seconds / 2)
    return figures(ours, fast, apart, bare)


def figures(
    ours: Sequence[float], fast: Arrivals, apart: Sequence[float] | None, bare: Sequence[float]
) -> list[Figure]:
    limits = {"of_floor": True, "floor": p50(bare)}
    rows = [
        Figure("frame to client, p50", p50(ours), gate=2, goal=1.3, **limits),
        Figure("frame to client, p99", p99(ours), floor=p99(bare), of_floor=True, gate=4, goal=2),
        Figure(f"age of the newest value, {FAST:g}/s", mean_age(fast), gate=110, goal=60),
    ]
    if apart is not None:
        rows.append(Figure("frame to client, Redis, p50", p50(apart), gate=4, goal=3, **limits))
    return rows


def mean_age(arrivals: Arrivals) -> float:
    """Return the age of what a client sees last of a child, averaged over time, in milliseconds.

    It grows from its age on arrival until the next one comes.
    """
    area = 0.0
    for (moment, age), (following, _) in pairwise(arrivals):
        stands = following - moment
        area += stands * (age + stands / 2)
    return area / (arrivals[-1][0] - arrivals[0][0]) * 1000


def _through(
    served: Served, gpus: Gpus, seconds: float, *, fast_seconds: float
) -> tuple[list[float], Arrivals]:
    with Client(served.url) as client:
        group_id = client.submit(gpus.ids)
        client.wait_running(group_id, len(gpus.ids))
        path = f"/ws/job-groups/{group_id}"
        steady = ages(listen(gpus, served.url, path, RATE, seconds))
        fast: Arrivals = []
        if fast_seconds:
            watcher = listen(gpus, served.url, path, FAST, fast_seconds)
            fast = _of_one_child(watcher)
        client.cancel(group_id)
        gpus.wait_counts(lambda counts: counts["standing"] == 0)
    return steady, fast


def relayed(gpus: Gpus, seconds: float) -> list[float]:
    """Return the ages of values that came through a bare relay."""
    with floors.running("relay", gpus.urls) as url:
        watcher = listen(gpus, url, "/", RATE, seconds)
    values = [
        (moment, frame["data"]["nodes"]["3"]["value"])
        for moment, frame in watcher.frames()
        if frame["type"] == "progress_state"
    ]
    return [_age(moment, value) for moment, value in values]


def listen(gpus: Gpus, url: str, path: str, rate: float, seconds: float) -> StreamSocket:
    watcher = StreamSocket(url, path)
    try:
        gpus.tell("beat", rate)
        read_all([watcher], within=seconds)
    finally:
        gpus.tell("beat", 0)
        watcher.close()
    return watcher


def ages(watcher: StreamSocket) -> list[float]:
    """Return how old each value was on arrival."""
    return [_age(moment, frame["steps_completed"]) for moment, frame in _progress(watcher)]


def _of_one_child(watcher: StreamSocket) -> Arrivals:
    """Return the arrivals of the child whose value came first."""
    progress = _progress(watcher)
    job_id = progress[0][1]["job_id"]
    return [
        (moment, _age(moment, frame["steps_completed"]))
        for moment, frame in progress
        if frame["job_id"] == job_id
    ]


def _progress(watcher: StreamSocket) -> list[tuple[float, dict[str, Any]]]:
    """Return the frames that carry a stamp, each with the moment of its arrival."""
    return [
        (moment, frame)
        for moment, frame in watcher.frames()
        if frame["type"] == "child_progress" and frame["steps_total"] == STEPS
    ]


def _age(moment: float, value: float) -> float:
    return ((stamp(moment) - int(value)) % STEPS) / 1e6
