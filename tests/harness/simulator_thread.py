"""Simulators in a thread, for tests that aren't async."""

from contextlib import AsyncExitStack
from typing import Any

from backends.simulator.audit_log import Entry
from backends.simulator.server import Simulator
from tests.harness.loop_thread import LoopThread


class SimulatorThread(LoopThread):
    """`with SimulatorThread(count=3, seconds=0.2) as sims: sims.urls`.

    `settings` are `Config`'s fields for each of them; names get a number if there are several.
    """

    def __init__(self, count: int = 1, **settings: Any) -> None:
        super().__init__()
        name = settings.pop("name", "gpu")
        self.simulators = [
            Simulator(name=f"{name}-{number}" if count > 1 else name, **settings)
            for number in range(1, count + 1)
        ]
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        for simulator in self.simulators:
            await self._stack.enter_async_context(simulator)

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def urls(self) -> list[str]:
        return [sim.url for sim in self.simulators]

    @property
    def url(self) -> str:
        return self.simulators[0].url

    def __getitem__(self, index: int) -> Simulator:
        return self.simulators[index]

    def fault(self, name: str, *, on: int = 0, **options: Any) -> None:
        async def order() -> None:
            self.simulators[on].fault(name, **options)

        self.call(order())

    def clear_faults(self, *, on: int = 0) -> None:
        async def clear() -> None:
            self.simulators[on].clear_faults()

        self.call(clear())

    def wait_for(self, kind: str, *, on: int = 0, timeout: float = 60.0, **match: Any) -> Entry:
        return self.call(self.simulators[on].wait_for(kind, timeout=timeout, **match), timeout + 5)

    def restart(self, *, on: int = 0, down_s: float = 0.0) -> None:
        self.call(self.simulators[on].restart(down_s), down_s + 30)
