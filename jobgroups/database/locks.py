"""Locks that are released when their process ends.

The holder of the lock on a runner's name owns that runner's leases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock
from django.db import connection

# A process without a database, which has a lock on a file alone, does not need it.
if TYPE_CHECKING:
    import psycopg

_CONNECT_WITHIN: Final = 3  #: Seconds for opening a connection.
#: Seconds of silence after which PostgreSQL probes the connection of a lock's holder (TCP
#: keepalive). Without it a host that vanished would keep its lock for two hours.
_KEEPALIVE_IDLE: Final = 10


class AlreadyLocked(Exception):
    """Another process holds this lock."""


class Lock(ABC):
    """A lock that one process holds at a time; ``refusal`` is the message of
    :class:`AlreadyLocked`.

    Methods raise Django's errors if PostgreSQL does not answer.
    """

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal

    @abstractmethod
    def try_acquire(self) -> bool:
        """Try to acquire the lock and return whether it is held now."""

    def acquire(self) -> None:
        if not self.try_acquire():
            self.release()
            raise AlreadyLocked(self._refusal)

    @abstractmethod
    def ensure_held(self) -> bool:
        """Acquire the lock again if it was lost, and return whether it is held."""

    @abstractmethod
    def release(self) -> None:
        """Release the lock."""


class FileLock(Lock):
    """A lock on a file, whose folder must exist; the operating system releases it when the process
    ends.
    """

    def __init__(self, path: Path, refusal: str) -> None:
        super().__init__(refusal)
        self._lock = filelock.FileLock(path, thread_local=False)

    def try_acquire(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        return True

    def ensure_held(self) -> bool:
        # A file lock is not lost before its process ends.
        return True

    def release(self) -> None:
        self._lock.release()


class DatabaseLock(Lock):
    """A session-level advisory lock; PostgreSQL releases it when the connection ends.

    ``subject`` is the name of the lock within this database, unique among all programs.
    """

    def __init__(self, subject: str, refusal: str) -> None:
        super().__init__(refusal)
        self._subject = subject
        self._connection: psycopg.Connection[Any] | None = None

    def try_acquire(self) -> bool:
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        with connection.wrap_database_errors:
            if self._connection is None:
                self._connection = dedicated_connection()
                if self._connection.info.host and not self._connection.info.host.startswith("/"):
                    for name, value in (("idle", _KEEPALIVE_IDLE), ("interval", 5), ("count", 3)):
                        self._connection.execute(f"SET tcp_keepalives_{name} = {value}")
            row = self._connection.execute(query, [self._subject]).fetchone()
        return row is not None and bool(row[0])

    def ensure_held(self) -> bool:
        """Acquire the lock again if its connection broke, and return whether it is held.

        False means that the server has not noticed yet that the old connection is gone, or that
        another process acquired the lock. The runner's row shows which.
        """
        import psycopg  # noqa: PLC0415 see above

        with connection.wrap_database_errors:
            if self._connection is not None:
                try:
                    self._connection.execute("SELECT 1")
                except psycopg.OperationalError:
                    self.release()
                else:
                    return True
            held = self.try_acquire()
        if not held:
            self.release()
        return held

    def release(self) -> None:
        lost, self._connection = self._connection, None
        if lost is not None:
            lost.close()


def lock_of_database(what: str, refusal: str = "") -> Lock:
    """Return a lock that the processes of one database share: beside an SQLite file, or in
    PostgreSQL.
    """
    if connection.vendor == "sqlite":
        path = Path(connection.settings_dict["NAME"])
        return FileLock(path.with_name(f"{path.name}.{what}-lock"), refusal)
    return DatabaseLock(f"comfyui-director: {what}", refusal)


def dedicated_connection() -> psycopg.Connection[Any]:
    """Open a connection outside Django's: a session-level lock lasts as long as its connection.

    Raises ``psycopg.OperationalError`` if the server does not answer within seconds, or refuses.
    """
    import psycopg  # noqa: PLC0415 see above

    parameters = {**connection.get_connection_params(), "connect_timeout": _CONNECT_WITHIN}
    return psycopg.connect(**parameters, autocommit=True)
