"""A farm for each test of the runner."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from pytest_django import Settings

from jobgroups.runner.supervisor import RunnerSupervisor
from tests.harness.farm import Farm


@pytest.fixture(autouse=True)
def short_backoff(settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.05


@pytest.fixture
async def farm(transactional_db: None) -> AsyncIterator[Farm]:
    async with contextlib.AsyncExitStack() as stack:
        made = Farm(stack)
        try:
            yield made
        finally:
            await made.stop_all()


@contextlib.asynccontextmanager
async def supervised(farm: Farm) -> AsyncIterator[asyncio.Task[None]]:
    """Run a supervisor, which is ready, to the end of the block."""
    runner, ready = RunnerSupervisor(name="local", hub=farm.hub, find_local=False), asyncio.Event()
    running = asyncio.get_running_loop().create_task(runner.run(ready.set))
    await ready.wait()
    try:
        yield running
    finally:
        runner.stop()
        await running
