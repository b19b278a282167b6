"""A farm's database: what the killer asks, a watch on who writes, and the copy that is kept."""

import datetime as dt
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg

_TABLES: Final = (
    "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename ~ '^(backends|jobgroups|chaos)_'"
)


def watch_writers(database: psycopg.Connection[Any]) -> None:
    """Have the database itself note each write about an attempt by a runner without its lease."""
    database.execute(Path(__file__).with_name("watch.sql").read_bytes())


def copy(database: psycopg.Connection[Any], to: Path) -> None:
    """Copy the tables into an SQLite file, so that no server is needed to look at them."""
    with closing(sqlite3.connect(to)) as copied, copied:
        for (table,) in database.execute(_TABLES).fetchall():
            found = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 our own names
            assert found.description is not None
            names = [f'"{column.name}"' for column in found.description]
            copied.execute(f'CREATE TABLE "{table}" ({", ".join(names)})')
            query = f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(names))})'  # noqa: S608
            copied.executemany(query, [[_plain(value) for value in row] for row in found])


def _plain(value: Any) -> Any:
    """Return a value as Django keeps it in SQLite."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")
    return json.dumps(value) if isinstance(value, dict | list) else value
