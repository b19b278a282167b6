"""The servers of a farm of processes: PostgreSQL and Redis of the tests' own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.servers import Postgres, Redis, own_redis, postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One PostgreSQL for the tests of a file; who stops it starts it again."""
    with postgres() as running:
        yield running


@pytest.fixture
def url(tmp_path: Path, server: Postgres) -> str:
    """An empty database."""
    return server.create(f"director_{tmp_path.name[-24:]}_{time.time_ns() % 10**6}")


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    """A Redis that knows nothing."""
    with own_redis() as running:
        yield running
