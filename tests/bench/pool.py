"""The pool: three unequal backends against the shortest possible time, and one group on two hundred."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.figures import Figure
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import spent, subfolder
from tests.bench.submission import Client
from tests.harness.graphs import plain_image, sampler, text_to_image
from tests.harness.processes import LaunchedRunner, Served, serving, stop_in_order
from tests.harness.servers import is_there, postgres
from tests.harness.waits import until

#: Seconds of a job on each of three backends: speeds of 1, 2 and 4.
_SECONDS: Final = (0.8, 0.4, 0.2)
_JOBS: Final = 200
#: Seconds after which the Director moves the jobs of a backend that does not answer.
_MOVE_AFTER: Final = 5
#: Seconds until it has moved them: the time between two probes, the time limit of one, and that between two checks.
_DETECTION: Final = 4 + 10 + _MOVE_AFTER + 5
_GROUPS: Final = 10
#: Jobs of one long group.
_LONG: Final = 10_000
_MODELS: Final = ("random_sd15.safetensors", "tiny_sd15.safetensors")


def measure(folder: Path) -> list[Figure]:
    """Measure three unequal backends."""
    return [part(subfolder(folder, part.__name__)) for part in (unequal, models, hangs)]


def unequal(folder: Path, *, jobs: int = _JOBS, times: float = 1.0) -> Figure:
    """Measure how long a group takes on backends of unequal speed; ``times``: all durations are multiplied by it."""
    with _unequal(folder, times) as (gpus, client):
        client.wait(client.submit(_ids(gpus)))
        began = time.monotonic()
        took = _wait_ended(client, [client.submit(["*"], count=jobs)], jobs) - began
        seconds = [_seconds_of(one) for one in gpus]
    # All of them busy until the end, and one job more: the last ones end at different moments.
    ideal = jobs / _rate_of(seconds) + max(seconds)
    return _finish(f"{jobs} jobs on three backends, speeds 1:2:4", took, ideal, 1.05)


def models(folder: Path, *, jobs: int = _JOBS, times: float = 1.0) -> Figure:
    """Measure how long ten groups take that need two models in turn; a load takes as long as 30 jobs of the fastest.

    No duration is known at the start.
    """
    load = times * 30 * min(_SECONDS)
    with _unequal(folder, times, load_seconds=load) as (gpus, client):
        # All groups wait before the first job is chosen.
        busy = client.submit(_ids(gpus), workflow_json=sampler(delay=0.5))
        client.wait_running(busy, len(gpus))
        submitted = [
            client.submit(["*"], count=jobs // _GROUPS, workflow_json=text_to_image(side=64, checkpoint=model))
            for model in itertools.islice(itertools.cycle(_MODELS), _GROUPS)
        ]
        client.wait(busy)
        began = time.monotonic()
        took = _wait_ended(client, submitted, jobs // _GROUPS) - began
        seconds = [_seconds_of(one) for one in gpus]
    # The fastest loads both, the others one each: that is the best in which all of them end together.
    lost = sum(load / one for one in (*seconds, min(seconds)))
    ideal = (jobs + lost) / _rate_of(seconds) + max(seconds)
    return _finish(f"{_GROUPS} groups of {jobs // _GROUPS} jobs, two models in turn", took, ideal, 1.10)


def hangs(folder: Path, *, jobs: int = _JOBS, times: float = 1.0) -> Figure:
    """Measure how long a group takes if the fastest backend hangs when half of it is done."""
    variables = {"DIRECTOR_MOVE_AFTER_SECONDS": str(_MOVE_AFTER), "DIRECTOR_RETRY_BACKOFF_SECONDS": "0"}
    with _unequal(folder, times, variables) as (gpus, client):
        client.wait(client.submit(_ids(gpus)))
        began = time.monotonic()
        group_id = client.submit(["*"], count=jobs)
        _wait_listed(client, group_id, lambda row: row["completed_count"] >= jobs // 2)
        left = jobs - _listed(client, group_id)["completed_count"]
        gpus[-1].tell("freeze")
        hung = time.monotonic() - began
        took = _wait_ended(client, [group_id], jobs) - began
        seconds = [_seconds_of(one) for one in gpus[:-1]]
    # The others do the rest meanwhile.
    ideal = hung + max(left / _rate_of(seconds), _DETECTION) + max(seconds)
    return _finish(f"{jobs} jobs, the fastest backend hangs in the middle", took, ideal, 1.05)


def _seconds_of(gpus: Gpus) -> float:
    """Return the seconds of most jobs of a backend: on a busy machine it is slower than it should be."""
    seen = gpus.seen()
    started = {one["prompt_id"]: one["time"] for one in seen if one["kind"] == "started"}
    return median(one["time"] - started[one["prompt_id"]] for one in seen if one["kind"] == "ended")


@contextmanager
def _unequal(
    folder: Path, times: float, variables: Mapping[str, str] | None = None, **options: Any
) -> Iterator[tuple[list[Gpus], Client]]:
    """Serve with three backends of unequal speed, the slowest first; each has ended a job of no duration."""
    with ExitStack() as stack:
        gpus = [
            stack.enter_context(simulated(subfolder(folder, f"gpu-{at}"), 1, seconds=times * one, **options))
            for at, one in enumerate(_SECONDS)
        ]
        urls = [one.urls[0] for one in gpus]
        served = stack.enter_context(serving(folder, urls, environment=variables))
        client = stack.enter_context(Client(served.url))
        client.wait(client.submit(_ids(gpus), workflow_json=plain_image()))
        yield gpus, client


def _ids(gpus: Sequence[Gpus]) -> list[str]:
    return [one.ids[0] for one in gpus]


def _rate_of(seconds: Sequence[float]) -> float:
    return sum(1 / one for one in seconds)


def _wait_ended(client: Client, group_ids: Sequence[str], jobs: int) -> float:
    """Return when the last of some groups has ended; each has completed so many jobs."""
    for group_id in group_ids:
        _wait_listed(client, group_id, lambda row: bool(row["completed_at"]), within=300)
    ended = time.monotonic()
    for group_id in group_ids:
        assert _listed(client, group_id)["completed_count"] == jobs
    return ended


def _finish(name: str, took: float, ideal: float, gate: float) -> Figure:
    return Figure(f"{name}: pool", took, "s", floor=ideal, of_floor=True, gate=gate)


def long_group(folder: Path, *, backends: int = 200, seconds: float = 30.0) -> list[Figure]:
    """Measure a group of the pool and one of as many bound jobs, in turn: a web and two runners on PostgreSQL."""
    if not is_there("initdb"):
        return []
    with postgres(durable=True) as server:
        variables = {"DIRECTOR_DATABASE_URL": server.create("bench"), "DIRECTOR_MAX_CHILDREN": str(_LONG)}
        with simulated(folder, backends, seconds=1.5, steps=3) as gpus:
            web = ("--no-runner", "--port", "0")
            served = Served(folder, gpus.urls, arguments=web, environment=variables, start=False)
            runners = [LaunchedRunner(folder, "--name", name, environment=variables) for name in ("a", "b")]
            try:
                for one in (served, *runners):
                    one.start()
                served.wait_online(120)
                with Client(served.url) as client:
                    pids = {f"runner {at}": one.process.pid for at, one in enumerate(runners)}
                    pids |= {"web": served.process.pid}
                    in_turn = list(itertools.islice(itertools.cycle(gpus.ids), _LONG))
                    pool, bound = _Work(), _Work()
                    for _ in range(2):
                        pool.add(client, backends, seconds / 2, pids, client.submit(["*"], count=_LONG))
                        bound.add(client, backends, seconds / 2, pids, client.submit(in_turn))
                stop_in_order(*runners, served)
            finally:
                for one in (*runners, served):
                    one.close()
    name = f"one group of {_LONG:,} on {backends} backends, jobs of 1.5 s"
    rate = {"floor": backends / 1.5, "gate": 110 * backends / 200, "goal": 133 * backends / 200}
    return [
        Figure(f"{name}: pool", pool.rate, "/s", more_is_better=True, **rate),
        Figure(f"{name}: bound", bound.rate, "/s", more_is_better=True, **rate),
        Figure(f"{name}: pool, CPU of a job", pool.cpu_ms, floor=bound.cpu_ms, of_floor=True, gate=1.05),
    ]


@dataclass(slots=True)
class _Work:
    """Jobs that backends did while all were busy, and the CPU time of web and runners for them."""

    jobs: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds

    @property
    def cpu_ms(self) -> float:
        return self.cpu / self.jobs * 1000

    def add(self, client: Client, backends: int, seconds: float, pids: Mapping[str, int], group_id: str) -> None:
        """Measure a group once all backends are busy, and cancel it."""

        def completed() -> int:
            count: int = _listed(client, group_id)["completed_count"]
            return count

        until(lambda: completed() >= backends, 120.0)
        with spent(**pids) as span:
            before = completed()
            time.sleep(seconds)
            self.jobs += completed() - before
        self.seconds += span.seconds
        self.cpu += sum(span.cpu.values())
        client.cancel(group_id)
        _wait_listed(client, group_id, lambda row: bool(row["completed_at"]))


def _listed(client: Client, group_id: str) -> dict[str, Any]:
    """Return a group's row of the list: a status has every job, and costs what is measured."""
    rows: list[dict[str, Any]] = client.get("/api/job-groups?limit=100")["results"]
    return next(row for row in rows if row["job_group_id"] == group_id)


def _wait_listed(client: Client, group_id: str, what: Callable[[dict[str, Any]], bool], within: float = 120.0) -> None:
    end = time.monotonic() + within
    while not what(_listed(client, group_id)):
        assert time.monotonic() < end, f"not within {within:g} s"
        time.sleep(0.2)
