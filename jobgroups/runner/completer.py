"""Stores what happened to attempts of one group together: writes that arrive during a transaction share the next one.

Each start and each end locks the group's row, since it gives events their numbers. One transaction for each of them
would limit a group on hundreds of backends.
"""

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.services.transactions import FencedWrite, group_store

_MOST: Final = 32  #: The most writes of one transaction.


@dataclass(frozen=True, slots=True)
class _Waiting:
    write: FencedWrite
    done: asyncio.Future[Any]


class Completer:
    """One queue of writes for each group of a runner. There is no delay: a group's only write is stored at once."""

    def __init__(self, database: DatabaseThreads, tasks: asyncio.TaskGroup) -> None:
        self._database = database
        self._task_group = tasks
        self._queues: dict[str, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def store(self, group_id: str, work: Callable[..., Any], *, fence: FencingToken, **fields: Any) -> Any:
        """Run a fenced service on an attempt of a group until the database takes it, and return its result.

        Raises ``LeaseLost`` if another runner holds the lease now.
        """
        write = FencedWrite(fence, functools.partial(work, fence=fence, **fields))
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        queue = self._queues.get(group_id)
        if queue is not None:
            queue.append(waiting)
        else:
            storing = self._store_queue(group_id)
            try:
                # Without the log fields of the first attempt: the task stores others too.
                task = self._task_group.create_task(storing, name=f"store {group_id}", context=contextvars.Context())
            except RuntimeError:
                # The runner has ended: the next one finds it out at the backends.
                storing.close()
                raise
            self._queues[group_id] = deque([waiting])
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.done

    def cancel(self) -> None:
        """Give up what is not stored yet: the next runner finds it out at the backends."""
        for task in self._tasks:
            task.cancel()

    async def _store_queue(self, group_id: str) -> None:
        queue = self._queues[group_id]
        some: list[_Waiting] = []
        try:
            while queue:
                taken = [queue.popleft() for _ in range(min(len(queue), _MOST))]
                # Those who no longer wait had their session ended before the write began.
                some = [one for one in taken if not one.done.cancelled()]
                if len(some) > 1:
                    await self._store_together(group_id, some)
                for one in some:
                    if not one.done.done():
                        await self._store_alone(one)
        finally:
            del self._queues[group_id]
            for one in (*some, *queue):
                one.done.cancel()

    async def _store_together(self, group_id: str, some: list[_Waiting]) -> None:
        """Store some writes in one transaction. After an error none is stored, and none is answered."""
        try:
            results = await self._database.run_with_retry(
                group_store, group_id=group_id, writes=[one.write for one in some]
            )
        except Exception:  # noqa: BLE001 each write runs again by itself and gets its own error
            return
        for one, result in zip(some, results, strict=True):
            _answer(one, result)

    async def _store_alone(self, one: _Waiting) -> None:
        try:
            result = await self._database.run_with_retry(one.write.work)
        except Exception as error:  # noqa: BLE001 raised where the result is awaited
            result = error
        _answer(one, result)


def _answer(one: _Waiting, result: Any) -> None:
    if one.done.done():
        return
    if isinstance(result, Exception):
        one.done.set_exception(result)
    else:
        one.done.set_result(result)
