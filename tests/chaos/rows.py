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

# Each runner's connections bear its name. The runner that writes about an attempt holds the lease's
# row until it commits, so what is compared here is what holds when it commits.
_WATCH: Final = """
CREATE TABLE chaos_trespass (at timestamptz, who text, did text, prompt_id text, holder text);
CREATE FUNCTION chaos_watch() RETURNS trigger AS $$
DECLARE
    who text := current_setting('application_name');
    lease jobgroups_lease%ROWTYPE;
BEGIN
    IF who LIKE 'runner-%' THEN
        SELECT * INTO lease FROM jobgroups_lease WHERE backend_id = NEW.backend_id;
        IF lease.runner <> who OR (TG_OP = 'INSERT' AND lease.epoch <> NEW.epoch) THEN
            INSERT INTO chaos_trespass
            VALUES (clock_timestamp(), who, TG_OP, NEW.prompt_id, lease.runner || ' ' || lease.epoch);
        END IF;
    END IF;
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER chaos_watch BEFORE INSERT OR UPDATE ON jobgroups_attempt
FOR EACH ROW EXECUTE FUNCTION chaos_watch();
"""


def watch_writers(database: psycopg.Connection[Any]) -> None:
    """Have the database itself note each write about an attempt by a runner without its lease."""
    database.execute(_WATCH)


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
