"""The list of groups, and every way to narrow it, over a million stored children.

The rows are written by SQL: groups of four children, most of them completed, over fifty backends
and a year. Attempts and events, of which there are as many and more, are left out: no list reads
them. The usage has an attempt for each child.
"""

import random
import sqlite3
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from tests.bench.figures import Figure, percentile
from tests.bench.processes import family_cpu_seconds, subfolder
from tests.bench.submission import Client
from tests.harness.processes import Served, serving
from tests.harness.servers import is_there, postgres

CHILDREN = 1_000_000
PER_GROUP = 4
_TEXTS: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("stored.toml").read_text()
)
QUERIES = _TEXTS["queries"]


def usage(folder: Path, *, groups: int = 100_000, rounds: int = 10) -> list[Figure]:
    """Measure the CPU of the usage of a year and of 30 days, when the runner has summed up the days
    that are over.
    """
    found = []
    days = {"a year": "from=2025-07-01&to=2026-06-30", "30 days": "from=2026-05-01&to=2026-05-30"}
    for where, served, pids in _everywhere(folder, groups, with_postgres=True, with_attempts=True):
        before = float("-inf")
        while (used := sum(map(family_cpu_seconds, pids))) > before + 0.2:
            before = used
            time.sleep(2)
        with Client(served.url) as client:
            for by in ("submitter,backend", "day,backend,metadata.project", "metadata.scene"):
                for name, query in days.items():
                    path = f"/api/usage?by={by}&{query}"
                    seconds = _cpu_seconds(client, path, pids, rounds)[1]
                    title = (
                        f"usage of {groups * PER_GROUP:,} attempts, {where}: {name} by "
                        f"{by.replace(',', ', ')}, CPU"
                    )
                    found.append(Figure(title, seconds * 1000, gate=100))
    return found


def measure(
    folder: Path, *, children: int = CHILDREN, rounds: int = 30, with_postgres: bool = True
) -> list[Figure]:
    rows = []
    for where, served, pids in _everywhere(
        folder, children // PER_GROUP, with_postgres=with_postgres
    ):
        rows += _figures(where, children, *_ask(served, pids, rounds))
    return rows


def _everywhere(
    folder: Path, groups: int, *, with_postgres: bool, with_attempts: bool = False
) -> Iterator[tuple[str, Served, list[int]]]:
    """Serve the rows from each database in turn; yield also the processes that work for a query."""
    _made(folder, {})
    _fill_sqlite(folder / "data" / "director.sqlite3", groups, with_attempts=with_attempts)
    with serving(folder) as served:
        yield "SQLite", served, [served.process.pid]
    if with_postgres and is_there("initdb"):
        with postgres() as server:
            url = server.create("bench")
            place = subfolder(folder, "postgres")
            variables = {"DIRECTOR_DATABASE_URL": url}
            _made(place, variables)
            with server.connect("bench") as connection:
                _fill_postgres(connection, groups, with_attempts=with_attempts)
            with serving(place, environment=variables) as served:
                yield "PostgreSQL", served, [served.process.pid, server.pid]


def _made(folder: Path, environment: dict[str, str]) -> None:
    with serving(folder, environment=environment):
        pass


def _ask(
    served: Served, pids: list[int], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Ask each query so many times; return the seconds that each took, and the CPU seconds of each."""
    taken: dict[str, list[float]] = {}
    cpu: dict[str, float] = {}
    with Client(served.url) as client:
        for name in random.sample(list(QUERIES), len(QUERIES)):
            taken[name], cpu[name] = _cpu_seconds(
                client, f"/api/job-groups?{QUERIES[name]}", pids, rounds
            )
    return taken, cpu


def _cpu_seconds(
    client: Client, path: str, pids: list[int], rounds: int
) -> tuple[list[float], float]:
    """Ask so many times; return the seconds that each took, and the CPU seconds of one."""
    client.timed(path)
    before = sum(map(family_cpu_seconds, pids))
    taken = [client.timed(path) for _ in range(rounds)]
    return taken, (sum(map(family_cpu_seconds, pids)) - before) / rounds


def _figures(
    where: str, children: int, taken: dict[str, list[float]], cpu: dict[str, float]
) -> list[Figure]:
    name = f"list, {children:,} children, {where}"
    each = sorted(
        ((percentile(seconds, 95), query) for query, seconds in taken.items()), reverse=True
    )
    everything = percentile([one for seconds in taken.values() for one in seconds], 95)
    return [
        Figure(f"{name}: all queries, p95", everything, gate=100, goal=30),
        *(Figure(f"{name}: {query}, p95", value, gate=100, goal=30) for value, query in each[:3]),
        *(
            Figure(f"{name}: {query}, CPU", cpu[query] * 1000, gate=100)
            for query in sorted(cpu, key=cpu.__getitem__, reverse=True)[:3]
        ),
    ]


_NUMBERS = """WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers
 WHERE i + 1 < {groups})"""

#: 97 of a hundred completed, two failed, one cancelled.
_STATUS = (
    "CASE WHEN i % 100 < 97 THEN 'completed' WHEN i % 100 < 99 THEN 'failed' ELSE 'cancelled' END"
)
#: Every 10,000th group is somebody's who seldom comes, on a backend that is seldom used.
_RARE = "i % 10000 = 4242"

_WORKFLOW = '{"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}' + " " * 1_200


def _fill_sqlite(path: Path, groups: int, *, with_attempts: bool) -> None:
    database = sqlite3.connect(path)
    with database:
        _fill(database.execute, "sqlite", groups, with_attempts=with_attempts)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _fill_postgres(
    connection: psycopg.Connection[object], groups: int, *, with_attempts: bool
) -> None:
    _fill(
        lambda text: connection.execute(text.encode()),
        "postgres",
        groups,
        with_attempts=with_attempts,
    )
    # The server does this by itself, some minutes after so many insertions.
    connection.execute("VACUUM ANALYZE")


def _fill(
    execute: Callable[[str], object], database: str, groups: int, *, with_attempts: bool
) -> None:
    numbers = _NUMBERS.format(groups=groups)
    filled = {name: text.format(groups=groups) for name, text in _TEXTS[database].items()}
    for name in ("groups", "labels", "children", *(["attempts"] if with_attempts else [])):
        one = Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
        execute(
            one.format(numbers=numbers, workflow=_WORKFLOW, status=_STATUS, rare=_RARE, **filled)
        )
