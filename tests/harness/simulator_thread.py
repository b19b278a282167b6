"""Simulators in a thread with a loop of its own, for tests that aren't async."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from backends.simulator.audit_log import Entry
from backends.simulator.server import Simulator

R = TypeVar("R")

_START_SECONDS = 15.0


class SimulatorThread:
    """`with SimulatorThread(count=3, seconds=0.2) as sims: sims.urls`.

    `settings` are `Config`'s fields for each of them; names get a number if there are several.
    """

    def __init__(self, count: int = 1, **settings: Any) -> None:
        name = settings.pop("name", "gpu")
        self.simulators = [
            Simulator(name=f"{name}-{number}" if count > 1 else name, **settings) for number in range(1, count + 1)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="simulators", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=_START_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    @property
    def urls(self) -> list[str]:
        return [sim.url for sim in self.simulators]

    @property
    def url(self) -> str:
        return self.simulators[0].url

    def __getitem__(self, index: int) -> Simulator:
        return self.simulators[index]

    def call(self, work: Callable[[], Coroutine[Any, Any, R]], timeout: float = 30.0) -> R:
        """Run `await work()` in their loop and return its result."""
        if self._loop is None:
            raise RuntimeError("The simulators aren't started: use them as `with`.")
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout)

    def fault(self, name: str, *, on: int = 0, **options: Any) -> None:
        async def order() -> None:
            self.simulators[on].fault(name, **options)

        self.call(order)

    def wait_for(self, kind: str, *, on: int = 0, timeout: float = 10.0, **match: Any) -> Entry:
        return self.call(lambda: self.simulators[on].wait_for(kind, timeout=timeout, **match), timeout + 5)

    def restart(self, *, on: int = 0, down_s: float = 0.0) -> None:
        self.call(lambda: self.simulators[on].restart(down_s), down_s + 30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - passed on to the waiting thread
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for simulator in self.simulators:
                await stack.enter_async_context(simulator)
            self._ready.set_result(None)
            await self._stopping.wait()
