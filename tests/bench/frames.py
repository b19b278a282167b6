"""How long a frame takes from a backend to a client, and how old the newest value there is.

Every frame carries the moment at which its backend told it (``simulated.stamp``). The floor is a bare
relay between the same backends and the same client, measured before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import Gpus, simulated
from tests.bench.relay import relay
from tests.bench.simulated import STEPS, stamp
from tests.bench.sockets import Watcher, read_all
from tests.bench.submission import Client
from tests.harness.processes import LaunchedRunner, Served, serving, stop_in_order
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
        before = _through_relay(gpus, seconds / 2)
        with embedded(folder, gpus) as served:
            ours, fast = _through(served, gpus, seconds, fast_seconds=seconds / 2)
        split = None
        if with_redis and is_there("redis-server"):
            with split_on_redis(folder, gpus) as served:
                split, _ = _through(served, gpus, seconds, fast_seconds=0)
        bare = before + _through_relay(gpus, seconds / 2)
    return figures(ours, fast, split, bare)


def figures(
    ours: Sequence[float], fast: Arrivals, split: Sequence[float] | None, bare: Sequence[float]
) -> list[Figure]:
    """Return what is asked of them."""
    asked = {"of_floor": True, "floor": p50(bare)}
    rows = [
        Figure(name="frame to client, p50", value=p50(ours), gate=2, goal=1.3, **asked),
        Figure(name="frame to client, p99", value=p99(ours), floor=p99(bare), of_floor=True, gate=4, goal=2),
        Figure(name=f"age of the newest value, {FAST:g}/s", value=mean_age(fast), gate=110, goal=60),
    ]
    if split is not None:
        rows.append(Figure(name="frame to client, Redis, p50", value=p50(split), gate=4, goal=3, **asked))
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


@contextmanager
def embedded(folder: Path, gpus: Gpus) -> Iterator[Served]:
    """Run ``serve`` with its runner."""
    with serving(_made(folder / "embedded"), gpus.urls) as served:
        yield served


@contextmanager
def split_on_redis(folder: Path, gpus: Gpus) -> Iterator[Served]:
    """Run web and runner as processes of their own, which Redis connects."""
    with own_redis() as redis_server:
        folder = _made(folder / "split")
        variables = {"DIRECTOR_REDIS_URL": redis_server.url}
        web = Served(folder, gpus.urls, arguments=("--no-runner", "--port", "0"), environment=variables)
        runner = LaunchedRunner(folder, environment=variables)
        try:
            runner.start()
            web.wait_online()
            yield web
            stop_in_order(runner)
            stop_in_order(web)
        finally:
            runner.close()
            web.close()


def _through(served: Served, gpus: Gpus, seconds: float, *, fast_seconds: float) -> tuple[list[float], Arrivals]:
    with Client(served.url) as client:
        group_id = client.submit(gpus.ids)
        running = len(gpus.ids)
        client.wait(group_id, lambda one: [c["status"] for c in one["child_jobs"]].count("running") == running)
        path = f"/ws/job-groups/{group_id}"
        steady = _ages(_listen(gpus, served.url, path, RATE, seconds))
        fast: Arrivals = []
        if fast_seconds:
            watcher = _listen(gpus, served.url, path, FAST, fast_seconds)
            fast = _of_one_child(watcher)
        client.cancel(group_id)
        gpus.wait_counts(lambda counts: counts["standing"] == 0)
    return steady, fast


def _through_relay(gpus: Gpus, seconds: float) -> list[float]:
    with relay(gpus.urls) as url:
        watcher = _listen(gpus, url, "/", RATE, seconds)
    values = [
        (moment, frame["data"]["nodes"]["3"]["value"])
        for moment, frame in watcher.frames()
        if frame["type"] == "progress_state"
    ]
    return [_age(moment, value) for moment, value in values]


def _listen(gpus: Gpus, url: str, path: str, rate: float, seconds: float) -> Watcher:
    watcher = Watcher(url, path)
    try:
        gpus.tell("beat", rate)
        read_all([watcher], within=seconds)
    finally:
        gpus.tell("beat", 0)
        watcher.close()
    return watcher


def _ages(watcher: Watcher) -> list[float]:
    """Return how old each value was on arrival."""
    return [
        _age(moment, frame["steps_completed"])
        for moment, frame in watcher.frames()
        if frame["type"] == "child_progress" and frame["steps_total"] == STEPS
    ]


def _of_one_child(watcher: Watcher) -> Arrivals:
    """Return the arrivals of the child that was heard of first."""
    told = [
        (moment, frame)
        for moment, frame in watcher.frames()
        if frame["type"] == "child_progress" and frame["steps_total"] == STEPS
    ]
    job_id = told[0][1]["job_id"]
    return [(moment, _age(moment, frame["steps_completed"])) for moment, frame in told if frame["job_id"] == job_id]


def _age(moment: float, value: float) -> float:
    return ((stamp(moment) - int(value)) % STEPS) / 1e6


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
