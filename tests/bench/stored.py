"""The list of groups, and every way to narrow it, over a million stored children.

The rows are written by SQL: groups of four children, most of them completed, over fifty backends and a
year. Attempts and events, of which there are as many and more, are left out: no list reads them.
"""

import random
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg

from tests.bench.figures import Figure, percentile
from tests.bench.processes import subfolder
from tests.bench.submission import Client
from tests.harness.processes import Served, serving
from tests.harness.servers import is_there, postgres

CHILDREN = 1_000_000
PER_GROUP = 4
#: What is asked for, and how it is called. The last ones match few, none, or a tenth of all.
QUERIES = {
    "newest": "limit=50",
    "longest page": "limit=200",
    "status completed": "status=completed",
    "status failed": "status=failed",
    "status cancelled": "status=cancelled",
    "status running": "status=running",
    "a day half a year ago": ("created_after=2026-01-10T00:00:00Z&created_before=2026-01-11T00:00:00Z"),
    "a scene": "metadata.scene=shot_042",
    "a scene's failures": "metadata.scene=shot_042&status=failed",
    "a project, one in ten": "metadata.project=p3",
    "a project and its scene": "metadata.project=p2&metadata.scene=shot_042",
    "a backend, one in twelve": "backend=gpu-7",
    "a backend's failures": "backend=gpu-7&status=failed",
    "a backend used 25 times": "backend=gpu-rare",
    "a submitter, one in ten": "submitter=artist-3",
    "a submitter of 25 groups": "submitter=artist-rare",
    "a submitter of none": "submitter=nobody",
}


def measure(folder: Path, *, children: int = CHILDREN, rounds: int = 30, with_postgres: bool = True) -> list[Figure]:
    groups = children // PER_GROUP
    with _over_sqlite(folder, groups) as served:
        rows = _figures("SQLite", children, ask(served, rounds))
    if with_postgres and is_there("initdb"):
        with postgres() as server:
            url = server.create("bench")
            place = subfolder(folder, "postgres")
            variables = {"DIRECTOR_DATABASE_URL": url}
            _made(place, variables)
            with server.connect("bench") as connection:
                fill_postgres(connection, groups)
            with serving(place, environment=variables) as served:
                rows += _figures("PostgreSQL", children, ask(served, rounds))
    return rows


def _over_sqlite(folder: Path, groups: int) -> AbstractContextManager[Served]:
    _made(folder, {})
    fill_sqlite(folder / "data" / "director.sqlite3", groups)
    return serving(folder)


def _made(folder: Path, environment: dict[str, str]) -> None:
    with serving(folder, environment=environment):
        pass


def ask(served: Served, rounds: int) -> dict[str, list[float]]:
    """Ask each query so many times, in changing order; return the seconds that each took."""
    taken: dict[str, list[float]] = {name: [] for name in QUERIES}
    order = list(QUERIES)
    with Client(served.url) as client:
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                taken[name].append(client.timed(f"/api/job-groups?{QUERIES[name]}"))
    return taken


def _figures(where: str, children: int, taken: dict[str, list[float]]) -> list[Figure]:
    name = f"list, {children:,} children, {where}"
    each = sorted(((percentile(seconds, 95), query) for query, seconds in taken.items()), reverse=True)
    everything = percentile([one for seconds in taken.values() for one in seconds], 95)
    return [
        Figure(f"{name}: all queries, p95", everything, gate=100, goal=30),
        *(Figure(f"{name}: {query}, p95", value, gate=100, goal=30) for value, query in each[:3]),
    ]


# --- the rows -------------------------------------------------------------------------------------

_NUMBERS = """WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers
 WHERE i + 1 < {groups})"""

#: 97 of a hundred completed, two failed, one cancelled.
_STATUS = "CASE WHEN i % 100 < 97 THEN 'completed' WHEN i % 100 < 99 THEN 'failed' ELSE 'cancelled' END"
#: Every 10,000th group is somebody's who seldom comes, on a backend that is seldom used.
_RARE = "i % 10000 = 4242"

_WORKFLOW = '{"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}' + " " * 1_200


def fill_sqlite(path: Path, groups: int) -> None:
    words = {
        "group_id": "printf('jg_%012x', i)",
        "child_id": "printf('j_%012x', i * 4 + place)",
        "scene": "printf('%03d', i / 10 % 1000)",
        # As Django writes it: a year's groups, the last one today's.
        "moment": ("strftime('%Y-%m-%d %H:%M:%S', '2025-07-01', (i * 31536000 / {groups}) || ' seconds') || '.001000'"),
        "true": "1",
        "false": "0",
    }
    database = sqlite3.connect(path)
    with database:
        _fill(database.execute, words, groups)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def fill_postgres(connection: psycopg.Connection[object], groups: int) -> None:
    words = {
        "group_id": "'jg_' || lpad(to_hex(i), 12, '0')",
        "child_id": "'j_' || lpad(to_hex(i * 4 + place), 12, '0')",
        "scene": "lpad((i / 10 % 1000)::text, 3, '0')",
        "moment": ("'2025-07-01T00:00:00.001Z'::timestamptz + i * (31536000.0 / {groups}) * interval '1 s'"),
        "true": "true",
        "false": "false",
    }
    _fill(lambda text: connection.execute(text.encode()), words, groups)
    # The server does this by itself, some minutes after so many insertions.
    connection.execute("VACUUM ANALYZE")


def _fill(execute: Callable[[str], object], words: dict[str, str], groups: int) -> None:
    numbers = _NUMBERS.format(groups=groups)
    filled = {name: text.format(groups=groups) for name, text in words.items()}
    for name in ("groups", "labels", "children"):
        one = Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
        execute(one.format(numbers=numbers, workflow=_WORKFLOW, status=_STATUS, rare=_RARE, **filled))
