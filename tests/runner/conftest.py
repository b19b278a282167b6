"""A farm for each test of the runner."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from pytest_django import Settings

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
