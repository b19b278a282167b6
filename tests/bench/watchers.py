"""A thousand clients of one group, what an idle one costs, and one that reads nothing."""

import select
import time
from collections import defaultdict
from pathlib import Path

from tests.bench.figures import Figure, p50
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import resident_kib, subfolder
from tests.bench.sockets import StreamSocket, allow_many, read_all
from tests.bench.submission import Client
from tests.harness.processes import Served, serving

WATCHERS = 1_000
#: A client that reads nothing may cost what it would have been sent in so many seconds.
_STREAM_SECONDS = 50.0
#: Children of the group that they watch, each telling something ten times a second.
_TALKERS = 40
#: So many at once: what the Director itself grows by meanwhile does not show.
_STALLED = 20
_BUFFER = 4_096


def measure(folder: Path, *, watchers: int = WATCHERS, stalled_seconds: float = 75.0) -> list[Figure]:
    allow_many()
    with simulated(subfolder(folder, "gpus"), 3) as gpus, serving(subfolder(folder, "many"), gpus.urls) as served:
        rows = many(served, gpus, watchers).figures(watchers)
    with (
        simulated(subfolder(folder, "talkers"), _TALKERS, seconds=3_600) as gpus,
        serving(subfolder(folder, "stalled"), gpus.urls) as served,
    ):
        rows += _stalled(served, gpus, stalled_seconds)
    return rows


class Heard:
    """What many watchers of one group were sent, and the cost of an idle one."""

    def __init__(self, watchers: list[StreamSocket], last_seq: int, *, idle_kib: float) -> None:
        self.idle_kib = idle_kib
        wanted = list(range(1, last_seq + 1))
        self.complete = 0
        moments: dict[int, list[float]] = defaultdict(list)
        for one in watchers:
            frames = list(one.frames())
            known = int(frames[0][1]["seq"]) if frames else 0
            events = [(moment, frame["seq"]) for moment, frame in frames[1:] if "seq" in frame]
            self.complete += [seq for _, seq in events] == wanted[known:]
            for moment, seq in events:
                moments[seq].append(moment)
        #: Seconds from the first watcher to the last one, for each event.
        self.spreads = [max(each) - min(each) for _, each in sorted(moments.items())]

    def figures(self, watchers: int) -> list[Figure]:
        of_them = f"{watchers:,} watchers"
        return [
            Figure(
                f"{of_them}: that got all events", self.complete / watchers * 100, "%", gate=100, more_is_better=True
            ),
            Figure(f"{of_them}: first to last, p50 of events", p50(self.spreads), gate=80, goal=40),
            Figure(f"{of_them}: first to last, last event", self.spreads[-1] * 1000),
            Figure("memory of an idle socket", self.idle_kib, "KiB", gate=30),
        ]


def many(served: Served, gpus: Gpus, count: int) -> Heard:
    """Have so many clients watch one group of twelve from its start to its end."""
    gpus.tell("hold")
    with Client(served.url) as client:
        group_id = client.submit(gpus.ids * 4)
        client.wait(group_id, lambda one: one["child_jobs"][2]["status"] == "running")
        path = f"/ws/job-groups/{group_id}"
        warm = [StreamSocket(served.url, path) for _ in range(20)]
        before = resident_kib(served.process.pid)
        watchers = [StreamSocket(served.url, path) for _ in range(count)]
        read_all(watchers, within=30, until=lambda data: b"initial_state" in data)
        time.sleep(1)
        idle = (resident_kib(served.process.pid) - before) / count
        gpus.tell("go")
        read_all(watchers, within=60, until=lambda data: b'"group_complete"' in data)
        last_seq = client.group(group_id)["seq"]
    for one in (*warm, *watchers):
        one.close()
    return Heard(watchers, last_seq, idle_kib=idle)


def _stalled(served: Served, gpus: Gpus, seconds: float) -> list[Figure]:
    with Client(served.url) as client:
        group_id = client.submit(gpus.ids)
        client.wait_running(group_id, len(gpus.ids))
        path = f"/ws/job-groups/{group_id}"
        gpus.tell("beat", 20)
        healthy = StreamSocket(served.url, path)
        read_all([healthy], within=5)  # and the Director's memory settles
        said = sum(len(data) for _, data in healthy.pieces) / 5
        healthy.close()
        stream_kib = said * _STREAM_SECONDS / 1024
        before = resident_kib(served.process.pid)
        stalled = [StreamSocket(served.url, path, buffer=_BUFFER) for _ in range(_STALLED)]
        grown, dropped_after = _until_dropped(served, stalled, before, seconds)
        for one in stalled:
            one.close()
    gpus.tell("beat", 0)
    with Client(served.url) as client:
        client.cancel(group_id)
    gpus.wait_counts(lambda counts: counts["standing"] == 0)
    return [
        Figure(
            f"memory of a stalled client (stream {said / 1024:.0f} KiB/s)",
            grown / 1024 / _STALLED,
            "MiB",
            gate=stream_kib / 1024,
        ),
        Figure("a stalled client is dropped after", dropped_after, "s"),
    ]


def _until_dropped(served: Served, stalled: list[StreamSocket], before: int, seconds: float) -> tuple[int, float]:
    """Return the most that the Director grew by, in KiB, and when it had cut all connections."""
    began = time.monotonic()
    poll = select.poll()
    for one in stalled:
        poll.register(one.socket, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    left, grown, passed = len(stalled), 0, 0.0
    while left and (passed := time.monotonic() - began) < seconds:
        grown = max(grown, resident_kib(served.process.pid) - before)
        for file, _ in poll.poll(500):
            poll.unregister(file)
            left -= 1
    return grown, float("inf") if left else passed
