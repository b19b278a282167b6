"""Sets: what comes while a transaction is under way shares the next one."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from jobgroups.database.threads import TRANSIENT

W = TypeVar("W", bound=Hashable)

_MOST: Final = 32  #: The most writes of one transaction.


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[W]):
    """A write, and its result."""

    write: W
    done: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answer(self, result: Any) -> None:
        if self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


class _Set(Generic[W]):
    """Writes of one transaction. The thread that begins it closes the set: nothing waits for a
    thread to be free.
    """

    def __init__(self) -> None:
        self.waiting: list[Waiting[W]] = []
        self._guard = threading.Lock()
        self._is_closed = False

    def add(self, waiting: Waiting[W]) -> bool:
        """Add a write, and return whether the set still took it."""
        with self._guard:
            if self._is_closed or len(self.waiting) == _MOST:
                return False
            self.waiting.append(waiting)
            return True

    def close(self) -> list[W]:
        """Return the writes whose sessions have not ended; no more are added."""
        with self._guard:
            self._is_closed = True
        return [waiting.write for waiting in self.waiting if not waiting.done.cancelled()]


class Tasks:
    """Tasks of the runner that can be cancelled together."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            # Without the log fields of the first attempt: the task stores others too.
            task = self._group.create_task(work, name=name, context=contextvars.Context())
        except RuntimeError:
            # The runner has ended: the next one finds it out at the backends.
            work.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


class Sets(Generic[W]):
    """Collects writes. There is no delay: a write that is the only one is stored at once.

    Args:
        tasks: those of the runner.
        run: runs a function in a database thread, perhaps until the database takes it.
        store: stores a set in one transaction, and returns the results by write.
        alone: gets each write that ``store`` left out, or all after an unexpected error.
    """

    def __init__(
        self,
        tasks: Tasks,
        run: Callable[..., Coroutine[Any, Any, Any]],
        store: Callable[[Sequence[W]], Mapping[W, Any]],
        alone: Callable[[Waiting[W]], None],
    ) -> None:
        self._tasks, self._run, self._store, self._alone = tasks, run, store, alone
        self._next = _Set[W]()  #: The last set; a closed one takes nothing.
        self._next.close()
        #: Held during a set: two of them would find each other's rows locked.
        self._turn = threading.Lock()

    def put(self, waiting: Waiting[W]) -> None:
        if not self._next.add(waiting):
            following = _Set[W]()
            following.add(waiting)
            self._tasks.start(self._store_set(following), "store")
            self._next = following

    async def _store_set(self, writes: _Set[W]) -> None:
        results: Mapping[W, Any] = {}
        try:
            try:
                results = await self._run(self._store_in_turn, writes)
            except TRANSIENT as error:
                # Perhaps it was stored.
                writes.close()
                results = dict.fromkeys((waiting.write for waiting in writes.waiting), error)
            except Exception:  # noqa: BLE001 each write runs again by itself and gets its own error
                results = {}
            writes.close()
            for waiting in writes.waiting:
                if waiting.write in results:
                    waiting.answer(results[waiting.write])
                elif not waiting.done.cancelled():
                    self._alone(waiting)
        except BaseException:
            writes.close()
            cancel(writes.waiting)
            raise

    def _store_in_turn(self, waiting: _Set[W]) -> Mapping[W, Any]:
        with self._turn:
            writes = waiting.close()
            return self._store(writes) if writes else {}


def cancel(writes: Sequence[Waiting[Any]]) -> None:
    for waiting in writes:
        waiting.done.cancel()
