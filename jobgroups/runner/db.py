"""The bridge from the runner's loop to its database threads. The only crossing in the runner."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

#: What the database's state can cause. Anything else (a violated constraint) is a defect of ours.
TRANSIENT: Final = (OperationalError, InterfaceError, InternalError)
#: Seconds: the first and the longest pause before a write is repeated.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


class Database:
    """Threads with connections of their own, kept open between units of work.

    Args:
        threads: how many; 1 on SQLite, which has one writer anyway.
        name: of the threads, for logs and debuggers.
    """

    def __init__(self, *, threads: int, name: str) -> None:
        self._closed = False
        self._started = itertools.count()
        self._executor = ThreadPoolExecutor(
            max_workers=threads, thread_name_prefix=name, initializer=lambda: next(self._started)
        )

    async def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one unit of work in a database thread, once."""
        bound = functools.partial(_with_usable_connection, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, bound)

    async def store(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work again and again until the database takes it.

        A database error is never an outcome: what is known is held here until it is stored. What
        the unit of work itself raises (``LeaseLost`` above all) ends the trying.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self.call(work, *args, **kwargs)
            except TRANSIENT as error:
                logger.warning(
                    "The database did not take %s (%s); trying again in %.1f s.",
                    getattr(work, "__name__", "a write"),
                    str(error).strip() or type(error).__name__,
                    pause,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        """Wait for what is under way, close the threads' connections, and end the threads. Once."""
        if self._closed:
            return
        self._closed = True
        # Each thread must close its own connection: none takes a second turn before all had one.
        threads = next(self._started)
        everybody = threading.Barrier(threads) if threads else None
        for _ in range(threads):
            self._executor.submit(_close_connection, everybody)
        self._executor.shutdown(wait=True)


def _close_connection(everybody: threading.Barrier | None) -> None:
    if everybody is not None:
        with contextlib.suppress(threading.BrokenBarrierError):
            everybody.wait(timeout=_LONGEST_PAUSE)
    connection.close()


def _with_usable_connection(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    # CONN_MAX_AGE is 0 for the web's sake; here the thread keeps its connection until it breaks.
    if connection.errors_occurred and not connection.is_usable():
        connection.close()
    return work(*args, **kwargs)
