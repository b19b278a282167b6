"""Separate PostgreSQL and Redis servers for farms of processes."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.machines import Machines, simulated
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import MIGRATED, migrated_postgres
from tests.harness.servers import Postgres, Redis, own_redis, postgres
from tests.harness.waits import until


class Leases:
    def __init__(self, url: str) -> None:
        self._url = url

    def _rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._url, autocommit=True) as database:
            return database.execute(query).fetchall()  # type: ignore[arg-type]

    def held(self) -> Counter[str]:
        found = self._rows(
            "SELECT runner FROM jobgroups_lease WHERE until > now() AND runner <> ''"
        )
        return Counter(str(name) for (name,) in found)

    def epochs(self) -> dict[str, int]:
        found = self._rows("SELECT backend_id, epoch FROM jobgroups_lease")
        return {str(name): int(str(epoch)) for name, epoch in found}

    def attempts(self) -> Counter[str]:
        found = self._rows("SELECT state FROM jobgroups_attempt")
        return Counter(str(state) for (state,) in found)

    def doubtful(self) -> int:
        (found,) = self._rows(
            "SELECT count(*) FROM jobgroups_attempt WHERE uncertain_since IS NOT NULL"
        )
        return int(str(found[0]))

    def heartbeats(self, times: int = 3) -> None:
        """Wait until every runner that lives has stored so many heartbeats: it compares the shares
        between them.
        """
        query = "SELECT name, heartbeat_at FROM jobgroups_runner WHERE stopped_at IS NULL"
        for _ in range(times):
            before = dict(self._rows(query))
            until(lambda before=before: before.items().isdisjoint(self._rows(query)))

    def wait(self, within: float = 60.0, **held: int) -> float:
        wanted = Counter({name.replace("_", "-"): count for name, count in held.items()})
        began = time.monotonic()
        while self.held() != wanted:
            gone = time.monotonic() - began
            assert gone < within, f"after {gone:.1f} s: {self.held()}, not {wanted}"
            time.sleep(0.1)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One PostgreSQL for the tests of a file; a test that stops it starts it again."""
    with postgres(data=migrated_postgres()) as running:
        yield running


@pytest.fixture
def template() -> str:
    """What the database of a test is a copy of. Parametrized with ``template0``, it is empty."""
    return MIGRATED


@pytest.fixture
def url(tmp_path: Path, server: Postgres, template: str) -> str:
    name = f"director_{tmp_path.name[-24:]}_{time.time_ns() % 10**6}"
    return server.create(name, template)


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    with own_redis() as running:
        yield running


@pytest.fixture
def settings(url: str, redis_server: Redis) -> dict[str, str]:
    return {
        "DIRECTOR_DATABASE_URL": url,
        "DIRECTOR_REDIS_URL": redis_server.url,
        "DIRECTOR_SECRET_KEY": "one-key-for-all-processes-of-the-farm-0123456789",
    }


@pytest.fixture
def gpus(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Start simulated backends with the options ``GPUS`` of the test's module."""
    with simulated(tmp_path, **request.module.GPUS) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, gpus: Machines, settings: dict[str, str]) -> Iterator[ProcessFarm]:
    """PostgreSQL and Redis, a database without rows, nothing started yet."""
    made = ProcessFarm(tmp_path, gpus, **settings)
    yield made
    made.close()


@pytest.fixture
def leases(url: str) -> Leases:
    return Leases(url)
