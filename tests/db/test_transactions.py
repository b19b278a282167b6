"""Transactions: batch commits, writes that share one, SQLite's FIFO lock, durability, lost
connections.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import (
    DEFAULT_DB_ALIAS,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    transaction,
)

from backends.models import Backend
from director.web.errors import exception_handler
from jobgroups.database import threads as database_threads
from jobgroups.database.retry import retried_transaction
from jobgroups.database.sqlite3.base import _locks
from jobgroups.database.statements import insert
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.newest import Newest
from jobgroups.errors import LeaseLost
from jobgroups.models import Attempt, GroupLabel, JobEvent, JobGroup, Lease
from jobgroups.runner.completer import Completer
from jobgroups.runner.sets import Tasks
from jobgroups.services import attempts
from jobgroups.services.attempt_sets import AttemptWrite, attempts_store
from jobgroups.services.progress import ProgressRow, progress_flush, relax_durability
from tests.harness import factories, waits
from tests.harness.farm import in_thread, until
from tests.harness.races import connected, started

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def database() -> Iterator[DatabaseThreads]:
    """Return a database thread whose units of work share commits."""
    made = DatabaseThreads(threads=1, name="test-together", batch_commits=True)
    yield made
    made.close()


sqlite_only = pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite has one writer")


@asynccontextmanager
async def busy(database: DatabaseThreads) -> AsyncIterator[None]:
    """Occupy the database thread until the block ends."""
    began, over = threading.Event(), threading.Event()

    def occupy() -> bool:
        began.set()
        return over.wait(5)

    first = asyncio.create_task(database.run(occupy))
    await until(began.is_set)
    yield
    await asyncio.sleep(0)  # what the block has begun waits for the thread
    over.set()
    assert await first


async def _results(database: DatabaseThreads, *works: Callable[[], Any]) -> list[Any]:
    """Run units of work that all wait for the one before them; return their results and errors."""
    async with busy(database):
        waiting = [asyncio.create_task(database.run(work)) for work in works]
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
    """A runner sends a prompt as soon as its intent is stored."""
    seen: list[set[str]] = []

    async def one(name: str) -> None:
        await database.run(lambda: _backend(name))
        # Another connection reads only what is committed.
        seen.append(await asyncio.to_thread(connected, _stored))

    async def all_of_them() -> None:
        async with busy(database):
            tasks = [asyncio.create_task(one(f"gpu-{number}")) for number in range(4)]
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert all(names == {f"gpu-{number}" for number in range(4)} for names in seen)


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
        Lease.objects.create(backend_id="gpu-9", runner="", epoch=1)


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


def test_every_unit_gets_an_error_when_the_transaction_cannot_begin(
    database: DatabaseThreads,
) -> None:
    async def course() -> list[Any]:
        await database.run(factories.allow_writes, allowed=False)
        async with asyncio.timeout(10):
            refused = await _results(database, *(partial(_backend, f"gpu-{n}") for n in (1, 2, 3)))
        await database.run(factories.allow_writes, allowed=True)
        return [*refused, *await _results(database, partial(_backend, "gpu-4"))]

    *refused, stored = asyncio.run(course())
    assert len(refused) == 3
    assert all("read" in str(error) for error in refused), refused
    assert stored == "gpu-4"
    assert _stored() == {"gpu-4"}


def test_outage_is_logged_once_however_often_and_by_how_many_it_is_retried(
    database: DatabaseThreads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_threads, "_logged", Newest(100))
    monkeypatch.setattr(database_threads, "_FIRST_PAUSE", 0.001)
    left = [9, 9]

    def fails(number: int) -> None:
        left[number] -= 1
        if left[number] > 0:
            raise OperationalError("the server is away\nDETAIL: of this try")

    async def course() -> None:
        await asyncio.gather(*(database.run_with_retry(fails, number) for number in (0, 1)))

    asyncio.run(course())
    assert [record.message.partition("\n")[0] for record in caplog.records] == [
        "fails: failed (the server is away"
    ]


def test_cancelled_unit_is_not_run(database: DatabaseThreads) -> None:
    async def course() -> None:
        async with busy(database):
            left = asyncio.create_task(database.run(lambda: _backend("gpu-left")))
            kept = asyncio.create_task(database.run(lambda: _backend("gpu-kept")))
            await asyncio.sleep(0)
            left.cancel()
        await kept

    asyncio.run(course())
    assert _stored() == {"gpu-kept"}


@retried_transaction
def _register(name: str) -> bool:
    """Store a backend as the API does, in a thread of its own; return whether the runner's thread
    ran this.
    """
    factories.backend(name)
    return threading.current_thread().name.startswith("test-together")


@retried_transaction
def _register_and_fail(name: str) -> None:
    factories.backend(name)
    raise LeaseLost(name, 7)


def test_writes_of_other_threads_share_the_commits_of_the_runner(database: DatabaseThreads) -> None:
    commits: list[set[str]] = []

    def runner() -> None:
        transaction.on_commit(lambda: commits.append(_stored()))
        _backend("gpu-runner")

    async def course() -> list[Any]:
        async with busy(database):
            own = asyncio.create_task(database.run(runner))
            works = [
                partial(_register, "gpu-1"),
                partial(_register_and_fail, "gpu-2"),
                partial(_register, "gpu-3"),
            ]
            others = [asyncio.create_task(asyncio.to_thread(connected, work)) for work in works]
            await until(lambda: len(database._waiting) + len(database._urgent) == 4)
        await own
        return await asyncio.gather(*others, return_exceptions=True)

    first, failed, third = asyncio.run(course())
    assert first is third is True
    assert isinstance(failed, LeaseLost)
    assert commits == [{"gpu-runner", "gpu-1", "gpu-3"}]


def test_write_within_a_transaction_is_part_of_it(database: DatabaseThreads) -> None:
    with suppress(LeaseLost), transaction.atomic():
        assert not _register("gpu-1")
        raise LeaseLost("gpu-1", 7)
    assert not _stored()


def test_write_of_the_runner_does_not_wait_for_itself(database: DatabaseThreads) -> None:
    assert asyncio.run(database.run(_register, "gpu-1"))


def test_write_is_stored_after_the_end_of_the_runner(database: DatabaseThreads) -> None:
    database.close()
    assert not _register("gpu-1")
    # A caller that was about to wait for it.
    assert not database.run_in_thread(partial(_register, "gpu-2"))
    assert _stored() == {"gpu-1", "gpu-2"}


@sqlite_only
def test_writes_wait_for_the_lock_of_another_program_side_by_side(
    database: DatabaseThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 1.0)
    monkeypatch.setattr("jobgroups.database.threads._LOCKED_SECONDS", 0.6)
    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with ThreadPoolExecutor(12) as threads:
            writes = [
                threads.submit(connected, partial(_register, f"gpu-{number}"))
                for number in range(12)
            ]
            errors = [write.exception(60) for write in writes]
        # One after the other they would wait for 12 s.
        assert time.monotonic() - began < 8.0
        assert all("locked" in str(error) for error in errors), errors
        other.execute("ROLLBACK")
        assert not _stored()
    assert _register("gpu-1")


@sqlite_only
def test_batch_commit_ends_early_when_another_writer_waits(database: DatabaseThreads) -> None:
    order: list[str] = []
    requested = threading.Event()

    def submission() -> None:
        requested.set()
        with transaction.atomic():
            order.append("submission")

    waits = threading.Thread(target=connected, args=[submission])

    def one(number: int) -> None:
        order.append(f"unit {number}")
        if number == 1:
            waits.start()
            requested.wait(5)
            end = time.monotonic() + 5
            while not connection.has_waiting_writers:  # type: ignore[attr-defined]
                assert time.monotonic() < end

    asyncio.run(_results(database, *(partial(one, number) for number in range(4))))
    waits.join()
    assert order == ["unit 0", "unit 1", "submission", "unit 2", "unit 3"]


@sqlite_only
def test_write_lock_is_released_however_the_transaction_ends() -> None:

    def outcomes() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            raise ZeroDivisionError
        with pytest.raises(IntegrityError), transaction.atomic():
            Lease.objects.create(backend_id="gpu-9", runner="", epoch=1)
        with suppress(Exception), transaction.atomic():
            connection.close()

    started(outcomes).join()
    lock = _locks[str(connection.settings_dict["NAME"])]
    assert lock.acquire(0.0)
    lock.release()
    with transaction.atomic():
        assert not lock.acquire(0.0)


def test_busy_threads_close_their_connections() -> None:
    database = DatabaseThreads(threads=4, name="test-end")
    opened: list[Any] = []
    meet, over = threading.Barrier(3), threading.Event()

    def work() -> None:
        own = connections[DEFAULT_DB_ALIAS]
        Backend.objects.count()
        opened.append(own)
        meet.wait(10)
        over.wait(10)

    async def two_at_work() -> None:
        works = [asyncio.create_task(database.run(work)) for _ in range(2)]
        await asyncio.to_thread(meet.wait, 10)
        ended = asyncio.create_task(asyncio.to_thread(database.close))
        await until(lambda: database._executor._shutdown)
        over.set()
        await asyncio.gather(ended, *works)

    asyncio.run(two_at_work())
    assert [one.connection for one in opened] == [None, None]
    database.close()


@sqlite_only
def test_every_commit_but_progress_is_synced() -> None:
    """A power cut may lose the last progress, and nothing else."""
    full, normal = 2, 1

    def synchronous(*, relaxed: bool) -> int:
        if relaxed:
            relax_durability()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous")
            return int(cursor.fetchone()[0])

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(connected, partial(synchronous, relaxed=True)).result() == normal
        assert thread.submit(connected, partial(synchronous, relaxed=False)).result() == full
    assert synchronous(relaxed=False) == full


@sqlite_only
def test_transaction_that_has_only_read_keeps_other_writers_out() -> None:
    """Begun DEFERRED, its first write fails at once if another process wrote since its first read."""
    other = sqlite3.connect(connection.settings_dict["NAME"], timeout=0, isolation_level=None)
    with closing(other):
        with transaction.atomic():
            assert not Backend.objects.exists()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            factories.backend()
        other.execute("BEGIN IMMEDIATE")


Begun = tuple[FencingToken, Attempt]


def begun(count: int, **fields: Any) -> tuple[Any, list[Begun]]:
    """Return a group and the started jobs of it, each on a backend of its own."""
    fences = factories.farm(count)
    group = factories.submit(*(fence.backend_id for fence in fences), **fields)
    return group, [(fence, factories.begin(fence)) for fence in fences]


def ended(fence: FencingToken, claim: Attempt, **end: Any) -> AttemptWrite:
    fields = {"end": factories.end(**end)}
    return AttemptWrite(attempts.attempt_ended, fence, claim.child.group_id, claim.pk, fields)


def test_ends_of_one_group_are_one_transaction_with_gapless_events() -> None:
    group, jobs = begun(4)
    writes = [ended(*job) for job in jobs]
    assert attempts_store(writes=writes) == dict.fromkeys(writes, True)
    events = factories.log(group)
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    assert [one["type"] for one in events][-5:] == ["child_completed"] * 4 + ["group_complete"]
    assert factories.fresh(group).completed_count == 4


def test_a_lost_lease_fails_its_own_write_alone() -> None:
    group, jobs = begun(3)
    factories.lease("gpu-2")
    writes = [ended(*job) for job in jobs]
    results = attempts_store(writes=writes)
    assert [isinstance(results[write], LeaseLost) for write in writes] == [False, True, False]
    assert factories.fresh(group).completed_count == 2


@pytest.fixture
async def threads(transactional_db: None) -> AsyncIterator[DatabaseThreads]:
    made = DatabaseThreads(
        threads=1 if connection.vendor == "sqlite" else 4,
        name="test",
        batch_commits=connection.vendor == "sqlite",
    )
    yield made
    await asyncio.to_thread(made.close)


async def test_write_after_the_end_of_the_runner_is_refused(threads: DatabaseThreads) -> None:
    async with asyncio.TaskGroup() as tasks:
        completer = Completer(threads, Tasks(tasks))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await completer.store(
                "jg_1", attempts.attempt_ended, fence=FencingToken("gpu-1", 1), attempt_id=1
            )


async def test_one_bad_write_of_a_batch_fails_alone(threads: DatabaseThreads) -> None:
    group, jobs = await in_thread(begun)(6)

    def bad(**_: Any) -> None:
        raise ValueError("bad")

    async with asyncio.TaskGroup() as tasks:
        completer = Completer(threads, Tasks(tasks))
        writes = [
            completer.store(
                group.id,
                bad if number == 3 else attempts.attempt_ended,
                fence=fence,
                attempt_id=claim.pk,
                end=factories.end(),
            )
            for number, (fence, claim) in enumerate(jobs)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(one).__name__ for one in results] == ["bool"] * 3 + ["ValueError"] + ["bool"] * 2
    assert (await in_thread(factories.fresh)(group)).completed_count == 5
    rows = await in_thread(lambda: list(JobEvent.objects.values_list("seq", flat=True)))()
    assert sorted(rows) == list(range(1, len(rows) + 1))


def _limited() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 100")


def _wait_ended() -> None:
    """Wait until the server has ended this thread's connection."""
    parameters = connection.get_connection_params() | {"autocommit": True}
    query, pid = (
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s",
        connection.connection.info.backend_pid,
    )
    with psycopg.connect(**parameters) as other:
        waits.until(lambda: other.execute(query, [pid]).fetchone() is None)


def _by_its_idle_limit() -> None:
    _limited()
    _wait_ended()


def _by_its_idle_limit_after_many_rows() -> None:
    _limited()
    group = JobGroup.objects.get()
    insert([GroupLabel(group=group, key=key, value="v") for key in "abc"])
    _wait_ended()


def _by_its_idle_limit_after_much_progress() -> None:
    _limited()
    progress_flush(rows=[ProgressRow(f"j_{n}", n, 1.0, None, 1, 2) for n in range(3)])
    _wait_ended()


def _by_its_shutdown() -> None:
    parameters = connection.get_connection_params() | {"autocommit": True}
    pid = connection.connection.info.backend_pid
    with psycopg.connect(**parameters) as other:
        other.execute("SELECT pg_terminate_backend(%s, 1000)", [pid])


def _on_its_way() -> None:
    connection.connection.close()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's locks are meant")
@pytest.mark.parametrize(
    "cut_off",
    [
        _by_its_idle_limit,
        _by_its_idle_limit_after_many_rows,
        _by_its_idle_limit_after_much_progress,
        _by_its_shutdown,
        _on_its_way,
    ],
)
def test_request_is_refused_and_stores_nothing_when_its_connection_is_lost(
    cut_off: Callable[[], None],
) -> None:
    factories.backend("gpu-1")
    with pytest.raises(Exception) as met, transaction.atomic():  # noqa: PT011 the answer is looked at
        factories.submit()
        cut_off()
        JobGroup.objects.count()
    answer = exception_handler(met.value, {})
    assert answer is not None, f"a defect: {met.value!r}"
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    # Where PostgreSQL said why, it said that before it began to commit.
    if cut_off not in (_by_its_shutdown, _on_its_way):
        assert b"nothing was stored" in answer.content
    connection.close()
    assert JobGroup.objects.count() == 0


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's locks are meant")
def test_write_is_given_up_while_another_program_holds_a_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("LOCK TABLE backends_backend IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(OperationalError, match="lock timeout") as met:
            _register("gpu-1")
        answer = exception_handler(met.value, {})
        assert answer is not None
        assert answer.status_code == 503
        other.rollback()
        _register("gpu-1")
    assert _stored() == {"gpu-1"}
