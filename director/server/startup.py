"""What ``serve`` and ``runner`` do before they begin: the runner's name, the database, its tables."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from backends.services import BackendInvalid, backends_ensure
from jobgroups.database.locks import DatabaseLock, FileLock, Lock, dedicated_connection
from jobgroups.queries.leases import NAME_LOCK

Say = Callable[[str], object]

#: SQLite has one writer, so it has one runner, whatever the machine's name.
SQLITE_RUNNER: Final = "local"
#: Letters of a name that a row holds.
_MOST_LETTERS: Final = 100
_MOST_FILES: Final = 65_536
#: Seconds between two looks for what is waited for, and between two sentences about it.
_LOOK_EVERY: Final = 1.0
_SAY_EVERY: Final = 60.0
#: PostgreSQL's words for what passes by itself; any other refusal needs a person.
_PASSES: Final = re.compile(
    r"starting up|shutting down|recovery|too many clients|slots are reserved|terminating connection"
)
#: And its codes for it, of a statement: a connection that broke (08), was ended (25P03, 57P01 … 57P05) or
#: finds no place (53300), a server that only reads for now (25006), rows and tables that somebody else has.
_PASSES_BY_ITSELF: Final = re.compile(r"08...|25006|25P03|57P0[1-5]|53300|40001|40P01|55P03")


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


def wait_for_database(say: Say) -> None:
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
    while (reason := database_error()) is not None:
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

    def opened() -> None:
        if migrate:
            with _migration_lock(say):
                call_command("migrate", verbosity=0, interactive=False)
        else:
            _wait_for_tables(say)
        _warn_if_newer(say)
        backends_ensure(settings.DIRECTOR_BACKENDS)

    try:
        _retry_while_unavailable(opened, say)
    except BackendInvalid as error:
        raise CannotStart(f"DIRECTOR_BACKENDS: {error}") from error


def acquire_lock(lock: Lock, say: Say) -> None:
    """Take a lock; one in PostgreSQL also where the server goes away meanwhile.

    Args:
        lock: on a runner's name, or on a folder.
        say: takes a sentence for the person who started this, while PostgreSQL is waited for.

    Raises:
        AlreadyLocked: another process has it.
        CannotStart: waiting would not help.
    """

    def held() -> None:
        try:
            lock.acquire()
        except psycopg.Error:
            lock.release()  # its connection, which is broken
            raise

    _retry_while_unavailable(held, say)


def _retry_while_unavailable(work: Callable[[], None], say: Say) -> None:
    """Do something with the database, from its beginning again where PostgreSQL goes away meanwhile."""
    waiting = _Waiting(say)
    while True:
        try:
            work()
        except (DatabaseError, psycopg.Error) as error:
            told = _first_line(error)
            if settings.DIRECTOR_ON_SQLITE or not _is_transient(error):
                raise CannotStart(
                    f"The database does not open: {told}. DIRECTOR_DATABASE_URL or"
                    " DIRECTOR_DATA_DIR says where it is."
                ) from error
        else:
            return
        finally:
            connection.close()
        waiting.on(f"PostgreSQL broke off ({told}). Trying again; Ctrl-C ends this.")
        wait_for_database(say)


def _is_transient(error: BaseException | None) -> bool:
    """Whether what PostgreSQL or the way to it did passes by itself. Where it refuses, it says so."""
    while error is not None:
        if isinstance(error, psycopg.Error):
            if error.sqlstate is not None:
                return _PASSES_BY_ITSELF.fullmatch(error.sqlstate) is not None
            return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        # Django wraps the driver's error, and its migrations wrap that once more without a cause.
        error = error.__cause__ or error.__context__
    return False


def database_error() -> str | None:
    """Return why PostgreSQL's server does not answer, None if it does.

    Raises:
        CannotStart: it has answered, and refuses.
    """
    try:
        dedicated_connection().close()
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
def _migration_lock(say: Say) -> Iterator[None]:
    """Let one process at a time make tables, whoever starts together."""
    lock: Lock = (
        FileLock(_beside_database("tables"), "")
        if settings.DIRECTOR_ON_SQLITE
        else DatabaseLock("comfyui-director: tables", "")
    )
    waiting = _Waiting(say)
    try:
        while not lock.try_acquire():
            waiting.on("Another process is making the database's tables; waiting for it.")
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


def _warn_if_newer(say: Say) -> None:
    """Say that a newer version has been here: whoever went back to this one wonders."""
    loader = MigrationLoader(connection)
    known = loader.disk_migrations or {}
    unknown = sorted(
        f"{app} {name}"
        for app, name in loader.applied_migrations or {}
        if app in loader.migrated_apps and (app, name) not in known
    )
    if unknown:
        say(
            f"A newer version has made this database's tables (with {', '.join(unknown)}); this one"
            " works with them and leaves what it does not know alone."
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


def explain_error(error: DatabaseError) -> str | None:
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


# --- open files -----------------------------------------------------------------------------------


def raise_file_limit() -> None:
    """Have as many open files as the system lets this process have, up to 65,536.

    Each backend takes two or three, each client one; 1,024, which is usual, end at some 400 backends.
    """
    try:
        import resource  # noqa: PLC0415 there is none on Windows
    except ImportError:
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


# --- several processes ----------------------------------------------------------------------------


def warn_missing(say: Say) -> None:
    """Say what a Director of several processes goes without, if it has no Redis."""
    if not settings.DIRECTOR_REDIS_URL:
        say(
            "Without DIRECTOR_REDIS_URL web and runner hear of each other through the database alone:"
            " work begins up to 5 s late, events come up to 2 s late, and progress and previews do"
            " not come live. Nothing is lost."
        )
