"""Groups a second, what each costs, what stays of it in memory, and that none is lost or doubled.

Three backends that render at once, twenty clients that each submit a group, wait for its end and
submit the next. Either one client requests the list of groups for all of them, or each client polls
the status of its group. The floor is the same work by bare requests to the backends. The database
is the default one: SQLite, each commit synced.
"""

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import floors
from tests.bench.figures import Figure
from tests.bench.gpus import Entry, Gpus, simulated
from tests.bench.processes import Span, resident_kib, spent
from tests.bench.submission import Client
from tests.harness.processes import Served, serving

AT_ONCE = 20
GROUPS = 1_000
NAME = f"groups of 3, {AT_ONCE} at once"
#: Seconds between two looks at which groups have ended, and groups that a look shows.
_LOOK = 0.1
_SHOWN = 50
#: Seconds between a status and the next request for it, and the gate and the goal in groups a
#: second.
_POLLS = ((0.025, 18.0, 25.0), (0.1, None, None), (0.25, None, None))


def measure(
    folder: Path, *, groups: int = GROUPS, within: float = 35.0, polled_within: float = 15.0
) -> list[Figure]:
    """Measure the second thousand groups, then polled ones; each load ends after some seconds
    anyway.
    """
    with simulated(folder, 3) as gpus, serving(folder, gpus.urls) as served:
        first = load(served, gpus, groups=groups, within=within)
        before = resident_kib(served.process.pid)
        second = load(served, gpus, groups=groups, within=within)
        grown = resident_kib(served.process.pid) - before
        bare = floors.renders(gpus.urls, at_once=AT_ONCE, seconds=5.0)
        polled = [
            load(served, gpus, groups=groups, within=polled_within, every=every)
            for every, *_ in _POLLS
        ]
    submitted = [group_id for one in (first, second, *polled) for group_id in one.submitted]
    wrong = lost(served.data / "director.sqlite3", submitted) + doubled(gpus.seen())
    rows = unpolled(second, floor=bare)
    for one, (every, gate, goal) in zip(polled, _POLLS, strict=True):
        name = f"{NAME}, status every {every * 1000:g} ms"
        rows += _figures(name, one, floor=bare, gate=gate, goal=goal)
    return [
        *rows,
        Figure(f"{NAME}, lost or doubled", wrong, "", gate=0),
        Figure(
            "memory for 1,000 groups more",
            grown / 1024 / len(second.submitted) * 1000,
            "MiB",
            gate=3,
        ),
    ]


@dataclass(slots=True)
class Load:
    submitted: list[str] = field(default_factory=list)
    span: Span = field(default_factory=Span)

    @property
    def rate(self) -> float:
        """Groups a second."""
        return len(self.submitted) / self.span.seconds

    def cpu_ms(self, name: str) -> float:
        return self.span.cpu[name] / len(self.submitted) * 1000


def unpolled(load: Load, floor: float | None = None) -> list[Figure]:
    return _figures(NAME, load, gate=36, goal=45, cpu_gate=26, cpu_goal=18, floor=floor)


def _figures(
    name: str,
    load: Load,
    *,
    cpu_gate: float | None = None,
    cpu_goal: float | None = None,
    **limits: float | None,
) -> list[Figure]:
    return [
        Figure(name, load.rate, "/s", more_is_better=True, **limits),
        Figure(f"{name}, CPU of each", load.cpu_ms("serve"), gate=cpu_gate, goal=cpu_goal),
        *(
            Figure(f"{name}, CPU of the {one}", load.cpu_ms(one))
            for one in ("simulators", "clients")
        ),
    ]


def load(
    served: Served, gpus: Gpus, *, groups: int, within: float, every: float | None = None
) -> Load:
    """Keep twenty groups under way until so many have been submitted or the time is over.

    Args:
        every: seconds between a status and the next request for it; None: clients do not poll.
    """
    done = Load()
    pids = {"serve": served.process.pid, "simulators": gpus.pid, "clients": os.getpid()}
    with Client(served.url) as client, spent(**pids) as done.span:
        ends = _Ends(client)
        stop_at = time.monotonic() + within
        lock = threading.Lock()

        def keep_one() -> None:
            with Client(served.url) as own:
                submission = own.submission(gpus.ids)
                while time.monotonic() < stop_at:
                    with lock:
                        if len(done.submitted) >= groups:
                            return
                        place = len(done.submitted)
                        done.submitted.append("")
                    _, group_id = own.send(submission)
                    done.submitted[place] = group_id
                    if every is None:
                        ends.wait(group_id)
                    else:
                        own.wait(group_id, every=every)

        threads = [threading.Thread(target=keep_one) for _ in range(AT_ONCE)]
        for one in threads:
            one.start()
        if every is None:
            ends.look_until(lambda: not any(one.is_alive() for one in threads))
        for one in threads:
            one.join()
    assert all(done.submitted), "a submission was not answered"
    return done


class _Ends:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._open: dict[str, threading.Event] = {}

    def wait(self, group_id: str) -> None:
        self._open[group_id] = ended = threading.Event()
        assert ended.wait(60), f"{group_id} does not end"

    def look_until(self, over: Callable[[], bool]) -> None:
        """Look until there is nobody left who waits."""
        while not over():
            for row in self._client.get(f"/api/job-groups?limit={_SHOWN}")["results"]:
                if row["completed_at"] and (ended := self._open.pop(row["job_group_id"], None)):
                    ended.set()
            time.sleep(_LOOK)


def lost(database: Path, submitted: Sequence[str]) -> int:
    """Return how many of the promised groups are not stored, or have a job that is not completed."""
    with sqlite3.connect(database) as rows:
        whole = rows.execute(
            "SELECT g.id FROM jobgroups_jobgroup g JOIN jobgroups_childjob c ON c.group_id = g.id"
            " WHERE g.status = 'completed' AND c.status = 'completed'"
            " GROUP BY g.id, g.total_count HAVING COUNT(*) = g.total_count"
        ).fetchall()
    rows.close()
    return len(set(submitted) - {group_id for (group_id,) in whole})


def doubled(seen: Sequence[Entry]) -> int:
    """Return how many jobs were sent, and prompts executed, more than once by what was seen."""
    jobs: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    for entry in seen:
        if entry["kind"] == "accepted":
            if mark := entry["extra_data"].get("director"):  # the floor's prompts have none
                jobs[mark["job"]] += 1
        elif entry["kind"] == "started":
            starts[entry["prompt_id"]] += 1
    return sum(count > 1 for count in (*jobs.values(), *starts.values()))
