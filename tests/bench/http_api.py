"""Submissions and status, over HTTP, of a real Director with three simulated ComfyUIs."""

import time
from pathlib import Path

from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import simulated
from tests.bench.submission import Client
from tests.bench.wire import Connection, at_once
from tests.harness.processes import serving

AT_ONCE = 20


def measure(folder: Path) -> list[Figure]:
    """Measure POST idle and back to back, GET alone and 20 at once."""
    with floors.running("answer") as url:
        with Connection(url) as one:
            alone = [one.ask("/")[0] for _ in range(500)][100:]
        rate, _ = at_once(url, "/", connections=AT_ONCE, seconds=4)
    least = p50(alone) + p50(floors.commits(folder))
    with (
        simulated(folder, 3, seconds=0.02, steps=2) as gpus,
        serving(folder, gpus.urls) as served,
        Client(served.url) as client,
    ):

        def post(count: int, pause: float = 0.0) -> tuple[list[float], str]:
            """Return the seconds that each submission of three took, and the last one's group."""
            taken, group_id = [], ""
            for _ in range(count):
                seconds, group_id = client.send(client.submission(gpus.ids))
                taken.append(seconds)
                time.sleep(pause)
            return taken, group_id

        post(10)
        idle, _ = post(40, pause=0.3)
        busy, last = post(200)
        client.wait(last, within=120, every=0.5)
        time.sleep(1)
        path = f"/api/job-groups/{last}"
        gets = [client.timed(path) for _ in range(1_100)][100:]
        many, each = at_once(served.url, path, connections=AT_ONCE, seconds=6)
    return [
        Figure("POST of 3, idle, p50", p50(idle), floor=least, gate=8, goal=3),
        Figure("POST of 3, back to back, p50", p50(busy), floor=least, gate=10, goal=5),
        Figure("POST of 3, back to back, p99", p99(busy)),
        Figure("GET status of 3, p50", p50(gets), floor=p50(alone), gate=2, goal=1),
        Figure(
            f"GET status of 3, {AT_ONCE} at once", many, "/s", floor=rate, gate=760, goal=1_500, more_is_better=True
        ),
        Figure(f"GET status of 3, {AT_ONCE} at once, p99", p99(each)),
    ]
