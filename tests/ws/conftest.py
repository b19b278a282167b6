"""Fixtures of the sockets' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from jobgroups.consumers import close_rows
from jobgroups.database.threads import DatabaseThreads
from jobgroups.events.hub import hub
from tests.ws.played_runner import PlayedRunner


class Writer:
    """Runs a played runner's steps in a thread of its own, as a process's runner would."""

    def __init__(self) -> None:
        self.runner = PlayedRunner()
        self._database = DatabaseThreads(threads=1, name="test-writer")

    async def do(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        """Do one step; once it returns, it is committed and rung."""
        return await self._database.run(step, *args, **kwargs)

    def close(self) -> None:
        """End the thread and its connection."""
        self._database.close()


@pytest.fixture(scope="session", autouse=True)
def socket_threads(django_db_setup: None) -> Iterator[None]:
    """Close the sockets' connections before the test database goes."""
    yield
    close_rows()


@pytest.fixture
async def writer(transactional_db: None) -> AsyncIterator[Writer]:
    """A runner with three backends."""
    writer = Writer()
    await writer.do(writer.runner.start)
    yield writer
    writer.close()
    await hub.aclose()
