"""Threads that kinds of work share: each kind uses at most a number of its own at once, so one
whose work hangs takes no thread from another.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple

from django import db
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_MOST: Final = 256  #: More than all kinds of a process together: none waits for another.


class ConnectedThreads(ThreadPoolExecutor):
    """Threads that are started on demand, and whose database connections end with them."""

    def __init__(self, threads: int, name: str) -> None:
        self._connections: list[BaseDatabaseWrapper] = []
        super().__init__(threads, thread_name_prefix=name, initializer=self._keep_connection)

    def _keep_connection(self) -> None:
        own = connections[db.DEFAULT_DB_ALIAS]
        own.inc_thread_sharing()  # another thread closes it, after this one has ended
        self._connections.append(own)

    @property
    def is_current(self) -> bool:
        """Whether the caller is in one of these threads."""
        return connections[db.DEFAULT_DB_ALIAS] in self._connections

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        # After the threads: a running one would open its connection again. In a thread: Django
        # refuses to close a connection in the thread of an event loop.
        closing = threading.Thread(target=self._close_connections, name="closing")
        closing.start()
        closing.join()

    def _close_connections(self) -> None:
        for of_thread in self._connections:
            of_thread.close()


_threads: Final = ConnectedThreads(_MOST, "shared")

#: Closes the threads and their connections, at the end of the process.
close_shared_threads: Final = _threads.shutdown


class Share(Executor):
    """One kind of work in the shared threads: what is above its number of threads waits, first in,
    first out.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads
        self._guard = threading.Lock()
        self._waiting = deque[tuple[Future[Any], Callable[[], Any]]]()
        self._running = set[Future[None]]()
        self._is_closed = False

    async def run(self, work: Callable[[*Ts], R], *args: *Ts) -> R:
        """Return the result of a function that is called in these threads."""
        return await asyncio.get_running_loop().run_in_executor(self, work, *args)

    def submit(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        done = Future[R]()
        with self._guard:
            if self._is_closed:
                raise RuntimeError("These threads have ended.")
            self._waiting.append((done, partial(work, *args, **kwargs)))
            if self._free:
                self._running.add(_threads.submit(self._run))
                self._free -= 1
        return done

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._free += 1
                    self._running = {each for each in self._running if not each.done()}
                    return
                done, work = self._waiting.popleft()
            if done.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:  # noqa: BLE001 raised where the result is awaited
                    done.set_exception(error)
                else:
                    done.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._guard:
            self._is_closed = True
            running = list(self._running)
        if wait:
            futures.wait(running)
