"""Locks that die with their process: who holds a runner's name takes over that name's leases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import filelock
import psycopg
from django.db import connection

#: Seconds that a connection may take to stand.
_CONNECT_WITHIN: Final = 3
#: Seconds of silence after which PostgreSQL asks whether a lock's holder is alive, and lets go of it
#: when nobody says so: a machine that vanished would else hold its lock for two hours.
_ASK_AFTER: Final = 10


class AlreadyLocked(Exception):
    """Another process holds this lock; it is alive."""


class Lock(Protocol):
    """What is held by one process at a time."""

    def try_acquire(self) -> bool:
        """Take the lock, and return whether it is held now."""

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyLocked: another process has it.
        """

    def ensure_held(self) -> bool:
        """Return whether the lock is held still, taken again if it was lost."""

    def release(self) -> None:
        """Let go of the lock."""


class FileLock:
    """A lock on a file, released by the operating system whatever ends the process.

    Args:
        path: of the lock's file; its folder must exist.
        refusal: what :class:`AlreadyLocked` says, a sentence or two.
    """

    def __init__(self, path: Path, refusal: str) -> None:
        self._lock = filelock.FileLock(path)
        self._refusal = refusal

    def try_acquire(self) -> bool:
        """Take the lock, and return whether it is held now."""
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        return True

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyLocked: another process has it.
        """
        if not self.try_acquire():
            raise AlreadyLocked(self._refusal)

    def ensure_held(self) -> bool:
        """Return True: nothing but its process's end takes a file's lock away."""
        return True

    def release(self) -> None:
        """Let go of the lock."""
        self._lock.release()


class DatabaseLock:
    """A session's advisory lock in PostgreSQL, released by the server whatever ends the process.

    Args:
        subject: what is locked, within this database; no other program's.
        refusal: what :class:`AlreadyLocked` says, a sentence or two.
    """

    def __init__(self, subject: str, refusal: str) -> None:
        self._subject = subject
        self._refusal = refusal
        self._connection: psycopg.Connection[Any] | None = None

    def try_acquire(self) -> bool:
        """Take the lock, and return whether it is held now.

        Raises:
            psycopg.OperationalError: the server does not answer.
        """
        if self._connection is None:
            self._connection = dedicated_connection()
            if self._connection.info.host and not self._connection.info.host.startswith("/"):
                for name, value in (("idle", _ASK_AFTER), ("interval", 5), ("count", 3)):
                    self._connection.execute(f"SET tcp_keepalives_{name} = {value}")
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        row = self._connection.execute(query, [self._subject]).fetchone()
        return row is not None and bool(row[0])

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyLocked: another process has it.
            psycopg.OperationalError: the server does not answer.
        """
        if not self.try_acquire():
            self.release()
            raise AlreadyLocked(self._refusal)

    def ensure_held(self) -> bool:
        """Return whether the lock is held still, taken again if its connection broke.

        False: the server has not noticed yet that the old connection is gone, or another process was
        faster. Which of both, the runner's row says.

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
        """Let go of the lock."""
        taken, self._connection = self._connection, None
        if taken is not None:
            taken.close()


def dedicated_connection() -> psycopg.Connection[Any]:
    """Connect to PostgreSQL beside the pool: a session's lock lives and dies with its connection.

    Raises:
        psycopg.OperationalError: the server does not answer within seconds, or refuses.
    """
    parameters = {**connection.get_connection_params(), "connect_timeout": _CONNECT_WITHIN}
    return psycopg.connect(**parameters, autocommit=True)
