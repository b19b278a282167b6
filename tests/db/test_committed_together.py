"""Units of work that share a commit, and writers of one process that take turns on SQLite."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from backends.models import Backend
from jobgroups.database.threads import DatabaseThreads
from jobgroups.errors import LeaseLost
from jobgroups.models import ChildJob, Lease
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def database() -> Iterator[DatabaseThreads]:
    """Return a database thread whose units of work share commits."""
    made = DatabaseThreads(threads=1, name="test-together", batch_commits=True)
    yield made
    made.close()


def skip_unless_one_writer() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has many writers.")


async def _results(database: DatabaseThreads, *works: Callable[[], Any]) -> list[Any]:
    """Run units of work that all wait for the one before them, and return what each was told."""
    begin = threading.Event()
    first = asyncio.create_task(database.run(lambda: begin.wait(5)))
    waiting = [asyncio.create_task(database.run(work)) for work in works]
    await asyncio.sleep(0.05)
    begin.set()
    assert await first
    return await asyncio.gather(*waiting, return_exceptions=True)


def _backend(name: str) -> str:
    with transaction.atomic():
        factories.backend(name)
    return name


def _stored() -> set[str]:
    return set(Backend.objects.values_list("id", flat=True))


def test_waiting_units_share_a_commit(database: DatabaseThreads) -> None:
    inside: list[bool] = []

    def work(name: str) -> str:
        inside.append(connection.in_atomic_block)
        return _backend(name)

    names = [f"gpu-{number}" for number in range(5)]
    assert asyncio.run(_results(database, *(partial(work, name) for name in names))) == names
    assert inside == [True] * 5
    assert _stored() == set(names)


def test_result_is_returned_after_the_commit(database: DatabaseThreads) -> None:
    """Whoever is told that an intent is stored sends the prompt at once."""
    seen: list[set[str]] = []

    async def one(name: str) -> None:
        await database.run(lambda: _backend(name))
        # From another connection: what is not committed is not there.
        seen.append(await asyncio.to_thread(_seen_elsewhere))

    async def all_of_them() -> None:
        begin = threading.Event()
        first = asyncio.create_task(database.run(lambda: begin.wait(5)))
        tasks = [asyncio.create_task(one(f"gpu-{number}")) for number in range(4)]
        await asyncio.sleep(0.05)
        begin.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(all_of_them())
    assert all(names == {f"gpu-{number}" for number in range(4)} for names in seen)


def _seen_elsewhere() -> set[str]:
    try:
        return _stored()
    finally:
        connection.close()


def lose_lease() -> None:
    with transaction.atomic():
        factories.backend("gpu-lost")
        raise LeaseLost("gpu-lost", 7)


def violate_primary_key() -> None:
    # Without a transaction of its own: the shared transaction is unusable afterwards.
    factories.backend("gpu-1")


def violate_foreign_key() -> None:
    # The database checks it at the commit.
    with transaction.atomic():
        Lease.objects.create(backend_id="nobody", runner="", epoch=1)


def lose_database() -> None:
    raise OperationalError("disk I/O error")


@pytest.mark.parametrize(
    ("unit", "error"),
    [
        (lose_lease, LeaseLost),
        (violate_primary_key, IntegrityError),
        (violate_foreign_key, IntegrityError),
        (lose_database, OperationalError),
    ],
)
def test_error_of_one_unit_does_not_affect_the_others(
    database: DatabaseThreads, unit: Callable[[], None], error: type[Exception]
) -> None:
    units = [partial(_backend, "gpu-1"), unit, partial(_backend, "gpu-2"), unit]
    results = asyncio.run(_results(database, *units))
    assert [type(result) for result in results] == [str, error, str, error]
    assert _stored() == {"gpu-1", "gpu-2"}


def test_every_unit_gets_an_error_when_the_transaction_cannot_begin(database: DatabaseThreads) -> None:
    """Else what a runner waits to store is never stored, and nobody learns of it."""

    async def course() -> list[Any]:
        await database.run(factories.allow_writes, allowed=False)
        async with asyncio.timeout(10):
            told = await _results(database, *(partial(_backend, f"gpu-{n}") for n in (1, 2, 3)))
        await database.run(factories.allow_writes, allowed=True)
        return [*told, *await _results(database, partial(_backend, "gpu-4"))]

    *refused, stored = asyncio.run(course())
    assert len(refused) == 3
    assert all("read" in str(error) for error in refused), refused
    assert stored == "gpu-4"
    assert _stored() == {"gpu-4"}


def test_cancelled_unit_is_not_run(database: DatabaseThreads) -> None:
    async def course() -> None:
        begin = threading.Event()
        first = asyncio.create_task(database.run(lambda: begin.wait(5)))
        left = asyncio.create_task(database.run(lambda: _backend("gpu-left")))
        kept = asyncio.create_task(database.run(lambda: _backend("gpu-kept")))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0)
        begin.set()
        await asyncio.gather(first, kept)

    asyncio.run(course())
    assert _stored() == {"gpu-kept"}


def test_batch_commit_ends_early_when_another_writer_waits(database: DatabaseThreads) -> None:
    skip_unless_one_writer()
    order: list[str] = []
    asked = threading.Event()

    def submission() -> None:
        try:
            asked.set()
            with transaction.atomic():
                order.append("submission")
        finally:
            connection.close()

    waits = threading.Thread(target=submission)

    def one(number: int) -> None:
        order.append(f"unit {number}")
        if number == 1:
            waits.start()
            asked.wait(5)
            end = time.monotonic() + 5
            while not connection.has_waiting_writers:  # type: ignore[attr-defined]
                assert time.monotonic() < end

    asyncio.run(_results(database, *(partial(one, number) for number in range(4))))
    waits.join()
    assert order == ["unit 0", "unit 1", "submission", "unit 2", "unit 3"]


# --- turns ----------------------------------------------------------------------------------------


def test_writer_is_not_starved_by_a_runner_that_writes_without_pause() -> None:
    skip_unless_one_writer()
    factories.backend("gpu-1")
    over = threading.Event()

    def runner() -> None:
        try:
            while not over.is_set():
                with transaction.atomic():
                    Backend.objects.filter(id="gpu-1").update(status_reason="busy")
                    time.sleep(0.004)
        finally:
            connection.close()

    writes = threading.Thread(target=runner)
    writes.start()
    try:
        waits = []
        for _ in range(40):
            began = time.monotonic()
            with transaction.atomic():
                ChildJob.objects.count()
            waits.append(time.monotonic() - began)
            time.sleep(0.002)
    finally:
        over.set()
        writes.join()
    # One transaction of the runner's, and the machine's own hesitation.
    assert sorted(waits)[36] < 0.05, [round(one, 3) for one in sorted(waits)[-8:]]


def test_write_lock_is_released_however_the_transaction_ends() -> None:
    skip_unless_one_writer()

    def outcomes() -> None:
        try:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                raise ZeroDivisionError
            with pytest.raises(IntegrityError), transaction.atomic():
                Lease.objects.create(backend_id="nobody", runner="", epoch=1)
            # A connection that is closed within takes its transaction along.
            with suppress(Exception), transaction.atomic():
                connection.close()
        finally:
            connection.close()

    thread = threading.Thread(target=outcomes)
    thread.start()
    thread.join()
    began = time.monotonic()
    with transaction.atomic():
        factories.backend("gpu-1")
    assert time.monotonic() - began < 1.0
