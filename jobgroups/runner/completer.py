"""Stores what happens to the attempts of a runner, in sets: what comes during a transaction is
stored by the next one.

The plain writes of all groups share a transaction; each other one is stored by its service, alone.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.services.attempt_sets import AttemptWrite, attempts_store, may_be_plain

_MOST: Final = 32  #: The most writes of one transaction.


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    write: AttemptWrite
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Group:
    """The writes of a group of which one is stored alone."""

    alone: deque[_Waiting] = field(default_factory=deque)
    later: list[_Waiting] = field(default_factory=list)  #: They come into the queue again.


class _Set:
    """Writes of one transaction. The thread that begins it closes the set: nothing waits for a
    thread to be free.
    """

    def __init__(self) -> None:
        self.waiting: list[_Waiting] = []
        self._guard = threading.Lock()
        self._is_closed = False

    def add(self, waiter: _Waiting) -> bool:
        """Add a write, and return whether the set still took it."""
        with self._guard:
            if self._is_closed or len(self.waiting) == _MOST:
                return False
            self.waiting.append(waiter)
            return True

    def close(self) -> list[AttemptWrite]:
        """Return the writes that may be plain and whose session has not ended; no more are added."""
        with self._guard:
            self._is_closed = True
        return [
            waiter.write
            for waiter in self.waiting
            if not waiter.done.cancelled() and may_be_plain(waiter.write)
        ]


class Completer:
    """Stores a runner's writes. There is no delay: a write that is the only one is stored at once.

    What is stored alone may wait for its group's row. It keeps later writes of its group waiting,
    and no others.
    """

    def __init__(self, database: DatabaseThreads, tasks: asyncio.TaskGroup) -> None:
        self._database = database
        self._task_group = tasks
        self._next = _Set()  #: The last set; a closed one takes nothing.
        self._next.close()
        self._turn = (
            threading.Lock()
        )  #: Held during a set: two of them would find each other's groups locked.
        self._groups: dict[str, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def store(
        self,
        group_id: str,
        work: Callable[..., Any],
        *,
        fence: FencingToken,
        attempt_id: int,
        **fields: Any,
    ) -> Any:
        """Run a fenced service on an attempt of a group until the database takes it, and return its
        result.

        Raises ``LeaseLost`` if another runner holds the lease now.
        """
        write = AttemptWrite(work, fence, group_id, attempt_id, fields)
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        if (group := self._groups.get(group_id)) is not None:
            group.later.append(waiting)
        else:
            self._put(waiting)
        return await waiting.done

    def cancel(self) -> None:
        """Give up what is not stored yet: the next runner finds it out at the backends."""
        for task in self._tasks:
            task.cancel()

    def _put(self, waiter: _Waiting) -> None:
        if not self._next.add(waiter):
            some = _Set()
            some.add(waiter)
            self._start(self._store_set(some), "store")
            self._next = some

    def _start(self, storing: Coroutine[Any, Any, None], name: str) -> None:
        try:
            # Without the log fields of the first attempt: the task stores others too.
            task = self._task_group.create_task(storing, name=name, context=contextvars.Context())
        except RuntimeError:
            # The runner has ended: the next one finds it out at the backends.
            storing.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store_set(self, some: _Set) -> None:
        """Store what is plain of some writes in one transaction, and the others alone; after an
        error, each alone.
        """
        results: dict[AttemptWrite, Any] = {}
        try:
            with contextlib.suppress(
                Exception
            ):  # each write runs again by itself and gets its own error
                results = await self._database.run_with_retry(self._store, some)
            some.close()
            for waiter in some.waiting:
                if waiter.write in results:
                    _answer(waiter, results[waiter.write])
                elif not waiter.done.cancelled():
                    self._store_apart(waiter)
        except BaseException:
            some.close()
            _cancel(*some.waiting)
            raise

    def _store(self, some: _Set) -> dict[AttemptWrite, Any]:
        with self._turn:
            writes = some.close()
            return attempts_store(writes=writes) if writes else {}

    def _store_apart(self, waiter: _Waiting) -> None:
        group_id = waiter.write.group_id
        if group_id not in self._groups:
            self._groups[group_id] = _Group()
            self._start(self._store_alone(group_id), f"store {group_id}")
        self._groups[group_id].alone.append(waiter)

    async def _store_alone(self, group_id: str) -> None:
        group = self._groups[group_id]
        waiter: _Waiting | None = None
        try:
            while group.alone:
                waiter = group.alone.popleft()
                try:
                    result = await self._database.run_with_retry(waiter.write.store_alone)
                except Exception as error:  # noqa: BLE001 raised where the result is awaited
                    result = error
                _answer(waiter, result)
            del self._groups[group_id]
            for later in group.later:
                self._put(later)
        except BaseException:
            _cancel(*group.alone, *group.later, *([waiter] if waiter else []))
            raise


def _answer(waiter: _Waiting, result: Any) -> None:
    if waiter.done.done():
        return
    if isinstance(result, Exception):
        waiter.done.set_exception(result)
    else:
        waiter.done.set_result(result)


def _cancel(*waiting: _Waiting) -> None:
    for waiter in waiting:
        waiter.done.cancel()
