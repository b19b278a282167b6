"""A thread with an event loop of its own, for servers of tests that aren't async."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

R = TypeVar("R")


class LoopThread:
    """What ``open`` starts runs in the thread until the block ends."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._stopping.wait())

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.loop = self._runner.get_loop()
        self._thread.start()
        self.call(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.close())
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def call(self, work: Coroutine[Any, Any, R], timeout: float = 60.0) -> R:
        """Run a coroutine in the thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)
