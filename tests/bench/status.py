"""Statuses over HTTP of a group of three jobs and of one of 1,000, and the run of the long one
while it is polled.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import simulated
from tests.bench.processes import spent
from tests.bench.submission import Client
from tests.bench.wire import at_once, in_turn
from tests.harness.processes import Served, serving

AT_ONCE = 20


def measure(folder: Path, *, jobs: int = 1_000) -> list[Figure]:
    with floors.running("answer") as url:
        alone = p50(in_turn(url, "/", requests=500)[100:])
        rate, _ = at_once(url, "/", connections=AT_ONCE, seconds=4)
    with simulated(folder, 3) as gpus, serving(folder, gpus.urls) as served:
        return [
            *of_three(served, gpus.ids, alone=alone, rate=rate),
            *_of_many(served, gpus.ids, jobs),
        ]


def of_three(
    served: Served,
    backend_ids: Sequence[str],
    *,
    requests: int = 1_000,
    seconds: float = 6.0,
    alone: float | None = None,
    rate: float | None = None,
) -> list[Figure]:
    """Measure statuses of an ended group: requests in turn, for ``seconds`` at once, and in turn
    with its ETag.

    Args:
        alone: the floor of a request alone, in milliseconds; ``rate``: that of many at once, in
            answers a second.
    """
    with Client(served.url) as client:
        group_id = client.submit(backend_ids)
        client.wait(group_id, _is_captured)
        path = f"/api/job-groups/{group_id}"
        client.ask(path)
        etag = client.etag
    in_turn(served.url, path, requests=100)
    with spent(serve=served.process.pid) as single:
        gets = in_turn(served.url, path, requests=requests)
    with spent(serve=served.process.pid) as shared:
        many, each = at_once(served.url, path, connections=AT_ONCE, seconds=seconds)
    unchanged = p50(in_turn(served.url, path, requests=requests, unless=etag))
    name = "GET status of 3"
    return [
        Figure(f"{name}, p50", p50(gets), floor=alone, gate=0.7, goal=0.4),
        Figure(
            f"{name}, CPU of the Director",
            single.cpu["serve"] / len(gets) * 1000,
            gate=0.4,
            goal=0.2,
        ),
        Figure(
            f"{name}, {AT_ONCE} at once",
            many,
            "/s",
            floor=rate,
            gate=2_000,
            goal=3_500,
            more_is_better=True,
        ),
        Figure(f"{name}, {AT_ONCE} at once, p99", p99(each)),
        Figure(
            f"{name}, {AT_ONCE} at once, CPU of the Director",
            shared.cpu["serve"] / len(each) * 1000,
            gate=0.4,
            goal=0.2,
        ),
        Figure(f"{name}, 304, p50", unchanged, floor=alone, gate=0.6, goal=0.4),
    ]


def _of_many(served: Served, backend_ids: Sequence[str], jobs: int) -> list[Figure]:
    """Measure the run of a group, then its status, unchanged and after each of some stars."""
    named = list(itertools.islice(itertools.cycle(backend_ids), jobs))
    with Client(served.url) as client:
        with spent(serve=served.process.pid) as span:
            _, group_id = client.send(client.submission(named))
            client.wait(group_id, within=300, every=0.2)
        children = client.wait(group_id, _is_captured, within=120, every=1.0)["child_jobs"]
        path = f"/api/job-groups/{group_id}"
        same = [client.timed(path) for _ in range(50)]
        changed = []
        for at in range(0, jobs, jobs // 30):
            client.ask(f"{path}/jobs/{children[at]['job_id']}/star", method="PUT")
            seconds, answer = client.ask(path)
            changed.append(seconds)
            assert json.loads(answer)["child_jobs"][at]["starred"], (
                "the status is older than the star"
            )
    name = f"of {jobs:,}"
    return [
        Figure(f"GET status {name}, unchanged, p50", p50(same), gate=4, goal=1.5),
        Figure(f"GET status {name}, one job changed, p50", p50(changed), gate=10, goal=4),
        Figure(
            f"group {name}, status five times a second: POST to end",
            span.seconds,
            "s",
            gate=8,
            goal=5,
        ),
        Figure(
            f"group {name}, status five times a second: CPU of a job",
            span.cpu["serve"] / jobs * 1000,
        ),
    ]


def _is_captured(group: dict[str, Any]) -> bool:
    """Return whether a group and the copies of its outputs have ended: its status changes no more."""
    return bool(group["completed_at"]) and all(
        image["captured"] for child in group["child_jobs"] for image in child["outputs"]["images"]
    )
