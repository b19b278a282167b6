"""Locks that are released when their process ends.

The holder of the lock on a runner's name owns that runner's leases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import filelock
import psycopg
from django.db import connection

#: Seconds for opening a connection.
_CONNECT_WITHIN: Final = 3
#: Seconds of silence after which PostgreSQL probes the connection of a lock's holder (TCP keepalive).
#: Without it a host that vanished would keep its lock for two hours.
_KEEPALIVE_IDLE: Final = 10


class AlreadyLocked(Exception):
    """Another process holds this lock."""


class Lock(Protocol):
    """A lock that one process holds at a time."""

    def try_acquire(self) -> bool:
        """Try to acquire the lock and return whether it is held now."""

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            AlreadyLocked: another process holds it.
        """

    def ensure_held(self) -> bool:
        """Acquire the lock again if it was lost, and return whether it is held."""

    def release(self) -> None:
        """Release the lock."""


class FileLock:
    """A lock on a file; the operating system releases it when the process ends.

    Args:
        path: the lock file; its folder must exist.
        refusal: the message of :class:`AlreadyLocked`.
    """

    def __init__(self, path: Path, refusal: str) -> None:
        self._lock = filelock.FileLock(path)
        self._refusal = refusal

    def try_acquire(self) -> bool:
        """Try to acquire the lock and return whether it is held now."""
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        return True

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            AlreadyLocked: another process holds it.
        """
        if not self.try_acquire():
            raise AlreadyLocked(self._refusal)

    def ensure_held(self) -> bool:
        """Return True: a file lock is not lost before its process ends."""
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


class DatabaseLock:
    """A session-level advisory lock; PostgreSQL releases it when the connection ends.

    Args:
        subject: the name of the lock within this database, unique among all programs.
        refusal: the message of :class:`AlreadyLocked`.
    """

    def __init__(self, subject: str, refusal: str) -> None:
        self._subject = subject
        self._refusal = refusal
        self._connection: psycopg.Connection[Any] | None = None

    def try_acquire(self) -> bool:
        """Try to acquire the lock and return whether it is held now.

        Raises:
            psycopg.OperationalError: the server does not answer.
        """
        if self._connection is None:
            self._connection = dedicated_connection()
            if self._connection.info.host and not self._connection.info.host.startswith("/"):
                for name, value in (("idle", _KEEPALIVE_IDLE), ("interval", 5), ("count", 3)):
                    self._connection.execute(f"SET tcp_keepalives_{name} = {value}")
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        row = self._connection.execute(query, [self._subject]).fetchone()
        return row is not None and bool(row[0])

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            AlreadyLocked: another process holds it.
            psycopg.OperationalError: the server does not answer.
        """
        if not self.try_acquire():
            self.release()
            raise AlreadyLocked(self._refusal)

    def ensure_held(self) -> bool:
        """Acquire the lock again if its connection broke, and return whether it is held.

        False means that the server has not noticed yet that the old connection is gone, or that another
        process acquired the lock. The runner's row shows which.

        Raises:
            django.db.OperationalError: the server does not answer.
        """
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
        """Release the lock."""
        lost, self._connection = self._connection, None
        if lost is not None:
            lost.close()


def dedicated_connection() -> psycopg.Connection[Any]:
    """Open a connection outside Django's: a session-level lock lasts as long as its connection.

    Raises:
        psycopg.OperationalError: the server does not answer within seconds, or refuses.
    """
    parameters = {**connection.get_connection_params(), "connect_timeout": _CONNECT_WITHIN}
    return psycopg.connect(**parameters, autocommit=True)
