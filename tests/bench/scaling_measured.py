"""The unit costs of ``tests.bench.scaling``, measured: counts and CPU time, hardly any wall clock.

A web process, a runner, PostgreSQL (each commit synced) and Redis of its own drive simulated ComfyUIs:
idle, with few and with many of them; groups of one and of twenty; frames, without and with clients that
watch. What is asked of two unknowns (a group and a child, a backend and the farm) is solved from two such
stretches. What a transaction costs is measured by ``tests.bench.scaling_course``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis

from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import cpu_seconds, resident_kib
from tests.bench.scaling_course import LARGE, SMALL, Spent
from tests.bench.sockets import Watcher, allow_many, read_all
from tests.bench.submission import Client
from tests.harness.processes import ROOT, LaunchedRunner, Served, stop_in_order
from tests.harness.servers import Postgres, Redis, own_redis, postgres

FEW, MANY = 20, 200
#: Seconds of a prompt here, and the groups of the sustained load that the simulation is compared with.
RENDER = 1.5
_IDLE = 10.0
_SPAN = 5.0
_WATCHERS = 20
#: Frames a second of each of the few backends: that come to nothing, and that are told.
_DROPPED, _TOLD = 40, 8
#: Of each of the many: up to more than a runner can take.
FLOODS = (2, 6, 20)
#: Whose CPU time the farm's is, the simulators' included.
_OURS = ("runner", "web", "postgres", "redis", "gpus")
_TICKS = os.sysconf("SC_CLK_TCK")
_SIZES = "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
_TABLES = (
    "jobgroups_jobgroup",
    "jobgroups_grouplabel",
    "jobgroups_childjob",
    "jobgroups_attempt",
    "jobgroups_jobevent",
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a stretch of time has cost, or a difference of two: seconds, counts and bytes by name."""

    values: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def less(self, other: Stretch, times: float = 1.0) -> Stretch:
        """Return what remains without ``times`` another one."""
        return Stretch({name: value - times * other[name] for name, value in self.values.items()})

    def each(self, count: float) -> Stretch:
        """Return a share of it."""
        return Stretch({name: value / count for name, value in self.values.items()})


class _Farm:
    """A web process and a runner over some simulators, and what all of it has cost so far."""

    def __init__(self, stack: ExitStack, folder: Path, count: int, server: Postgres, redis_server: Redis) -> None:
        self.database = f"farm_{count}"
        self._server = server
        self._redis = redis.Redis.from_url(redis_server.url)
        stack.callback(self._redis.close)
        variables = {
            "DIRECTOR_DATABASE_URL": server.create(self.database),
            "DIRECTOR_REDIS_URL": redis_server.url,
            "DIRECTOR_REDIS_PREFIX": self.database,
        }
        self.gpus: Gpus = stack.enter_context(simulated(folder, count, seconds=RENDER, steps=3))
        self.web = Served(folder, self.gpus.urls, arguments=("--no-runner", "--port", "0"), environment=variables)
        stack.callback(self.web.close)
        self.runner = LaunchedRunner(folder, environment=variables)
        stack.callback(self.runner.close)
        self.runner.start()
        self.web.wait_online(120)
        self.client = stack.enter_context(Client(self.web.url))
        self._rows = stack.enter_context(server.connect(self.database))

    def end(self) -> None:
        """End it in order."""
        stop_in_order(self.runner)
        stop_in_order(self.web)

    @contextmanager
    def stretch(self) -> Iterator[Callable[[], Stretch]]:
        """Measure the block; the answer is there when it is over."""
        before = self._now()
        after: list[Stretch] = []
        yield lambda: after[0]
        after.append(self._now().less(before))

    def _now(self) -> Stretch:
        counted = self._rows.execute(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(calls) FILTER (WHERE query = 'COMMIT'), 0),"
            " coalesce(sum(wal_bytes), 0),"
            " coalesce(sum(rows) FILTER (WHERE query LIKE '%AS told(progress%'), 0)"
            " FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
            " WHERE d.datname = current_database()"
        ).fetchone()
        assert counted is not None
        sent: Any = self._redis.info("commandstats")
        spent: Any = self._redis.info("cpu")
        return Stretch(
            {
                "seconds": time.monotonic(),
                "statements": float(counted[0]),
                "commits": float(counted[1]),
                "wal": float(counted[2]),
                "progress": float(counted[3]),
                "web": cpu_seconds(self.web.process.pid),
                "runner": cpu_seconds(self.runner.process.pid),
                "postgres": _cpu_of_postgres(self._server),
                "redis": spent["used_cpu_user"] + spent["used_cpu_sys"],
                "messages": float(sent.get("cmdstat_publish", {"calls": 0})["calls"]),
                "frames": float(self.gpus.tell("counts")["frames"]),
                "gpus": cpu_seconds(self.gpus.pid),
                "machine": _busy_seconds(),
            }
        )

    def stored(self) -> float:
        """Return the bytes of all groups, with indexes, once nothing dead is among them."""
        for table in _TABLES:
            self._rows.execute(f"VACUUM FULL {table}".encode())
        row = self._rows.execute(_SIZES.encode()).fetchone()
        assert row is not None
        return float(row[0])

    def rows(self) -> float:
        """Return how many rows groups have."""
        found = 0
        for table in _TABLES:
            query = f"SELECT count(*) FROM {table}"  # noqa: S608 a name of ours
            row = self._rows.execute(query.encode()).fetchone()
            assert row is not None
            found += row[0]
        return float(found)

    def connections(self) -> float:
        """Return how many connections to PostgreSQL its processes have, the bench's own left out."""
        row = self._rows.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
        assert row is not None
        return float(row[0])


def _busy_seconds() -> float:
    """Return the CPU time of everything on this machine, its host's share included."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    return (sum(map(int, fields)) - int(fields[3]) - int(fields[4])) / _TICKS


def _cpu_of_postgres(server: Postgres) -> float:
    """Return the CPU time of a server, that of connections which are over included."""
    main = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    after_name = Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(ticks) for ticks in after_name[11:15]) / _TICKS
    return own + sum(cpu_seconds(int(pid)) for pid in children)


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured, by the names of ``tests.bench.scaling_units.Units``.

    Attributes:
        sustained: the load that the simulation is compared with: what the farm of 200 backends did; and
            what became of many frames.
    """

    units: dict[str, float]
    sustained: dict[str, float]


def measure(folder: Path) -> Measured:
    """Measure all of it, in three minutes on two cores."""
    allow_many(5 * MANY)
    with postgres(durable=True) as server, own_redis() as redis_server:
        with server.connect("postgres") as connection:
            connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        server.stop()
        server.start()
        with server.connect("template1") as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        calls = _calls(folder, server)
        few, of_frames = _few(_made(folder, "few"), server, redis_server)
        units, sustained = _many(_made(folder, "many"), server, redis_server, few)
    return Measured(units | of_frames | _of_calls(calls), sustained)


def _made(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def _calls(folder: Path, server: Postgres) -> dict[str, Spent]:
    variables = {
        "DJANGO_SETTINGS_MODULE": "director.settings",
        "DIRECTOR_DATABASE_URL": server.create("course"),
        "DIRECTOR_DATA_DIR": str(folder / "data"),
        "DIRECTOR_MAX_CHILDREN": "10000",
    }
    words = [sys.executable, "-m", "tests.bench.scaling_course"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    with _a_busy_core():
        answer = subprocess.run(words, cwd=ROOT, env=environment | variables, stdout=subprocess.PIPE, check=True)
    found: dict[str, Spent] = json.loads(answer.stdout)
    return found


@contextmanager
def _a_busy_core() -> Iterator[None]:
    """Keep one core at work.

    Two processes that wait for each other in turn put a machine that has nothing else to do to sleep each
    time, and waking it costs CPU time: half as much again as where others work, as they do in a farm.
    """
    worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


_STEPS = ("claim", "accepted", "started", "reported", "ended")


def _of_calls(calls: dict[str, Spent]) -> dict[str, float]:
    units = {}
    for step in _STEPS:
        units[f"{step}_python_ms"] = calls[f"{step} small"]["python"]
        units[f"{step}_postgres_ms"] = calls[f"{step} small"]["postgres"]
    grown = sum(calls[f"{step} large"]["postgres"] - calls[f"{step} small"]["postgres"] for step in _STEPS)
    units["group_lock_us_per_child"] = grown / 2 / (LARGE - SMALL) * 1e3
    units["round_ms"] = calls["round small"]["python"]
    units["round_us_per_backend"] = (
        (calls["round busy"]["python"] - calls["round small"]["python"]) / (LARGE - SMALL) * 1e3
    )
    units["round_postgres_us_per_backend"] = (
        (calls["round busy"]["postgres"] - calls["round small"]["postgres"]) / (LARGE - SMALL) * 1e3
    )
    # What is neither's CPU time: the way there and back, and the sync.
    units["commit_wait_ms"] = median(
        calls[f"{step} small"]["wall"] - calls[f"{step} small"]["python"] - calls[f"{step} small"]["postgres"]
        for step in _STEPS
    )
    return units


def _few(folder: Path, server: Postgres, redis_server: Redis) -> tuple[dict[str, float], dict[str, float]]:
    with ExitStack() as stack:
        farm = _Farm(stack, folder, FEW, server, redis_server)
        found = _idle(farm)
        units = _of_frames(farm, _only(found, farm))
        farm.end()
    return found, units


def _idle(farm: _Farm) -> dict[str, float]:
    time.sleep(3)
    with farm.stretch() as told:
        time.sleep(_IDLE)
    return {
        **told().each(told()["seconds"]).values,
        "memory": resident_kib(farm.runner.process.pid),
        "files": len(list(Path(f"/proc/{farm.runner.process.pid}/fd").iterdir())),
    }


def _only(idle: dict[str, float], farm: _Farm) -> Stretch:
    return Stretch({name: idle[name] for name in farm._now().values})


def _many(
    folder: Path, server: Postgres, redis_server: Redis, few: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    with ExitStack() as stack:
        farm = _Farm(stack, folder, MANY, server, redis_server)
        many = _idle(farm)
        idle = _only(many, farm)
        units = _of_backend(few, many)
        units |= _of_children(farm, idle)
        status, flood = _flooded(farm, idle)
        units |= status
        sustained = _sustained(farm) | flood
        sustained["connections"] = farm.connections()
        farm.end()
    return units, sustained


def _of_backend(few: dict[str, float], many: dict[str, float]) -> dict[str, float]:
    each = {name: (many[name] - few[name]) / (MANY - FEW) for name in few}
    base = {name: few[name] - FEW * each[name] for name in few}
    return {
        "backend_statements": each["statements"],
        "backend_commits": each["commits"],
        "backend_runner_ms": each["runner"] * 1e3,
        "backend_postgres_ms": each["postgres"] * 1e3,
        "backend_wal": each["wal"],
        "backend_kib": each["memory"],
        "backend_files": each["files"],
        "runner_statements": base["statements"],
        "runner_own_ms": base["runner"] * 1e3,
        "runner_postgres_ms": base["postgres"] * 1e3,
    }


def _load(farm: _Farm, idle: Stretch, groups: list[list[str]]) -> tuple[Stretch, float, float]:
    """Have groups rendered; return what they cost beyond the idle farm, their rows and their bytes."""
    rows, stored = farm.rows(), farm.stored()
    with farm.stretch() as told:
        ids = [farm.client.submit(group) for group in groups]
        # Asked seldom: what a status costs is no part of it.
        for group_id in ids:
            farm.client.wait(group_id, within=120, every=1.0)
    done = told().less(idle, told()["seconds"])
    return done, farm.rows() - rows, farm.stored() - stored


def _of_children(farm: _Farm, idle: Stretch) -> dict[str, float]:
    ids = farm.gpus.ids
    size, large, small = SMALL, 30, 200
    grouped = [[ids[(one * size + place) % MANY] for place in range(size)] for one in range(large)]
    many, many_rows, many_bytes = _load(farm, idle, grouped)
    alone, alone_rows, alone_bytes = _load(farm, idle, [[one] for one in ids[:small]])
    # So many groups of one cost a child each and as many groups; the rest is the groups of twenty's.
    children = large * size

    def both(grouped: float, single: float) -> tuple[float, float]:
        """Return what a child and a group cost."""
        child = (grouped - single * large / small) / (children - large)
        return child, (single - small * child) / small

    units: dict[str, float] = {}
    for name, unit, scale in (
        ("statements", "statements", 1.0),
        ("commits", "commits", 1.0),
        ("messages", "messages", 1.0),
        ("wal", "wal", 1.0),
        ("frames", "frames", 1.0),
        ("runner", "runner_ms", 1e3),
        ("web", "web_ms", 1e3),
        ("postgres", "postgres_ms", 1e3),
        ("redis", "redis_ms", 1e3),
    ):
        child, group = both(many[name], alone[name])
        units[f"child_{unit}"], units[f"group_{unit}"] = child * scale, group * scale
    units["child_rows"], units["group_rows"] = both(many_rows, alone_rows)
    units["child_bytes"], units["group_bytes"] = both(many_bytes, alone_bytes)
    return units


def _of_frames(farm: _Farm, idle: Stretch) -> dict[str, float]:
    """Return the unit costs of frames and messages, of so few that nothing waits."""
    # Frames of no prompt of ours are read and dropped: no message comes of them.
    farm.gpus.tell("beat", _DROPPED)
    dropped = _stretch(farm, idle)
    farm.gpus.tell("beat", 0)
    group_id = _held(farm)
    farm.gpus.tell("beat", _TOLD)
    frames = _stretch(farm, idle)
    path = f"/ws/job-groups/{group_id}"
    one, some = (_watched(farm, path, count) for count in (1, _WATCHERS))
    farm.gpus.tell("beat", 0)
    _let_go(farm, group_id)
    frame = dropped["runner"] / dropped["frames"]
    told_to_one = one["web"] / one["messages"]
    told_to_some = some["web"] / some["messages"]
    watcher = (told_to_some - told_to_one) / (_WATCHERS - 1)
    told = frames["runner"] - frames["frames"] * frame
    return {
        "frame_runner_us": frame * 1e6,
        "message_runner_us": told / frames["messages"] * 1e6,
        "progress_postgres_us": frames["postgres"] / frames["progress"] * 1e6,
        "message_redis_us": frames["redis"] / frames["messages"] * 1e6,
        "message_web_us": (told_to_one - watcher) * 1e6,
        "message_watcher_us": watcher * 1e6,
    }


def _flooded(farm: _Farm, idle: Stretch) -> tuple[dict[str, float], dict[str, float]]:
    """Return what a status costs, and what becomes of more and more frames."""
    group_id = _held(farm)
    with farm.stretch() as asked:
        for _ in range(30):
            farm.client.group(group_id)
    flood = {}
    for rate in FLOODS:
        farm.gpus.tell("beat", rate)
        told = _stretch(farm, idle)
        flood[f"frames_{rate}"] = told["frames"] / told["seconds"]
        flood[f"messages_{rate}"] = told["messages"] / told["seconds"]
    farm.gpus.tell("beat", 0)
    _let_go(farm, group_id)
    _until_quiet(farm)
    return {"status_us_per_child": asked()["web"] / 30 / MANY * 1e6}, flood


def _held(farm: _Farm) -> str:
    """Have a prompt stand still on each backend; return its group."""
    farm.gpus.tell("hold")
    group_id = farm.client.submit(farm.gpus.ids)
    farm.client.wait(group_id, _all_run, within=60, every=0.5)
    return group_id


def _let_go(farm: _Farm, group_id: str) -> None:
    farm.gpus.tell("go")
    farm.client.wait(group_id, within=120, every=1.0)


def _stretch(farm: _Farm, idle: Stretch) -> Stretch:
    """Measure some seconds, beyond what the idle farm costs; the first ones do not count."""
    time.sleep(2)
    with farm.stretch() as told:
        time.sleep(_SPAN)
    seconds = told()["seconds"]
    return Stretch({**told().less(idle, seconds).values, "seconds": seconds})


def _until_quiet(farm: _Farm) -> None:
    """Wait until no message is left that the runner has not sent yet."""
    sent, before = farm._now()["messages"], -1.0
    while sent - before > 5:
        time.sleep(0.5)
        before, sent = sent, farm._now()["messages"]


def _watched(farm: _Farm, path: str, count: int) -> Stretch:
    watchers = [Watcher(farm.web.url, path) for _ in range(count)]
    read_all(watchers, within=1.0)
    with farm.stretch() as told:
        read_all(watchers, within=_SPAN)
    for one in watchers:
        one.close()
    return told()


def _all_run(group: dict[str, Any]) -> bool:
    return all(child["status"] == "running" for child in group["child_jobs"])


def _sustained(farm: _Farm, seconds: float = 15.0) -> dict[str, float]:
    """Keep every backend at work, as ``tests.bench.farm`` does, and return what came of it."""
    submitted = [farm.client.submit(farm.gpus.ids) for _ in range(int((seconds + 6) / RENDER) + 2)]
    farm.client.wait(submitted[0], within=120, every=1.0)
    before = _completed(farm, submitted)
    with farm.stretch() as told:
        time.sleep(seconds)
        completed = _completed(farm, submitted) - before
    for group_id in submitted:
        farm.client.cancel(group_id)
    farm.gpus.wait_counts(lambda counts: counts["standing"] == 0)
    each = told().each(told()["seconds"])
    return {
        "completed": completed / told()["seconds"],
        "runner": each["runner"],
        "web": each["web"],
        "postgres": each["postgres"],
        "redis": each["redis"],
        "gpus": each["gpus"],
        "commits": each["commits"],
        "statements": each["statements"],
        "messages": each["messages"],
        # What was left to the farm of a machine that others used at the same time.
        "cores": (os.cpu_count() or 1) - (each["machine"] - sum(each[name] for name in _OURS)),
    }


def _completed(farm: _Farm, group_ids: list[str]) -> int:
    wanted = set(group_ids)
    rows = farm.client.get("/api/job-groups?limit=200")["results"]
    return sum(row["completed_count"] for row in rows if row["job_group_id"] in wanted)
