"""Statuses over HTTP of a group of three jobs and of one of 1,000, and the run of the long one
while it is polled.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench import floors
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import spent, subfolder
from tests.bench.submission import Client
from tests.bench.wire import at_once, in_turn
from tests.harness.processes import Served, python, serving, settings_of, stop_in_order

AT_ONCE = 20


def measure(folder: Path, *, jobs: int = 1_000) -> list[Figure]:
    with floors.running("answer") as url:
        alone = p50(in_turn(url, "/", requests=500)[100:])
        rate, _ = at_once(url, "/", connections=AT_ONCE, seconds=4)
    with simulated(folder, 3) as gpus, serving(folder, gpus.urls) as served:
        return [
            *of_three(served, gpus.ids, alone=alone, rate=rate),
            *_of_many(served, gpus.ids, jobs),
            *of_credentials(folder, gpus),
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


#: Settings of the Directors whose statuses are compared with those of one that all may use.
_SECRET: Final = "x" * 43
_MODES: Final[dict[str, dict[str, str]]] = {
    "no token": {},
    "DIRECTOR_TOKEN": {"DIRECTOR_TOKEN": _SECRET},
    "a token of an account": {"DIRECTOR_ACCOUNTS": "1"},
    "a token of an account, private": {"DIRECTOR_ACCOUNTS": "1", "DIRECTOR_PRIVATE": "1"},
}


def of_credentials(
    folder: Path, gpus: Gpus, *, rounds: int = 12, requests: int = 400
) -> list[Figure]:
    """Measure the CPU of the web for statuses of an ended group, in turn at a Director of each mode."""
    cpu = dict.fromkeys(_MODES, 0.0)
    paths: dict[str, tuple[Served, str, str]] = {}
    with ExitStack() as stack:
        for mode, environment in _MODES.items():
            place = subfolder(folder, mode)
            token = _token(place, environment)
            # It is online for those who have a token, which ``Served`` has not.
            variables = {**environment, "DIRECTOR_ACCEPT_WITHOUT_RUNNER": "1"}
            served = Served(place, gpus.urls, environment=variables)
            stack.callback(stop_in_order, served)
            with Client(served.url, token) as client:
                group_id = client.submit(gpus.ids)
                client.wait(group_id, _is_captured)
            paths[mode] = served, f"/api/job-groups/{group_id}", token
        for number in range(rounds + 1):
            for mode, (served, path, token) in paths.items():
                with spent(web=served.children().get("web", served.process.pid)) as span:
                    in_turn(served.url, path, requests=requests, token=token)
                cpu[mode] += span.cpu["web"] if number else 0.0  # the first fills the caches
    each = {mode: seconds / (rounds * requests) * 1000 for mode, seconds in cpu.items()}
    floor = each.pop("no token")
    return [
        Figure(
            f"GET status of 3, {mode}, CPU of the web", value, floor=floor, gate=1.1, of_floor=True
        )
        for mode, value in each.items()
    ]


def _token(folder: Path, environment: Mapping[str, str]) -> str:
    """Return the token of a Director that does not run yet; with accounts one of a new artist."""
    if "DIRECTOR_ACCOUNTS" not in environment:
        return environment.get("DIRECTOR_TOKEN", "")
    settings = settings_of(folder, environment=environment)
    printed = [
        python("manage.py", *command.split(), **settings).stdout
        for command in (
            "people add anna --role artist",
            "tokens create anna --scope submit --name bench",
        )
    ]
    return printed[-1].split()[-1]


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
