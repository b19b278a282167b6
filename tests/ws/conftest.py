"""Fixtures of the sockets' tests."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from jobgroups.database.threads import DatabaseThreads
from jobgroups.events.hub import hub
from jobgroups.streams.reads import close_rows
from tests.ws.played_runner import PlayedRunner


class Writer:
    """Runs the steps of a played runner in a separate thread."""

    def __init__(self) -> None:
        self.runner = PlayedRunner()
        self._database = DatabaseThreads(threads=1, name="test-writer")

    async def do(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        """Do one step, and return when it is committed and published."""
        return await self._database.run(step, *args, **kwargs)

    def close(self) -> None:
        self._database.close()


@pytest.fixture(scope="session", autouse=True)
def socket_threads(django_db_setup: None) -> Iterator[None]:
    """Close the sockets' database connections before the test database is dropped."""
    yield
    close_rows()


@pytest.fixture
async def writer(transactional_db: None) -> AsyncIterator[Writer]:
    writer = Writer()
    await writer.do(writer.runner.start)
    yield writer
    writer.close()
    await hub.aclose()
