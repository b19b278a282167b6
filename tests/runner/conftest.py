"""A farm for each test of the runner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.harness.farm import Farm


@pytest.fixture
async def farm(transactional_db: None) -> AsyncIterator[Farm]:
    """Give a farm; what it started is ended with the test."""
    async with contextlib.AsyncExitStack() as stack:
        made = Farm(stack)
        try:
            yield made
        finally:
            await made.stop_all()
