"""Startup of ``serve``, ``runner`` and ``files``: the lock on the runner's name, the database, its
tables, the loop.
"""

import asyncio
import functools
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import Error as DatabaseError, connection
from django.db.migrations.loader import MigrationLoader

from backends.errors import BackendExists, FieldInvalid
from backends.models import Backend
from backends.probes import check_address
from backends.services import backends_ensure, normalise_address
from director.accounts.people import first_code, has_administrator
from director.server import data_dir, listen
from director.web.tables import is_migrated
from jobgroups.database.locks import DatabaseLock, Lock, dedicated_connection, lock_of_database
from jobgroups.metrics import open_files
from jobgroups.queries.leases import NAME_LOCK

Say = Callable[[str], object]  #: Prints a message for the operator.

SQLITE_RUNNER: Final = "local"  #: SQLite has one writer, so it has one runner on every machine.
_MAX_FILES: Final = 65_536
#: Messages of PostgreSQL for temporary conditions; any other refusal needs a person.
_TRANSIENT_MESSAGE: Final = re.compile(
    r"starting up|shutting down|recovery|too many clients|slots are reserved|terminating connection"
)
#: SQLSTATE codes of temporary conditions: broken connection (08), ended connection (25P03, 57P01 …
#: 57P05), too many connections (53300), read-only server (25006), conflicts with other
#: transactions.
_TRANSIENT_SQLSTATE: Final = re.compile(r"08...|25006|25P03|57P0[1-5]|53300|40001|40P01|55P03")


class CannotStart(Exception):
    """The database cannot be used as it is, or a setting is wrong; the message says what to do."""


def runner_name(given: str | None = None) -> str:
    """Return the name of this process's runner; the default is the name of the machine."""
    if settings.DIRECTOR_ON_SQLITE:
        return SQLITE_RUNNER
    # The database column has 100 characters.
    return (given or platform.node() or "runner")[:100]


def runner_lock(name: str) -> Lock:
    """Return the lock on a runner's name: beside an SQLite file, or in PostgreSQL. It ends with the
    process.
    """
    if settings.DIRECTOR_ON_SQLITE:
        return lock_of_database(
            "runner",
            f"A runner is already running with the database {_sqlite_path()}; SQLite allows one."
            " `serve` has one of its own: use `serve --no-runner` beside `runner`, or stop it "
            "first.",
        )
    return DatabaseLock(
        f"{NAME_LOCK}{name}",
        f"A runner named {name} is already running with this database. Stop it first, or give this"
        " one a name of its own (`runner --name`).",
    )


def _sqlite_path() -> Path:
    return Path(settings.DATABASES["default"]["NAME"])


def wait_for_database(say: Say) -> None:
    """Wait until the database accepts connections: after a power cut its server may start last.

    Raises ``CannotStart`` if the condition is permanent.
    """
    if settings.DIRECTOR_ON_SQLITE:
        folder = _sqlite_path().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise CannotStart(
                f"The database {_sqlite_path()} does not open: the folder {folder} does not exist "
                "or"
                " cannot be written. Check DIRECTOR_DATABASE_URL and DIRECTOR_DATA_DIR."
            )
        return
    wait = _waiting(say)
    while (reason := database_error()) is not None:
        wait(
            f"PostgreSQL does not answer ({reason}). Waiting; press Ctrl-C to stop."
            " Its address is in DIRECTOR_DATABASE_URL."
        )


def _check_address(say: Say, address: str) -> None:
    """Raise the errors of ``probes.check_address``, also for this Director, which does not answer
    yet.
    """
    url = urlsplit(normalise_address(address).url)
    if url.port == settings.DIRECTOR_COMFYUI_PORT and listen.is_own(url.hostname or ""):
        raise FieldInvalid("url", "It is the ComfyUI listener of this Director, not a ComfyUI.")
    try:
        check_address(address, None)
    except BackendExists as error:
        say(f"{url.netloc} of DIRECTOR_BACKENDS is not added: {error}")
        raise


def open_database(*, migrate: bool, say: Say) -> None:
    """Migrate the database, or wait until another process did; register ``DIRECTOR_BACKENDS`` and
    open the metrics.

    Raises ``CannotStart`` if a condition is permanent.
    """

    def opened() -> None:
        if migrate:
            with _migration_lock(say):
                # Django's command takes a tenth of a start also where nothing is to be done.
                if not (is_migrated() and _has_permissions()):
                    lines = SimpleNamespace(write=lambda text: say(text.rstrip()))
                    call_command("migrate", verbosity=0, interactive=False, stdout=lines)
        else:
            _wait_for_tables(say)
        if unknown := unknown_migrations():
            say(
                f"A newer version has migrated this database ({', '.join(unknown)}); this version "
                "works"
                " with the tables and ignores the additions."
            )
        backends_ensure(settings.DIRECTOR_BACKENDS, functools.partial(_check_address, say))

    try:
        _retry_while_unavailable(opened, say)
    except FieldInvalid as error:
        raise CannotStart(f"DIRECTOR_BACKENDS: {error}") from error
    open_metrics(say)


def open_tables(say: Callable[[str], None]) -> None:
    """Prepare folder, keys and tables as ``serve`` does, for a command that writes. Raises
    ``CommandError``.
    """
    try:
        data_dir.prepare(say)
        wait_for_database(say)
        open_database(migrate=True, say=say)
    except (CannotStart, data_dir.DataFolderUnusable) as error:
        raise CommandError(str(error)) from error


def say_first_code(port: int, say: Say) -> None:
    """Print how the first administrator is made, while there is none."""
    if settings.DIRECTOR_ACCOUNTS and not has_administrator():
        url = settings.DIRECTOR_PUBLIC_URL or f"http://localhost:{port}"
        say(f"No administrator yet. The first one opens {url}/sign-in/first/{first_code()}")


def open_metrics(say: Say) -> None:
    """Open the metrics of this process, over a migrated database. Raises ``CannotStart`` if a
    condition is permanent.
    """

    def opened() -> None:
        open_files(
            settings.DIRECTOR_DATA_DIR / "metrics",
            list(Backend.objects.values_list("pk", flat=True)),
        )

    _retry_while_unavailable(opened, say)


@contextmanager
def hold_lock(lock: Lock, say: Say) -> Iterator[None]:
    """Hold a lock on a runner's name or a folder; retry while PostgreSQL is unavailable.

    Raises ``AlreadyLocked`` if another process holds it, ``CannotStart`` if a condition is
    permanent.
    """

    def acquire() -> None:
        try:
            lock.acquire()
        except DatabaseError:
            lock.release()  # closes its broken connection
            raise

    _retry_while_unavailable(acquire, say)
    try:
        yield
    finally:
        lock.release()


def _retry_while_unavailable(work: Callable[[], None], say: Say) -> None:
    wait = _waiting(say)
    while True:
        try:
            work()
        except DatabaseError as error:
            message = _first_line(error)
            if settings.DIRECTOR_ON_SQLITE or not _is_transient(error):
                raise CannotStart(
                    f"The database does not open: {message}. Check DIRECTOR_DATABASE_URL and "
                    "DIRECTOR_DATA_DIR."
                ) from error
        else:
            return
        finally:
            connection.close()
        wait(f"PostgreSQL: connection lost ({message}). Retrying; press Ctrl-C to stop.")
        wait_for_database(say)


def _is_transient(error: BaseException | None) -> bool:
    import psycopg  # noqa: PLC0415 with SQLite no runner needs it: a tenth of its start

    while error is not None:
        if isinstance(error, psycopg.Error):
            if error.sqlstate is not None:
                return _TRANSIENT_SQLSTATE.fullmatch(error.sqlstate) is not None
            return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        # Django wraps the driver's error, and its migrations wrap that again without a cause.
        error = error.__cause__ or error.__context__
    return False


def database_error() -> str | None:
    """Return why PostgreSQL does not accept connections; None if it does.

    Raises ``CannotStart`` if the server refuses the connection permanently.
    """
    import psycopg  # noqa: PLC0415 as above

    try:
        dedicated_connection().close()
    except psycopg.OperationalError as error:
        message = str(error)
        if "FATAL" in message and not _TRANSIENT_MESSAGE.search(message):
            raise CannotStart(
                f"PostgreSQL refuses: {message.rpartition('FATAL:')[2].strip()}."
                " Check database and user in DIRECTOR_DATABASE_URL."
            ) from error
        match = re.search(r"(?:failed|FATAL): +(?!FATAL|error)(.+)", message)
        return match[1] if match else _first_line(error)
    return None


@contextmanager
def _migration_lock(say: Say) -> Iterator[None]:
    lock, wait = lock_of_database("tables"), _waiting(say)
    try:
        while not lock.try_acquire():
            wait("Another process migrates the database; waiting.")
        yield
    finally:
        lock.release()


def _wait_for_tables(say: Say) -> None:
    wait = _waiting(say)
    while not is_migrated():
        wait(
            "The database is not migrated to this version. Waiting for `manage.py migrate`, or for"
            " a Director without --no-migrate; press Ctrl-C to stop."
        )


def _has_permissions() -> bool:
    """Return whether there is what Django stores after the migrations: a process that is killed then
    has not stored all of it.
    """
    options = [model._meta for model in apps.get_models()]
    permissions = sum(len(each.default_permissions) + len(each.permissions) for each in options)
    return Permission.objects.count() >= permissions


def unknown_migrations() -> list[str]:
    """Return the migrations of a newer version that the database has, as ``app name``."""
    loader = MigrationLoader(connection)
    known = loader.disk_migrations or {}
    return sorted(
        f"{app} {name}"
        for app, name in loader.applied_migrations or {}
        # The table has what a squashed migration replaces, too.
        if app in loader.migrated_apps and (app, name) not in known and "_squashed_" not in name
    )


def _waiting(say: Say) -> Callable[[str], None]:
    """Return a function that sleeps between two attempts; it prints the reason at once, then every
    minute.
    """
    said_at = float("-inf")

    def wait(sentence: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= 60:
            said_at = time.monotonic()
            say(sentence)
        time.sleep(1)

    return wait


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explain_error(error: DatabaseError) -> str | None:
    """Return the message for a user whose command raised a database error; None: an unexpected
    error.
    """
    message, database = str(error), settings.DATABASES["default"]
    if "unable to open database file" in message:
        return (
            f"The database {database['NAME']} does not open. `serve` creates it: use the same"
            " DIRECTOR_DATA_DIR (or DIRECTOR_DATABASE_URL) as `serve`."
        )
    if "no such table" in message or ("relation" in message and "does not exist" in message):
        return (
            f"The database {database['NAME']} has no tables yet. `serve` creates them: start it"
            " once, with the same DIRECTOR_DATA_DIR and DIRECTOR_DATABASE_URL."
        )
    if "couldn't get a connection" in message or "connection failed" in message:
        where = f"{database['HOST'] or 'localhost'}:{database['PORT'] or 5432}"
        return f"PostgreSQL at {where} does not answer. Start it, or correct DIRECTOR_DATABASE_URL."
    return None


def use_fast_loop() -> None:
    """Use uvloop for new event loops: it needs less CPU with many sockets.

    Call it before a Twisted reactor is installed. Windows has no uvloop and keeps asyncio's loop.
    """
    if sys.platform == "win32":
        return
    import uvloop  # noqa: PLC0415 not installed on Windows

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def raise_file_limit() -> None:
    """Raise the limit of open files to the maximum that the system allows, at most 65,536.

    A backend needs two or three files, a client one: the usual 1,024 suffice for about 400
    backends.
    """
    try:
        import resource  # noqa: PLC0415 there is none on Windows
    except ImportError:
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if most == resource.RLIM_INFINITY else min(most, _MAX_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def limit_memory(size: int) -> None:
    """Bound the address space of this process, and of each program that it starts; 0: no bound.
    Windows has none.
    """
    if size and sys.platform != "win32":
        import resource  # noqa: PLC0415 there is none on Windows

        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if most == resource.RLIM_INFINITY else min(size, most)
        resource.setrlimit(resource.RLIMIT_AS, (size, most))


def lower_priority() -> None:
    """Leave the processor to other processes first. Windows has no such call."""
    if sys.platform != "win32":
        os.nice(5)


def warn_missing(say: Say) -> None:
    """Print what does not work in a Director of several processes without Redis."""
    if not settings.DIRECTOR_REDIS_URL:
        say(
            "Without DIRECTOR_REDIS_URL, web and runner communicate through the database only: jobs"
            " start up to 5 s late, events arrive up to 2 s late, and there is no live progress and"
            " no preview. Nothing is lost."
        )
