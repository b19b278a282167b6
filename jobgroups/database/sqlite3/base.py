"""The database backend that settings name for SQLite.

SQLite has one writer at a time; the others poll for the lock with growing pauses of up to 0.1 s. A
thread that writes without pause, as a runner does, wins every time, and a submission waits for
seconds. Within a process, a FIFO lock orders the writers; between processes, the locks of ``turn``.
"""

import threading
from collections import defaultdict, deque
from typing import Any, Final

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from jobgroups.database.sqlite3.turn import Turn


class FifoLock:
    """A lock that goes to the thread that has waited longest.

    ``threading.Lock`` has no order: a thread that releases it and acquires it again can keep the
    others waiting for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiting)

    def acquire(self, timeout: float) -> bool:
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return True
            waiter = threading.Lock()
            waiter.acquire()
            self._waiting.append(waiter)
        if waiter.acquire(timeout=timeout):
            return True
        with self._guard:
            if waiter not in self._waiting:
                # The lock was handed over right after the timeout.
                return True
            self._waiting.remove(waiter)
        return False

    def release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False


_locks: Final[defaultdict[str, FifoLock]] = defaultdict(FifoLock)  #: By the database file.
#: Of this process, by the database file; of the thread with its lock.
_turns: Final[dict[str, Turn]] = {}
_guard: Final = threading.Lock()
_TIMEOUT: Final = 5.0  #: Seconds; the default of sqlite3.


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's wrapper; a transaction acquires the process's FIFO lock and the process's turn
    before it begins.

    The overridden methods are not public and missing in the stubs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held_lock: FifoLock | None = None  #: Set while a transaction is open.
        self._turn: Turn | None = None  #: Set while this process has its turn.

    @property
    def has_waiting_writers(self) -> bool:
        """Whether another thread waits for the lock that this connection holds."""
        return self._held_lock is not None and self._held_lock.has_waiters

    @property
    def has_waiting_processes(self) -> bool:
        """Whether another process waits for the turn that this connection has."""
        return self._turn is not None and self._turn.is_wanted()

    def _start_transaction_under_autocommit(self) -> None:
        name = str(self.settings_dict["NAME"])
        with _guard:
            lock = _locks[name]
            turn = _turns.setdefault(name, Turn(name))
        timeout = float(self.settings_dict["OPTIONS"].get("timeout", _TIMEOUT))
        if not lock.acquire(timeout):
            # SQLite's own message: callers repeat their transaction after it.
            raise OperationalError("database is locked")
        self._held_lock = lock
        try:
            # A database in memory has no other processes.
            if not self.is_in_memory_db() and turn.begin():
                self._turn = turn
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._release_lock()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        self._release_lock()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._release_lock()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._release_lock()

    def _release_lock(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end()
        lock, self._held_lock = self._held_lock, None
        if lock is not None:
            lock.release()
