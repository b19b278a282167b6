"""Leases and runners as the rows tell of them: who lives, what is free, and who waits for whom."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from jobgroups.database.locks import DatabaseLock
from jobgroups.domain.leases import LeaseTable
from jobgroups.models import Lease, Runner
from jobgroups.queries import leases
from jobgroups.services import runners
from jobgroups.services.leases import LEASE_TTL, lease_acquire, lease_release, verify_fence
from jobgroups.services.progress import ProgressRow, progress_flush
from jobgroups.services.transactions import group_transaction
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


def on_postgres() -> None:
    """Skip where the database is not PostgreSQL."""
    if connection.vendor != "postgresql":
        pytest.skip("PostgreSQL's locks are meant")


def runner(name: str, *, age: float = 0.0, lived: float = 60.0) -> None:
    """Register a runner whose last heartbeat is so old, in seconds."""
    runners.runner_register(name=name, instance="1", version="0")
    moment = leases.database_now()
    Runner.objects.filter(name=name).update(
        heartbeat_at=moment - dt.timedelta(seconds=age), started_at=moment - dt.timedelta(seconds=lived)
    )


@contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[None]:
    """Hold a transaction open in another thread, after its work, until the block ends."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            work()
            begun.set()
            over.wait(20.0)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert begun.wait(10.0)
        yield
    finally:
        over.set()
        thread.join(10.0)


# --- taken and handed over ------------------------------------------------------------------------


def test_released_lease_is_free_at_once() -> None:
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    assert lease_acquire(backend_id="gpu-1", runner="b") is None
    assert lease_release(fence=fence)
    taken = lease_acquire(backend_id="gpu-1", runner="b")
    assert taken is not None
    assert taken.epoch == fence.epoch + 1
    assert not lease_release(fence=fence), "it was another one's to hand over"
    assert Lease.objects.get(pk="gpu-1").runner == "b"


def test_lease_table_of_a_runner() -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3", "gpu-4"):
        factories.backend(name)
    runner("a")
    runner("b")
    runner("newcomer", lived=1.0)
    runner("gone", age=30.0)
    factories.lease("gpu-1", "a")
    factories.lease("gpu-2", "b")
    lease_release(fence=factories.lease("gpu-3", "b"))
    factories.lease("gpu-4", "gone")
    long_ago = leases.database_now() - dt.timedelta(seconds=6)
    Lease.objects.filter(pk="gpu-4").update(expires_at=long_ago)
    seen = leases.lease_table("a")
    assert 10.0 < (seen.next_free_in or 0.0) <= 12.0
    assert seen == LeaseTable(
        unclaimed=frozenset({"gpu-4"}),
        held_by_others={"gpu-2": "b"},
        live_runners=frozenset({"b", "newcomer"}),
        stable_runners=frozenset({"b"}),
        next_free_in=seen.next_free_in,
    )


def test_registration_releases_the_leases_of_the_earlier_process() -> None:
    """It may be more than its share by now: what it does not take must not be renewed for ever."""
    factories.backend("gpu-1")
    factories.lease("gpu-1", "a")
    runners.runner_register(name="a", instance="2", version="0")
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


# --- dead for certain -----------------------------------------------------------------------------


@pytest.mark.postgres
def test_lease_of_a_runner_without_its_name_lock_is_acquired_at_once() -> None:
    on_postgres()
    factories.backend("gpu-1")
    runner("a", age=5.0)
    factories.lease("gpu-1", "a")
    lock = DatabaseLock(f"{leases.NAME_LOCK}a", "")
    assert lock.try_acquire()
    try:
        assert leases.dead_runners() == frozenset()
        assert lease_acquire(backend_id="gpu-1", runner="b") is None
        assert not leases.has_free_lease("b")
    finally:
        lock.release()
    _until(lambda: leases.dead_runners() == {"a"})
    assert leases.has_free_lease("b")
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


@pytest.mark.postgres
def test_missing_name_lock_is_ignored_while_the_heartbeat_is_recent() -> None:
    on_postgres()
    runner("a", age=1.0)
    assert leases.dead_runners() == frozenset()


@pytest.mark.postgres
def test_name_lock_is_acquired_again_after_its_connection_was_cut() -> None:
    on_postgres()
    lock = DatabaseLock(f"{leases.NAME_LOCK}a", "")
    other = DatabaseLock(f"{leases.NAME_LOCK}a", "")
    assert lock.try_acquire()
    assert lock.ensure_held()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    _until(lock.ensure_held)
    assert not other.try_acquire()
    lock.release()
    _until(other.try_acquire)
    assert not lock.ensure_held(), "it is another one's by now"
    other.release()


def _until(what: Callable[[], object]) -> None:
    # In a server's first seconds a lock that is missing proves nothing.
    end = time.monotonic() + 15.0
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- who waits for whom ---------------------------------------------------------------------------


@pytest.mark.postgres
def test_lease_renewal_waits_for_no_writer() -> None:
    """A runner whose writes wait for somebody else's row would else lose all its leases."""
    on_postgres()
    factories.backend("gpu-1")
    runner("a")
    fence = factories.lease("gpu-1", "a")
    with meanwhile(lambda: verify_fence(fence)):
        began = time.monotonic()
        assert runners.runner_heartbeat(name="a", instance="1")
        assert time.monotonic() - began < 2.0


@pytest.mark.postgres
def test_lease_in_a_write_transaction_is_neither_acquired_nor_awaited() -> None:
    on_postgres()
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    Lease.objects.update(expires_at=leases.database_now() - dt.timedelta(seconds=1))
    with meanwhile(lambda: verify_fence(fence)):
        began = time.monotonic()
        assert lease_acquire(backend_id="gpu-1", runner="b") is None
        assert time.monotonic() - began < 2.0
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


@pytest.mark.postgres
def test_progress_flush_locks_its_lease() -> None:
    on_postgres()
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    Lease.objects.update(expires_at=leases.database_now() - dt.timedelta(seconds=1))
    row = ProgressRow(
        child_id="j_none", attempt_id=0, percent=1.0, current_step=None, steps_completed=0, steps_total=0, fence=fence
    )
    with meanwhile(lambda: progress_flush(rows=[row])):
        assert lease_acquire(backend_id="gpu-1", runner="b") is None


@pytest.mark.postgres
def test_lock_timeout_of_a_runner_is_shorter_than_its_lease() -> None:
    on_postgres()
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    group = factories.submit()
    with group_transaction(group.id, fence=fence):
        assert _shown("lock_timeout") == "3s"
    assert _shown("lock_timeout") == "0"
    assert _shown("idle_in_transaction_session_timeout") == "8s"
    assert dt.timedelta(seconds=3 + 8) < LEASE_TTL


def _shown(setting: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {setting}")
        (value,) = cursor.fetchone()
    return str(value)
