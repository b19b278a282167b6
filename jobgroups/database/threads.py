"""Runs database work of an event loop in threads.

The runner and the consumers access the database only through this class.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from django import db
from django.conf import settings
from django.db import connection, transaction

from jobgroups.database.shared_threads import ConnectedThreads, Share
from jobgroups.domain.newest import Newest
from jobgroups.metrics import database_seconds

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

#: Errors that the state of the database can cause. Any other error (a violated constraint) is a
#: defect.
TRANSIENT: Final = (db.OperationalError, db.InterfaceError, db.InternalError)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  #: Seconds before a write is repeated.
#: At most this many jobs share a commit; fewer if another thread waits to write.
_MAX_BATCH: Final = 16
#: Seconds after which a batch ends if another process waits. Before, on a slow disk, each job would
#: have its own commit.
_MAX_BATCH_SECONDS: Final = 0.005
#: Seconds of waiting after which a lock timeout of another job ends an urgent job too: its own try
#: would wait for 20 s more, and clients wait for 30 s.
_LOCKED_SECONDS: Final = 5.0


class DatabaseThreads:
    """A pool of threads, each with a database connection.

    Args:
        threads: the number of threads; 1 on SQLite, which has one writer.
        name: of the threads, and in metrics.
        batch_commits: whether queued jobs share a transaction, also those of :func:`write` in other
            threads. For SQLite, where each commit waits for the disk. Not for databases with row
            locks: jobs of one transaction would take them in any order.
        is_shared: whether the threads are a share of those of the process
            (:mod:`~jobgroups.database.shared_threads`). PostgreSQL's pool then gets the connection
            back after each job: it has fewer connections than a process has threads.
    """

    #: The threads with batch commits in this process, if there are any.
    writer: ClassVar[DatabaseThreads | None] = None

    def __init__(
        self, *, threads: int, name: str, batch_commits: bool = False, is_shared: bool = False
    ) -> None:
        self._name = name
        self._batch_commits = batch_commits
        self._is_shared = is_shared
        self._waiting: deque[_Job] = deque()
        #: Jobs of :meth:`run_in_thread`: a person waits for them.
        self._urgent: deque[_Job] = deque()
        self.load = 0  #: The number of jobs that wait or run.
        self._executor: Executor = Share(threads) if is_shared else ConnectedThreads(threads, name)
        if batch_commits:
            DatabaseThreads.writer = self

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
        began = time.perf_counter()
        job = _Job(functools.partial(_run_and_release, work) if self._is_shared else work)
        job.done.add_done_callback(
            lambda _: database_seconds.labels(self._name).observe(time.perf_counter() - began)
        )
        (self._urgent if is_urgent else self._waiting).append(job)
        try:
            # One call per job. A call that finds the queue empty had its job run in another call's
            # batch.
            self._executor.submit(self._run_next)
        except RuntimeError:
            # The threads end. An earlier call may still run the job.
            if job.done.cancel():
                raise
        return job.done

    def run_in_thread(self, work: Callable[[], R]) -> R:
        """Run a function as :meth:`run` does, for a caller in another thread, which waits."""
        if isinstance(self._executor, ConnectedThreads) and self._executor.is_current:
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
            self._run_alone(job)

    def _run_alone(self, job: _Job) -> None:
        job.run()
        self._fail_urgent(job.done.exception())

    def _fail_urgent(self, error: BaseException | None) -> None:
        """After a lock timeout, give its error to the urgent jobs that have waited during it."""
        while is_locked(error) and self._urgent and self._urgent[0].has_waited:
            if job := self._next(self._urgent):
                job.set_result(None, error)

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
        An exception of a job fails that job alone. If the database refuses a statement or the
        commit, or an exception made the transaction unusable, nothing was stored: each job then
        runs alone, unless it has waited for a lock already.
        """
        # Begins with the first job: it also needs a result if the transaction cannot begin.
        jobs = [first]
        try:
            _make_usable()
            with transaction.atomic():
                ends = time.perf_counter() + _MAX_BATCH_SECONDS
                outcomes = [_outcome_in_transaction(first)]
                has_urgent = False
                while len(jobs) < _MAX_BATCH and not _writers_waiting(ends):
                    job = self._next(self._urgent)
                    has_urgent |= job is not None
                    if job is None and not has_urgent:
                        job = self._next(self._waiting)
                    if job is None:
                        break
                    jobs.append(job)
                    outcomes.append(_outcome_in_transaction(job))
        except Exception as error:  # noqa: BLE001 each job runs again and gets its own error
            for job in jobs:
                if is_locked(error) and job.has_waited:
                    job.set_result(None, error)
                else:
                    self._run_alone(job)
            self._fail_urgent(error)
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
                log_outage(getattr(work, "__name__", "a write"), error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        if DatabaseThreads.writer is self:
            DatabaseThreads.writer = None
        self._executor.shutdown(wait=True)


#: The reasons of outages that were logged within a minute.
_logged: Final = Newest[str, bool](100, seconds=60.0)


def log_outage(subject: str, error: Exception) -> None:
    """Log an error after which the subject tries again, unless its reason was logged within a
    minute: in an outage of the database every statement of a process has it.
    """
    reason = str(error).strip() or type(error).__name__
    key = reason.partition("\n")[0]
    if _logged.get(key) is None:
        _logged.put(key, True)
        logger.warning("%s: failed (%s); tried again", subject, reason)


def is_locked(error: BaseException | None) -> bool:
    """Return whether another writer of SQLite's file kept the lock for longer than the timeout."""
    return isinstance(error, db.OperationalError) and "database is locked" in str(error)


def write(work: Callable[[], R]) -> R:
    """Run a function that writes and return its result after the commit.

    On SQLite it shares the queue and the commits of the process's writer, unless it is part of a
    transaction.
    """
    writer = DatabaseThreads.writer
    return work() if writer is None or connection.in_atomic_block else writer.run_in_thread(work)


def _run_and_release(work: Callable[[], R]) -> R:
    """Run a function, and return the connection to PostgreSQL's pool; keep SQLite's unless it had
    an error.
    """
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
    #: Of the caller: a thread runs the work with the log fields of what it is for.
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    queued_at: float = field(default_factory=time.monotonic)

    @property
    def has_waited(self) -> bool:
        """Whether it was queued so long ago that a lock timeout of another job is its own."""
        return time.monotonic() - self.queued_at >= _LOCKED_SECONDS

    def run(self) -> None:
        self.set_result(*self.outcome(self._work_on_a_usable_connection))

    def _work_on_a_usable_connection(self) -> Any:
        _make_usable()
        return self.work()

    def outcome(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        try:
            return self.context.run(work), None
        except BaseException as error:  # noqa: BLE001 raised in the task that awaits the result
            return None, error

    def set_result(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class _BatchAborted(Exception):
    """A job made the shared transaction unusable."""


def _writers_waiting(ends: float) -> bool:
    """Return whether another thread waits to write, or from a moment on another process; always
    False on PostgreSQL.
    """
    if getattr(connection, "has_waiting_writers", False):
        return True
    return time.perf_counter() > ends and bool(getattr(connection, "has_waiting_processes", False))


def _outcome_in_transaction(job: _Job) -> tuple[Any, BaseException | None]:
    result, error = job.outcome(job.work)
    if connection.needs_rollback or isinstance(error, TRANSIENT):
        raise _BatchAborted from error
    return result, error


class LoopReader:
    """A connection to SQLite that only reads, for one event loop.

    A read by its key takes 10 µs there and waits for no writer; a switch to a thread takes 100 µs,
    and up to 5 ms more while the loop is busy. PostgreSQL is read in threads.
    """

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def row(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row; raise ``sqlite3.Error`` if it cannot be read at once."""
        if self._connection is None:
            path = Path(settings.DATABASES["default"]["NAME"]).absolute()
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode=ro",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
            )
        rows: list[tuple[Any, ...]] = self._connection.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
