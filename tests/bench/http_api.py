"""Submissions over HTTP to a real Director with three simulated ComfyUIs."""

import time
from pathlib import Path

from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import simulated
from tests.bench.submission import Client
from tests.bench.wire import in_turn
from tests.harness.processes import serving


def measure(folder: Path) -> list[Figure]:
    """Measure POST idle and back to back."""
    with floors.running("answer") as url:
        alone = in_turn(url, "/", requests=500)[100:]
    least = p50(alone) + p50(floors.commits(folder))
    with (
        simulated(folder, 3, seconds=0.02, steps=2) as gpus,
        serving(folder, gpus.urls) as served,
        Client(served.url) as client,
    ):

        def post(count: int, pause: float = 0.0) -> list[float]:
            """Return the seconds that each submission of three took."""
            taken = []
            for _ in range(count):
                taken.append(client.send(client.submission(gpus.ids))[0])
                time.sleep(pause)
            return taken

        post(10)
        idle = post(40, pause=0.3)
        busy = post(200)
    return [
        Figure("POST of 3, idle, p50", p50(idle), floor=least, gate=5, goal=3),
        Figure("POST of 3, back to back, p50", p50(busy), floor=least, gate=9, goal=5),
        Figure("POST of 3, back to back, p99", p99(busy)),
    ]
