"""Runs database work of an event loop in threads.

The runner and the consumers access the database only through this class.
"""

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
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

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

#: Errors that the state of the database can cause. Any other error (a violated constraint) is a defect.
TRANSIENT: Final = (OperationalError, InterfaceError, InternalError)
#: Seconds: the first and the longest pause before a write is repeated.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
#: At most this many jobs share a commit; fewer if another thread waits to write.
_MAX_BATCH: Final = 16


class DatabaseThreads:
    """A pool of threads, each with a database connection.

    Args:
        threads: the number of threads; 1 on SQLite, which has one writer.
        name: the prefix of the thread names.
        batch_commits: whether queued jobs share a transaction, also those of :func:`write` in other threads. For
            SQLite, where each commit waits for the disk. Not for databases with row locks: jobs of one transaction
            would take them in any order.
        keeps_connections: whether a thread keeps its connection between jobs. If not, PostgreSQL's pool gets it back after
            each job: the pool has fewer connections than a process has threads. SQLite's is always kept.
    """

    #: The threads with batch commits in this process, if there are any.
    writer: ClassVar[DatabaseThreads | None] = None

    def __init__(self, *, threads: int, name: str, batch_commits: bool = False, keeps_connections: bool = True) -> None:
        self._batch_commits = batch_commits
        self._keeps_connections = keeps_connections
        self._waiting: deque[_Job] = deque()
        #: Jobs of :meth:`run_in_thread`: a person waits for them.
        self._urgent: deque[_Job] = deque()
        #: The number of jobs that wait or run.
        self.load = 0
        self._connections: list[BaseDatabaseWrapper] = []
        self._executor = ThreadPoolExecutor(
            max_workers=threads, thread_name_prefix=name, initializer=self._keep_connection
        )
        if batch_commits:
            DatabaseThreads.writer = self

    def _keep_connection(self) -> None:
        own = connections[DEFAULT_DB_ALIAS]
        own.inc_thread_sharing()  # another thread closes it, after this one has ended
        self._connections.append(own)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a database thread and return its result after the commit."""
        done = self.submit(functools.partial(work, *args, **kwargs))
        self.load += 1
        try:
            result: R = await asyncio.wrap_future(done)
        finally:
            self.load -= 1
        return result

    def submit(self, work: Callable[[], R], *, is_urgent: bool = False) -> Future[R]:
        """Have a function run; the result is there after the commit."""
        job = _Job(work if self._keeps_connections else functools.partial(_released, work))
        (self._urgent if is_urgent else self._waiting).append(job)
        try:
            # One call per job. A call that finds the queue empty had its job run in another call's batch.
            self._executor.submit(self._run_next)
        except RuntimeError:
            # The threads end. An earlier call may still run the job.
            if job.done.cancel():
                raise
        return job.done

    def run_in_thread(self, work: Callable[[], R]) -> R:
        """Run a function as :meth:`run` does, for a caller in another thread, which waits."""
        if connections[DEFAULT_DB_ALIAS] in self._connections:
            return work()
        try:
            done = self.submit(work, is_urgent=True)
        except RuntimeError:
            return work()
        return done.result()

    def _run_next(self) -> None:
        job = self._next(self._waiting) or self._next(self._urgent)
        if job is None:
            return
        if self._batch_commits and (self._waiting or self._urgent):
            self._run_batch(job)
        else:
            job.run()

    def _next(self, queue: deque[_Job]) -> _Job | None:
        """Return the oldest job of a queue that was not cancelled."""
        with contextlib.suppress(IndexError):
            while True:
                job = queue.popleft()
                if job.done.set_running_or_notify_cancel():
                    return job
        return None

    def _run_batch(self, first: _Job) -> None:
        """Run queued jobs in one transaction and set their results after the commit.

        After the first job the urgent ones follow; they wait for no others.
        An exception of a job fails that job alone. If the database refuses a statement or the commit, or
        an exception made the transaction unusable, nothing was stored: each job then runs alone.
        """
        # Begins with the first job: it also needs a result if the transaction cannot begin.
        jobs = [first]
        try:
            _make_usable()
            with transaction.atomic():
                outcomes = [_outcome_in_transaction(first.work)]
                has_urgent = False
                while len(jobs) < _MAX_BATCH and not _writers_waiting():
                    job = self._next(self._urgent)
                    has_urgent |= job is not None
                    if job is None and not has_urgent:
                        job = self._next(self._waiting)
                    if job is None:
                        break
                    jobs.append(job)
                    outcomes.append(_outcome_in_transaction(job.work))
        except Exception:  # noqa: BLE001 each job runs again and gets its own error
            for job in jobs:
                job.run()
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.set_result(*outcome)

    async def run_with_retry(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function, and repeat it after every transient database error.

        A database error is never an outcome: the caller waits until its data are stored. Any other
        exception of the function (such as ``LeaseLost``) is raised.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self.run(work, *args, **kwargs)
            except TRANSIENT as error:
                logger.warning(
                    "%s: database error (%s); retry in %.1f s.",
                    getattr(work, "__name__", "a write"),
                    str(error).strip() or type(error).__name__,
                    pause,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        """Wait for the running jobs, end the threads, and close their connections."""
        if DatabaseThreads.writer is self:
            DatabaseThreads.writer = None
        self._executor.shutdown(wait=True)
        # After the threads: a running one would open its connection again. In a thread: Django refuses to
        # close a connection in the thread of an event loop.
        closing = threading.Thread(target=self._close_connections, name="closing")
        closing.start()
        closing.join()

    def _close_connections(self) -> None:
        for one in self._connections:
            one.close()


def write(work: Callable[[], R]) -> R:
    """Run a function that writes and return its result after the commit.

    On SQLite it shares the queue and the commits of the process's writer, unless it is part of a transaction.
    """
    writer = DatabaseThreads.writer
    return work() if writer is None or connection.in_atomic_block else writer.run_in_thread(work)


def _released(work: Callable[[], R]) -> R:
    """Run a function, and return the connection to PostgreSQL's pool; keep SQLite's unless it had an error."""
    try:
        return work()
    finally:
        if connection.errors_occurred or connection.vendor != "sqlite":
            connection.close()


def _make_usable() -> None:
    # CONN_MAX_AGE is 0 for the web; here a thread keeps its connection until it breaks.
    if connection.errors_occurred and not connection.is_usable():
        connection.close()


@dataclass(frozen=True, slots=True)
class _Job:
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
    except BaseException as error:  # noqa: BLE001 raised in the task that awaits the result
        return None, error


class _BatchAborted(Exception):
    """A job made the shared transaction unusable."""


def _writers_waiting() -> bool:
    """Return whether another thread of this process waits to write; always False on PostgreSQL."""
    return bool(getattr(connection, "has_waiting_writers", False))


def _outcome_in_transaction(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    result, error = _outcome(work)
    if connection.needs_rollback or isinstance(error, TRANSIENT):
        raise _BatchAborted from error
    return result, error
