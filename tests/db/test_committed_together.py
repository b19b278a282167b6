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


async def _told(database: DatabaseThreads, *works: Callable[[], Any]) -> list[Any]:
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


def test_what_waits_is_committed_together(database: DatabaseThreads) -> None:
    inside: list[bool] = []

    def work(name: str) -> str:
        inside.append(connection.in_atomic_block)
        return _backend(name)

    names = [f"gpu-{number}" for number in range(5)]
    assert asyncio.run(_told(database, *(partial(work, name) for name in names))) == names
    assert inside == [True] * 5
    assert _stored() == set(names)


def test_nobody_is_told_before_the_commit(database: DatabaseThreads) -> None:
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


def test_what_one_raises_costs_the_others_nothing(database: DatabaseThreads) -> None:
    def refused() -> None:
        with transaction.atomic():
            factories.backend("gpu-lost")
            raise LeaseLost("gpu-lost", 7)

    told = asyncio.run(
        _told(database, lambda: _backend("gpu-1"), refused, lambda: _backend("gpu-2"))
    )
    assert isinstance(told[1], LeaseLost)
    assert (told[0], told[2]) == ("gpu-1", "gpu-2")
    assert _stored() == {"gpu-1", "gpu-2"}


def test_one_that_leaves_the_transaction_unusable_is_refused_alone(
    database: DatabaseThreads,
) -> None:
    runs: list[str] = []

    def twice() -> None:
        # Without a transaction of its own: nothing is there to be rolled back to.
        factories.backend("gpu-1")

    def pluralize(name: str) -> str:
        runs.append(name)
        return _backend(name)

    told = asyncio.run(
        _told(database, lambda: pluralize("gpu-1"), twice, lambda: pluralize("gpu-2"))
    )
    assert isinstance(told[1], IntegrityError)
    assert (told[0], told[2]) == ("gpu-1", "gpu-2")
    assert _stored() == {"gpu-1", "gpu-2"}
    assert runs.count("gpu-1") == 2, "it was run again, for itself"


def test_a_commit_that_is_refused_refuses_only_whose_fault_it_is(database: DatabaseThreads) -> None:
    """A foreign key is looked at when all is committed."""

    def orphan() -> None:
        with transaction.atomic():
            Lease.objects.create(backend_id="nobody", runner="", epoch=1)

    told = asyncio.run(
        _told(database, lambda: _backend("gpu-1"), orphan, lambda: _backend("gpu-2"))
    )
    assert isinstance(told[1], IntegrityError)
    assert _stored() == {"gpu-1", "gpu-2"}


def test_a_transaction_that_cannot_begin_leaves_nobody_without_an_answer(
    database: DatabaseThreads,
) -> None:
    """Else what a runner waits to store is never stored, and nobody learns of it."""

    async def course() -> list[Any]:
        await database.run(factories.allow_writes, allowed=False)
        async with asyncio.timeout(10):
            told = await _told(database, *(partial(_backend, f"gpu-{n}") for n in (1, 2, 3)))
        await database.run(factories.allow_writes, allowed=True)
        return [*told, *await _told(database, partial(_backend, "gpu-4"))]

    *refused, stored = asyncio.run(course())
    assert len(refused) == 3
    assert all("read" in str(error) for error in refused), refused
    assert stored == "gpu-4"
    assert _stored() == {"gpu-4"}


def test_what_the_database_refuses_one_is_not_refused_the_others(database: DatabaseThreads) -> None:
    def away() -> None:
        raise OperationalError("disk I/O error")

    told = asyncio.run(_told(database, away, lambda: _backend("gpu-1"), away))
    assert [type(one) for one in told] == [OperationalError, str, OperationalError]
    assert _stored() == {"gpu-1"}


def test_what_nobody_waits_for_any_more_is_not_begun(database: DatabaseThreads) -> None:
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


def test_what_shares_a_commit_is_ended_early_where_somebody_waits_to_write(
    database: DatabaseThreads,
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has many writers.")
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

    asyncio.run(_told(database, *(partial(one, number) for number in range(4))))
    waits.join()
    assert order == ["unit 0", "unit 1", "submission", "unit 2", "unit 3"]


# --- turns ----------------------------------------------------------------------------------------


def test_a_submission_is_not_kept_waiting_by_a_runner_that_writes_without_pause() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has many writers.")
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


def test_a_turn_is_given_whatever_becomes_of_its_transaction() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has many writers.")

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
