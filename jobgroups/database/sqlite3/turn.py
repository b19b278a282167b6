"""The order in which processes write to one SQLite file.

SQLite's own lock remains the truth: a process that gets no turn within a bound writes without one.
"""

import os
import sys
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

if sys.platform != "win32":
    import fcntl

#: Seconds for which a process waits for the others; a transaction takes milliseconds.
_WITHIN: Final = 1.0


class Turn:
    """A turnstile of two file locks beside a database, for one thread of a process at a time.

    A process locks ``next``, then ``now``, releases ``next``, writes, and releases ``now``: after
    its commit it cannot overtake the process that has ``next``. The system releases the locks of a
    process that ends.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        #: Descriptors of ``next`` and ``now``; None: not opened yet.
        self._locks: tuple[int, int] | None = None
        self._has_locks = True  #: Whether this system, and this file system, has such locks.
        #: Whether the thread for that waits, for this transaction or for an earlier one.
        self._is_waiting = False
        self._waits: SimpleQueue[tuple[tuple[int, int], Future[None]]] | None = None

    def begin(self) -> bool:
        """Wait for the turn; return whether this process has it. If not, it writes without."""
        if self._is_waiting or not self._has_locks:
            return False
        try:
            if self._locks is None:
                self._locks = (
                    _open(f"{self._database}.next-lock"),
                    _open(f"{self._database}.now-lock"),
                )
            return _pass(self._locks, waits=False) or self._wait(self._locks)
        except OSError:
            self._has_locks = False
            return False

    def is_wanted(self) -> bool:
        """Return whether another process waits for the turn that this one has."""
        if self._locks is None:
            return False
        if is_free := _lock(self._locks[0], waits=False):
            _unlock(self._locks[0])
        return not is_free

    def end(self) -> None:
        """Leave the turn to the next process."""
        if self._locks is not None:
            _unlock(self._locks[1])

    def _wait(self, locks: tuple[int, int]) -> bool:
        """Wait in a thread: such a wait has no bound of its own, and a process that holds the lock
        may be suspended.
        """
        if self._waits is None:
            self._waits = SimpleQueue()
            threading.Thread(
                target=self._wait_in_thread, args=[self._waits], name="turn", daemon=True
            ).start()
        self._is_waiting = True
        has_turn = Future[None]()
        self._waits.put((locks, has_turn))
        try:
            has_turn.result(_WITHIN)
        except TimeoutError:
            return not has_turn.cancel()
        return True

    def _wait_in_thread(self, waits: SimpleQueue[tuple[tuple[int, int], Future[None]]]) -> None:
        while True:
            locks, has_turn = waits.get()
            _pass(locks, waits=True)
            is_late = not has_turn.set_running_or_notify_cancel()
            if is_late:
                _unlock(locks[1])
            self._is_waiting = False
            if not is_late:
                has_turn.set_result(None)


def _pass(locks: tuple[int, int], *, waits: bool) -> bool:
    """Go through the turnstile; return False if another process is in it, and this one does not
    wait.
    """
    following, now = locks
    if not _lock(following, waits=waits):
        return False
    try:
        return _lock(now, waits=waits)
    finally:
        _unlock(following)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _lock(lock: int, *, waits: bool) -> bool:
    if sys.platform == "win32":
        raise OSError("this system has no such locks")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(lock: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(lock, fcntl.LOCK_UN)
