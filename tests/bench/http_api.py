"""Submissions and status, over HTTP, of a real Director with three simulated ComfyUIs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from director.demo.workflow import text_to_image
from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.wire import Connection, at_once, request
from tests.harness.processes import ROOT, serving

AT_ONCE = 20


@contextmanager
def _simulators() -> Iterator[list[str]]:
    """Three ComfyUIs in a process of their own that render at once."""
    command = ["-m", "backends.simulator", "--count", "3", "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, *command, "--seconds", "0.02", "--steps", "2", "--lenient"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield list(json.loads(process.stdout.readline())["urls"])
    finally:
        process.terminate()
        process.wait()


def measure(folder: Path) -> list[Figure]:
    """Measure POST idle and back to back, GET alone and 20 at once."""
    with floors.empty_server() as url:
        sent = request(url)
        with Connection(url) as one:
            alone = [one.ask(sent)[0] for _ in range(500)][100:]
        rate, _ = at_once(url, sent, connections=AT_ONCE, seconds=4)
    least = p50(alone) + p50(floors.commits(folder))
    with _simulators() as urls, serving(folder, urls) as served, Connection(served.url) as one:
        director = _Director(served.url, one)
        director.post(10)
        idle = director.post(40, pause=0.3)
        busy = director.post(200)
        director.until_quiet()
        group = request(f"{served.url}/api/job-groups/{director.last}")
        for _ in range(100):
            one.ask(group)
        gets = [one.ask(group)[0] for _ in range(1_000)]
        many, each = at_once(served.url, group, connections=AT_ONCE, seconds=6)
    return [
        Figure(name="POST of 3, idle, p50", value=p50(idle), floor=least, gate=8, goal=3),
        Figure(name="POST of 3, back to back, p50", value=p50(busy), floor=least, gate=10, goal=5),
        Figure(name="POST of 3, back to back, p99", value=p99(busy)),
        Figure(name="GET status of 3, p50", value=p50(gets), floor=p50(alone), gate=2, goal=1),
        Figure(
            name=f"GET status of 3, {AT_ONCE} at once",
            value=many,
            unit="/s",
            floor=rate,
            gate=760,
            goal=1_500,
            more_is_better=True,
        ),
        Figure(name=f"GET status of 3, {AT_ONCE} at once, p99", value=p99(each)),
    ]


class _Director:
    """What is submitted to it, one after the other."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
        self._connection = connection
        rows = json.loads(connection.ask(request(f"{url}/api/backends"))[1])["backends"]
        self._backend_ids = [row["backend_id"] for row in rows]
        self._seed = 0
        self.last = ""

    def post(self, count: int, pause: float = 0.0) -> list[float]:
        """Submit groups of three; return the seconds that each answer took."""
        taken: list[float] = []
        for _ in range(count):
            self._seed += 3
            body = {
                "workflow_json": text_to_image(),
                "backend_ids": self._backend_ids,
                "seed_strategy": "sequential",
                "base_seed": self._seed,
                "metadata": {"scene": "shot_001"},
            }
            sent = request(f"{self._url}/api/job-group", json.dumps(body).encode())
            seconds, answer = self._connection.ask(sent, 201)
            taken.append(seconds)
            self.last = json.loads(answer)["job_group_id"]
            time.sleep(pause)
        return taken

    def until_quiet(self, within: float = 120.0) -> None:
        """Wait until the last group has ended, and a moment longer."""
        end = time.monotonic() + within
        sent = request(f"{self._url}/api/job-groups/{self.last}")
        while json.loads(self._connection.ask(sent)[1])["completed_at"] is None:
            assert time.monotonic() < end, "the groups do not end"
            time.sleep(0.5)
        time.sleep(1.0)
