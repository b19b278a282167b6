"""A thousand clients of one group, and what an idle one costs."""

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


def measure(folder: Path, *, watchers: int = WATCHERS) -> list[Figure]:
    allow_many()
    with simulated(folder, 3) as gpus, serving(subfolder(folder, "served"), gpus.urls) as served:
        return many(served, gpus, watchers).figures(watchers)


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
                f"{of_them}: that got all events",
                self.complete / watchers * 100,
                "%",
                gate=100,
                more_is_better=True,
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
