"""The database backend that settings name for SQLite.

SQLite has one writer at a time. Who meets another sleeps, tries again, and sleeps longer each time, up to a
tenth of a second; whoever writes without pause, as a runner does, is always there first, and a submission
waits for seconds. In one process nobody has to guess: writers take turns. Between processes it stays as it is.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Final

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from jobgroups.database.sqlite3.fifo_lock import FifoLock

#: By the file.
_locks: Final[defaultdict[str, FifoLock]] = defaultdict(FifoLock)
_guard: Final = threading.Lock()
#: Seconds, as sqlite3 itself takes where OPTIONS say nothing.
_TIMEOUT: Final = 5.0


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, but that a transaction waits for its turn in this process before it begins.

    (What is overridden here is not public, and unknown to the stubs.)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Whose turn it is while a transaction is open.
        self._held_lock: FifoLock | None = None

    @property
    def has_waiting_writers(self) -> bool:
        """Whether somebody waits for the turn that is this connection's."""
        return self._held_lock is not None and self._held_lock.has_waiters

    def _start_transaction_under_autocommit(self) -> None:
        with _guard:
            turns = _locks[str(self.settings_dict["NAME"])]
        within = float(self.settings_dict["OPTIONS"].get("timeout", _TIMEOUT))
        if not turns.acquire(within):
            # As SQLite says it: whoever tries again on that does so here.
            raise OperationalError("database is locked")
        self._held_lock = turns
        try:
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
        turn, self._held_lock = self._held_lock, None
        if turn is not None:
            turn.release()
