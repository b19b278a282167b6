from collections.abc import AsyncIterator

import pytest

from backends.simulator import Simulator
from tests.simulator.artist import Artist, artist


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def me(sim: Simulator) -> AsyncIterator[Artist]:
    async with artist(sim) as client:
        yield client
