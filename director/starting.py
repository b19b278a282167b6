"""What ``serve`` and ``runner`` do before they begin: the runner's name, the database, its tables."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from backends.services import BackendInvalid, backends_ensure
from jobgroups.leasing import NAME_LOCK
from jobgroups.runner.locks import DatabaseLock, FileLock, Lock, own_connection

Say = Callable[[str], object]

#: SQLite has one writer, so it has one runner, whatever the machine's name.
SQLITE_RUNNER: Final = "local"
#: Letters of a name that a row holds.
_MOST_LETTERS: Final = 100
#: Seconds between two looks for what is waited for, and between two sentences about it.
_LOOK_EVERY: Final = 1.0
_SAY_EVERY: Final = 60.0
#: PostgreSQL's words for what passes by itself; any other refusal needs a person.
_PASSES: Final = re.compile(
    r"starting up|shutting down|recovery|too many clients|slots are reserved"
)


class CannotStart(Exception):
    """The database cannot be used as it is, or a setting is wrong; the message says what to do."""


# --- the runner's name ----------------------------------------------------------------------------


def runner_name(given: str | None = None) -> str:
    """Return the name under which this process's runner is known: this machine's unless given."""
    if settings.DIRECTOR_ON_SQLITE:
        return SQLITE_RUNNER
    return (given or platform.node() or "runner")[:_MOST_LETTERS]


def runner_lock(name: str) -> Lock:
    """Return the lock on a runner's name. It dies with its process, and lies where the rows do."""
    if settings.DIRECTOR_ON_SQLITE:
        return FileLock(
            _beside_database("runner"),
            f"A runner is already running with the database {_sqlite_path()}, which can have one."
            " `serve` has one of its own: use `serve --no-runner` beside `runner`, or stop it first.",
        )
    return DatabaseLock(
        f"{NAME_LOCK}{name}",
        f"A runner named {name} is already running with this database. Stop it first, or give this"
        " one a name of its own (`runner --name`).",
    )


def _sqlite_path() -> Path:
    return Path(settings.DATABASES["default"]["NAME"])


def _beside_database(what: str) -> Path:
    path = _sqlite_path()
    return path.with_name(f"{path.name}.{what}-lock")


# --- the database ---------------------------------------------------------------------------------


def reach_database(say: Say) -> None:
    """Return once the database can be reached: after a power cut its server may be the last to come.

    Args:
        say: takes a sentence for the person who started this, while the server is waited for.

    Raises:
        CannotStart: waiting would not help.
    """
    if settings.DIRECTOR_ON_SQLITE:
        folder = _sqlite_path().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise CannotStart(
                f"The database {_sqlite_path()} does not open: {folder} is no folder that can be"
                " written. DIRECTOR_DATABASE_URL or DIRECTOR_DATA_DIR says where it is."
            )
        return
    waiting = _Waiting(say)
    while (reason := why_away()) is not None:
        waiting.on(
            f"PostgreSQL does not answer ({reason}). Waiting for it; Ctrl-C ends this."
            " DIRECTOR_DATABASE_URL says where it is."
        )


def open_database(*, migrate: bool, say: Say) -> None:
    """Have the tables made, or wait for them, and register the backends that settings name.

    Args:
        migrate: whether to make the tables; else they are waited for.
        say: takes a sentence for the person who started this, whenever something is waited for.

    Raises:
        CannotStart: waiting would not help.
    """
    try:
        if migrate:
            with _alone(say):
                call_command("migrate", verbosity=0, interactive=False)
        else:
            _wait_for_tables(say)
        backends_ensure(settings.DIRECTOR_BACKENDS)
    except (DatabaseError, psycopg.Error) as error:
        raise CannotStart(
            f"The database does not open: {_first_line(error)}. DIRECTOR_DATABASE_URL or"
            " DIRECTOR_DATA_DIR says where it is."
        ) from error
    except BackendInvalid as error:
        raise CannotStart(f"DIRECTOR_BACKENDS: {error}") from error
    finally:
        connection.close()


def why_away() -> str | None:
    """Return why PostgreSQL's server does not answer, None if it does.

    Raises:
        CannotStart: it has answered, and refuses.
    """
    try:
        own_connection().close()
    except psycopg.OperationalError as error:
        said = str(error)
        if "FATAL" in said and not _PASSES.search(said):
            raise CannotStart(
                f"PostgreSQL refuses: {said.rpartition('FATAL:')[2].strip()}."
                " DIRECTOR_DATABASE_URL says which database it is, and who asks."
            ) from error
        found = re.search(r"(?:failed|FATAL): +(?!FATAL|error)(.+)", said)
        return found[1] if found else _first_line(error)
    return None


@contextmanager
def _alone(say: Say) -> Iterator[None]:
    """Let one process at a time make tables, whoever starts together."""
    lock: Lock = (
        FileLock(_beside_database("tables"), "")
        if settings.DIRECTOR_ON_SQLITE
        else DatabaseLock("comfyui-director: tables", "")
    )
    waiting = _Waiting(say)
    while not lock.try_acquire():
        waiting.on("Another process is making the database's tables; waiting for it.")
    try:
        yield
    finally:
        lock.release()


def _wait_for_tables(say: Say) -> None:
    waiting = _Waiting(say)
    while True:
        executor = MigrationExecutor(connection)
        if not executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return
        waiting.on(
            "The database lacks tables of this version. Waiting until `manage.py migrate`, or a"
            " Director that starts without --no-migrate, has made them; Ctrl-C ends this."
        )


class _Waiting:
    """Says what is waited for at once, and again every minute; sleeps in between."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._said_at = float("-inf")

    def on(self, sentence: str) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY:
            self._said_at = time.monotonic()
            self._say(sentence)
        time.sleep(_LOOK_EVERY)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_not(error: DatabaseError) -> str | None:
    """Return what to tell whoever ran a command that met a database error; None: it is a defect."""
    said, database = str(error), settings.DATABASES["default"]
    if "unable to open database file" in said:
        return (
            f"The database {database['NAME']} does not open. It is made by serve; set"
            " DIRECTOR_DATA_DIR (or DIRECTOR_DATABASE_URL) here as it is set there."
        )
    if "no such table" in said or ("relation" in said and "does not exist" in said):
        return (
            f"The database {database['NAME']} has no tables yet. They are made by serve: start it"
            " once, with the same DIRECTOR_DATA_DIR and DIRECTOR_DATABASE_URL."
        )
    if "couldn't get a connection" in said or "connection failed" in said:
        where = f"{database['HOST'] or 'localhost'}:{database['PORT'] or 5432}"
        return (
            f"PostgreSQL at {where} does not answer. Start it, or set DIRECTOR_DATABASE_URL to where"
            " it is."
        )
    return None


# --- several processes ----------------------------------------------------------------------------


def say_what_lacks(say: Say) -> None:
    """Say what a Director of several processes goes without, if it has no Redis."""
    if not settings.DIRECTOR_REDIS_URL:
        say(
            "Without DIRECTOR_REDIS_URL web and runner hear of each other through the database alone:"
            " work begins up to 5 s late, events come up to 2 s late, and progress and previews do"
            " not come live. Nothing is lost."
        )
