"""How long a frame takes from a backend to a client while thumbnails of captured pictures are made.

The floor is a bare relay between the same backends and the same client, measured before and after.
"""

import threading
import time
from pathlib import Path

from tests.bench.figures import Figure, p50, p99
from tests.bench.frames import CHILDREN, RATE, ages, listen, relayed
from tests.bench.gpus import simulated
from tests.bench.submission import Client
from tests.harness.graphs import text_to_image
from tests.harness.processes import serving

NAME = "frame to client beside {count:,} thumbnails in {seconds:g} s"
WIDTHS = (160, 320)
CONNECTIONS = 4


def measure(folder: Path, *, count: int = 1_000, seconds: float = 25.0) -> list[Figure]:
    """Measure frames of running prompts beside requests for thumbnails that no cache has."""
    with simulated(folder, CHILDREN) as gpus:
        bare = relayed(gpus, seconds / 4)
        with serving(folder, gpus.urls) as served, Client(served.url) as client:
            graph = text_to_image(1, side=1024)
            group_id = client.submit(
                gpus.ids * (count // CHILDREN // len(WIDTHS)), workflow_json=graph
            )
            group = client.wait(group_id, _is_captured, within=600.0, every=1.0)
            pictures = [job["outputs"]["images"][0]["file_url"] for job in group["child_jobs"]]
            gpus.tell("hold")
            running = client.submit(gpus.ids)
            client.wait_running(running, len(gpus.ids))
            due = [f"{url}?w={width}" for width in WIDTHS for url in pictures]
            requests = [
                threading.Thread(
                    target=_request, args=(served.url, due[at::CONNECTIONS], seconds, at)
                )
                for at in range(CONNECTIONS)
            ]
            for thread in requests:
                thread.start()
            ours = ages(listen(gpus, served.url, f"/ws/job-groups/{running}", RATE, seconds))
            for thread in requests:
                thread.join()
            client.cancel(running)
            gpus.tell("go")
        bare += relayed(gpus, seconds / 4)
    name = NAME.format(count=count, seconds=seconds)
    return [
        Figure(f"{name}, p50", p50(ours), floor=p50(bare)),
        Figure(f"{name}, p99", p99(ours), floor=p99(bare), of_floor=True, gate=1.5, goal=1.2),
    ]


def _is_captured(group: dict[str, object]) -> bool:
    jobs = group["child_jobs"]
    assert isinstance(jobs, list)
    return all((job["outputs"] or {}).get("images", [{}])[0].get("captured") for job in jobs)


def _request(url: str, paths: list[str], seconds: float, number: int) -> None:
    """Request a part of the thumbnails, spread over the time."""
    pause = seconds / len(paths)
    due = time.monotonic() + number * pause / CONNECTIONS
    with Client(url) as client:
        for path in paths:
            time.sleep(max(0.0, due - time.monotonic()))
            client.ask(path)
            due += pause
