"""The bridge from the runner's loop to its database threads. The only crossing in the runner."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

#: What the database's state can cause. Anything else (a violated constraint) is a defect of ours.
TRANSIENT: Final = (OperationalError, InterfaceError, InternalError)
#: Seconds: the first and the longest pause before a write is repeated.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
#: So many units of work share a commit at most; fewer where somebody else waits to write.
_MAX_BATCH: Final = 16


class DatabaseThreads:
    """Threads with connections of their own, kept open between units of work.

    Args:
        threads: how many; 1 on SQLite, which has one writer anyway.
        name: of the threads, for logs and debuggers.
        together: whether what has come to wait meanwhile is committed at once. For SQLite, where a
            commit waits for the disk and everybody for the commit. Not where rows are locked: units of
            work that share a transaction take their locks in no order.
    """

    def __init__(self, *, threads: int, name: str, batch_commits: bool = False) -> None:
        self._batch_commits = batch_commits
        self._waiting: deque[_Job] = deque()
        #: The number of units of work that wait or run.
        self.load = 0
        self._connections: list[BaseDatabaseWrapper] = []
        self._executor = ThreadPoolExecutor(
            max_workers=threads, thread_name_prefix=name, initializer=self._keep_connection
        )

    def _keep_connection(self) -> None:
        own = connections[DEFAULT_DB_ALIAS]
        own.inc_thread_sharing()  # it is closed after the thread, and so from another one
        self._connections.append(own)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one unit of work in a database thread; what it returns is stored by then."""
        unit = _Job(functools.partial(work, *args, **kwargs))
        self._waiting.append(unit)
        # A turn each: one that finds nothing left has had its unit done by another's.
        self._executor.submit(self._run_next)
        self.load += 1
        try:
            result: R = await asyncio.wrap_future(unit.done)
        finally:
            self.load -= 1
        return result

    def _run_next(self) -> None:
        unit = self._next()
        if unit is None:
            return
        if self._batch_commits and self._waiting:
            self._run_batch(unit)
        else:
            unit.run()

    def _next(self) -> _Job | None:
        """Return the unit of work that has waited longest and is still wanted."""
        with contextlib.suppress(IndexError):
            while True:
                unit = self._waiting.popleft()
                if unit.done.set_running_or_notify_cancel():
                    return unit
        return None

    def _run_batch(self, first: _Job) -> None:
        """Run units of work in one transaction, each within a savepoint of its own, and tell their outcomes.

        What a unit raises ends itself alone. Where the database refuses anything, the commit too, or
        what was raised left the transaction unusable, nothing was stored and nobody told anything: each
        is run again for itself.
        """
        # From the start: a transaction that cannot begin must not cost the first one its answer.
        units = [first]
        try:
            _make_usable()
            with transaction.atomic():
                outcomes = [_outcome_in_transaction(first.work)]
                while len(units) < _MAX_BATCH and not _writers_waiting():
                    unit = self._next()
                    if unit is None:
                        break
                    units.append(unit)
                    outcomes.append(_outcome_in_transaction(unit.work))
        except Exception:  # noqa: BLE001 whatever it was, each unit of work meets its own again
            for unit in units:
                unit.run()
            return
        for unit, outcome in zip(units, outcomes, strict=True):
            unit.set_result(*outcome)

    async def run_with_retry(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work again and again until the database takes it.

        A database error is never an outcome: what is known is held here until it is stored. What
        the unit of work itself raises (``LeaseLost`` above all) ends the trying.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self.run(work, *args, **kwargs)
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
        """Wait for what is under way, end the threads, and close their connections."""
        self._executor.shutdown(wait=True)
        # Only now: a thread that is still at work opens its connection anew. In a thread, since Django
        # lets nobody close one in a loop's.
        closing = threading.Thread(target=self._close_connections, name="closing")
        closing.start()
        closing.join()

    def _close_connections(self) -> None:
        for one in self._connections:
            one.close()


def _make_usable() -> None:
    # CONN_MAX_AGE is 0 for the web's sake; here the thread keeps its connection until it breaks.
    if connection.errors_occurred and not connection.is_usable():
        connection.close()


@dataclass(frozen=True, slots=True)
class _Job:
    """A unit of work, and where its outcome is told."""

    work: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        self.set_result(*_outcome(self._work_on_a_usable_connection))

    def _work_on_a_usable_connection(self) -> Any:
        _make_usable()
        return self.work()

    def set_result(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 handed to whoever waits for it
        return None, error


class _BatchAborted(Exception):
    """One of the units of work keeps the others from being committed."""


def _writers_waiting() -> bool:
    """Whether somebody in this process waits to write, as far as the database's backend knows."""
    return bool(getattr(connection, "has_waiting_writers", False))


def _outcome_in_transaction(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    result, error = _outcome(work)
    if connection.needs_rollback or isinstance(error, TRANSIENT):
        raise _BatchAborted from error
    return result, error
