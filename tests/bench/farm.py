"""What one runner does with many backends: how little it costs, how soon it is where it must be."""

import time
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.gpus import Entry, simulated
from tests.bench.processes import resident_kib, spent, split, subfolder
from tests.bench.submission import Client
from tests.harness.processes import Served, serving, stop_in_order

BACKENDS = 200
#: Frames a second of each backend: a step has two.
FRAMES = 50
_ENDED = ("ended", "deleted")


def measure(folder: Path, *, backends: int = BACKENDS, seconds: float = 15.0) -> list[Figure]:
    rows = []
    for name, part in (
        ("line", _line),
        ("idle", lambda place: _idle(place, backends, seconds)),
        ("frames", lambda place: _frames(place, backends, seconds)),
        ("sustained", lambda place: _sustained(place, backends, seconds)),
        ("again", lambda place: _again(place, backends)),
        ("cancel", lambda place: _cancel(place, backends)),
    ):
        rows += part(subfolder(folder, name))
    return rows


def _line(folder: Path, *, prompts: int = 100) -> list[Figure]:
    with (
        simulated(folder, 1, seconds=0.02, steps=2) as gpus,
        serving(folder, gpus.urls) as served,
        Client(served.url) as client,
    ):
        client.wait(client.submit(gpus.ids))
        began = time.time()
        client.wait(client.submit(gpus.ids * prompts), every=0.5)
        seen = [one for one in gpus.seen() if one["time"] > began]
    wall, renders = _wall_and_renders(seen)
    return [
        Figure(
            f"{prompts} prompts of 20 ms on one backend",
            wall,
            "s",
            floor=renders,
            of_floor=True,
            gate=1.2,
            goal=1.05,
        )
    ]


def _wall_and_renders(seen: list[Entry]) -> tuple[float, float]:
    """Return the seconds from the first start to the last end, and those in which it rendered."""
    started = {one["prompt_id"]: one["time"] for one in seen if one["kind"] == "started"}
    ended = {one["prompt_id"]: one["time"] for one in seen if one["kind"] == "ended"}
    renders = sum(end - started[prompt_id] for prompt_id, end in ended.items())
    return max(ended.values()) - min(started.values()), renders


def _idle(folder: Path, backends: int, seconds: float) -> list[Figure]:
    with simulated(folder, backends) as gpus, serving(folder, gpus.urls) as served:
        time.sleep(2)
        with spent(serve=served.process.pid) as span:
            time.sleep(seconds)
        memory = resident_kib(served.process.pid) / 1024
    name = f"{backends} idle backends"
    return [
        Figure(f"{name}: of a core", span.share("serve"), "%"),
        Figure(f"{name}: memory", memory, "MiB"),
    ]


def _frames(folder: Path, backends: int, seconds: float) -> list[Figure]:
    # Long enough for all of them to run at once, until the last one has begun and been measured.
    renders = 3 * seconds
    with (
        simulated(folder, backends, seconds=renders, steps=int(renders * FRAMES / 2)) as gpus,
        split(folder, gpus.urls) as (served, runner),
        Client(served.url) as client,
    ):
        group_id = client.submit(gpus.ids)
        client.wait_running(group_id, len(gpus.ids))
        sent = gpus.tell("counts")["frames"]
        with spent(runner=runner.process.pid, gpus=gpus.pid) as span:
            time.sleep(seconds * 0.6)
        sent = gpus.tell("counts")["frames"] - sent
        client.wait(group_id, within=120, every=0.5)
        lacks = _transitions_lost(client, group_id, backends)
    rate = sent / span.seconds / backends
    name = f"{backends} backends × {FRAMES} frames/s"
    # What the simulators do not manage to send costs nothing: the share is of what was asked.
    asked = span.share("runner") * FRAMES / rate
    return [
        Figure(f"{name}: of a core", asked, "%", gate=60, goal=30),
        Figure(f"{name}: transitions lost", lacks, "", gate=0),
        Figure(f"{name}: frames/s of each, indeed", rate, "/s"),
        Figure(f"{name}: of a core, simulators", span.share("gpus"), "%"),
    ]


def _transitions_lost(client: Client, group_id: str, backends: int) -> int:
    """Return how many starts and ends of jobs the group's log lacks."""
    seen: list[str] = []
    since = 0
    while events := client.get(f"/api/job-groups/{group_id}/events?since={since}")["events"]:
        seen += [one["type"] for one in events]
        since = events[-1]["seq"]
    return 2 * backends - seen.count("child_started") - seen.count("child_completed")


def _sustained(folder: Path, backends: int, seconds: float) -> list[Figure]:
    groups = int((seconds + 6) / 1.5) + 2
    with (
        simulated(folder, backends, seconds=1.5, steps=3) as gpus,
        serving(folder, gpus.urls) as served,
        Client(served.url) as client,
    ):
        submitted = [client.submit(gpus.ids) for _ in range(groups)]
        client.wait(submitted[0], within=120, every=0.5)
        before = _completed(client, submitted)
        with spent(serve=served.process.pid, gpus=gpus.pid) as span:
            time.sleep(seconds)
            completed = _completed(client, submitted) - before
        for group_id in submitted:
            client.cancel(group_id)
        gpus.wait_counts(lambda counts: counts["standing"] == 0)
    name = f"{backends} backends, jobs of 1.5 s"
    rate, least = completed / span.seconds, 115 * backends / BACKENDS
    # Jobs that it does not complete cost nothing: the share is of the rate that is required.
    share = span.share("serve") * max(1, least / rate)
    return [
        Figure(
            f"{name}: completed",
            rate,
            "/s",
            floor=backends / 1.5,
            gate=least,
            goal=131 * backends / BACKENDS,
            more_is_better=True,
        ),
        Figure(f"{name}: of a core", share, "%", gate=80, goal=60),
        Figure(f"{name}: of a core, simulators", span.share("gpus"), "%"),
    ]


def _completed(client: Client, group_ids: list[str]) -> int:
    wanted = set(group_ids)
    rows = client.get("/api/job-groups?limit=200")["results"]
    return sum(row["completed_count"] for row in rows if row["job_group_id"] in wanted)


def _again(folder: Path, backends: int) -> list[Figure]:
    with simulated(folder, backends, seconds=3_600) as gpus:
        served = Served(folder, gpus.urls, keeps_port=True)
        try:
            served.wait_online(60)
            with Client(served.url) as client:
                group_id = client.submit(gpus.ids)
                client.wait_running(group_id, len(gpus.ids))
            gpus.wait_counts(lambda counts: counts["followed"] == backends)
            served.kill()
            gpus.wait_counts(lambda counts: counts["followed"] == 0)
            began = time.monotonic()
            served.start()
            ready = time.monotonic() - began
            gpus.wait_counts(lambda counts: counts["followed"] == backends)
            again = time.monotonic() - began
            with Client(served.url) as client:
                client.cancel(group_id)
            gpus.wait_counts(lambda counts: counts["standing"] == 0)
            stop_in_order(served)
        finally:
            served.close()
    name = f"{backends} running taken up again after a kill"
    return [
        Figure(f"{name}, from the start", again, "s", gate=3, goal=2),
        Figure(f"{name}, until it is ready", ready, "s"),
    ]


def _cancel(folder: Path, jobs: int) -> list[Figure]:
    backends = max(1, jobs // 4)
    with (
        simulated(folder, backends, seconds=3_600) as gpus,
        serving(folder, gpus.urls) as served,
        Client(served.url) as client,
    ):
        group_id = client.submit(gpus.ids * 4)
        gpus.wait_counts(
            lambda counts: counts["standing"] == 2 * backends and counts["followed"] == backends
        )
        client.wait_running(group_id, backends)
        asked = time.time()
        answer = client.cancel(group_id)
        gpus.wait_counts(lambda counts: counts["standing"] == 0)
        left = [one for one in gpus.seen() if one["kind"] in _ENDED and one["time"] > asked]
        client.wait(group_id)
    stopped = max(one["time"] for one in left) - asked
    name = f"{jobs} jobs on {backends} backends cancelled"
    return [
        Figure(f"{name}, none stands", stopped, "s", gate=2, goal=1),
        Figure(f"{name}, answer", answer, "s"),
    ]
