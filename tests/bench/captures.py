"""What the copies of outputs cost: the jobs that complete meanwhile, a large file, and thumbnails beside events."""

import hashlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import httpx

from tests.bench import frames
from tests.bench.figures import Figure, p50, p99
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import highest_resident_kib, subfolder
from tests.bench.sockets import StreamSocket, read_all
from tests.bench.submission import Client
from tests.harness.graphs import text_to_image
from tests.harness.processes import serving

_GIB = 2**30
#: Files of a job, and bytes of each.
_FILES, _SIZE = 3, 4 * 2**20
_JOBS = 40
#: Pictures of a job, and jobs.
_PICTURES, _PICTURE_JOBS = 50, 20


def measure(folder: Path, *, large: int = 4 * _GIB) -> list[Figure]:
    return [
        *_completed(subfolder(folder, "completed")),
        *_large(subfolder(folder, "large"), large),
        *_thumbnails(subfolder(folder, "thumbnails")),
    ]


def _completed(folder: Path) -> list[Figure]:
    """Measure the time from the end of a prompt until a client has its ``child_completed``; captures on and off in turn."""
    taken: dict[str, list[float]] = {"0": [], "1": []}
    with simulated(folder, 2, seconds=0.5) as gpus:
        gpus.tell("files", _FILES, _SIZE)
        for turn, is_on in enumerate("0101"):
            environment = {"DIRECTOR_CAPTURE": is_on}
            with serving(subfolder(folder, f"{turn}"), gpus.urls, environment=environment) as served:
                taken[is_on] += _ends(gpus, served.url)
    name = f"child_completed, {_FILES} files of {_SIZE // 2**20} MiB"
    off, on = taken["0"], taken["1"]
    return [
        Figure(f"{name}: captures on, p50", p50(on), floor=p50(off)),
        Figure(f"{name}: captures add, p50", p50(on) - p50(off), gate=20),
        Figure(f"{name}: captures add, p99", p99(on) - p99(off), gate=20),
    ]


def _ends(gpus: Gpus, url: str) -> list[float]:
    """Return the seconds from the end of each prompt of a group until a client had the event."""
    with Client(url) as client:
        group_id = client.submit(list(itertools.islice(itertools.cycle(gpus.ids), _JOBS)))
        watcher = StreamSocket(url, f"/ws/job-groups/{group_id}")
        end = time.monotonic() + 60
        while not client.group(group_id)["completed_at"] and time.monotonic() < end:
            read_all([watcher], within=1.0)
        watcher.close()
        shift = time.time() - time.monotonic()
        arrived = {frame["job_id"]: at + shift for at, frame in watcher.frames() if frame["type"] == "child_completed"}
        assert len(arrived) == _JOBS
        jobs = client.group(group_id)["child_jobs"]
    ended = {one["prompt_id"]: one["time"] for one in gpus.seen() if one["kind"] == "ended"}
    return [arrived[job["job_id"]] - ended[job["outputs"]["prompt_id"]] for job in jobs]


def _large(folder: Path, size: int) -> list[Figure]:
    """Measure the copy of one file, and the same by httpx alone, hashed and synced too."""
    with (
        simulated(folder, 1) as gpus,
        serving(subfolder(folder, "served"), gpus.urls) as served,
        Client(served.url) as client,
    ):
        client.wait(client.submit(gpus.ids))
        before = highest_resident_kib(served.process.pid)
        gpus.tell("files", 1, size)
        began = time.perf_counter()
        group = client.wait(client.submit(gpus.ids, workflow_json=text_to_image(2, side=64)), within=120)
        client.wait(
            group["job_group_id"], lambda one: one["child_jobs"][0]["outputs"]["images"][0]["captured"], within=300
        )
        ours = time.perf_counter() - began
        grown = (highest_resident_kib(served.process.pid) - before) / 1024
        url = group["child_jobs"][0]["outputs"]["images"][0]["url"]
        began = time.perf_counter()
        _copy(url, folder / "copy")
        bare = time.perf_counter() - began
    name = f"capture of a file of {size / _GIB:g} GiB"
    return [
        Figure(f"{name}: rate, floor: a copy by httpx", size / ours / 2**20, "MiB/s", floor=size / bare / 2**20,
               gate=0.7, more_is_better=True, of_floor=True),
        Figure(f"{name}: memory", grown, "MiB", gate=64),
    ]  # fmt: skip


def _copy(url: str, path: Path) -> None:
    with httpx.stream("GET", url, timeout=60) as answer, path.open("wb") as file:
        for chunk in answer.iter_bytes():
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _thumbnails(folder: Path) -> list[Figure]:
    """Measure the age of frames when clients have them, while other clients load thumbnails and without them."""
    with (
        simulated(subfolder(folder, "pictures"), 1) as painter,
        simulated(subfolder(folder, "beats"), frames.CHILDREN, seconds=3_600) as gpus,
        serving(subfolder(folder, "served"), [*painter.urls, *gpus.urls]) as served,
        Client(served.url) as client,
    ):
        graph = text_to_image(side=512)
        graph["5"]["inputs"]["batch_size"] = _PICTURES
        made = client.wait(client.submit(painter.ids * _PICTURE_JOBS, workflow_json=graph), within=300, every=1.0)
        urls = [served.url + file["thumbnail_url"] for one in made["child_jobs"] for file in one["outputs"]["images"]]
        watched = client.submit(gpus.ids)
        client.wait_running(watched, len(gpus.ids))

        def ages(seconds: float) -> list[float]:
            return frames.ages(frames.listen(gpus, served.url, f"/ws/job-groups/{watched}", frames.RATE, seconds))

        ages(3)
        alone = ages(15)
        began = time.monotonic()
        loading = threading.Thread(target=_load, args=(urls,))
        loading.start()
        beside: list[float] = []
        while loading.is_alive():
            beside += ages(5)
        took = time.monotonic() - began
        alone += ages(15)
        # The connection of `client` may have been idle for too long.
        with Client(served.url) as later:
            later.cancel(watched)
    name = f"frame to client beside {len(urls):,} thumbnails ({took:.0f} s)"
    return [
        Figure(f"{name}, p50", p50(beside), floor=p50(alone), of_floor=True),
        Figure(f"{name}, p99", p99(beside), floor=p99(alone), of_floor=True, gate=1.2),
    ]


def _load(urls: list[str]) -> None:
    def load(url: str) -> str:
        with urlopen(url, timeout=60) as answer:  # noqa: S310 - of the Director
            return hashlib.sha256(answer.read()).hexdigest()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(load, urls))) > len(urls) // 2
