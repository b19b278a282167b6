"""Leases and runners: acquisition, release, fencing, dead runners, and locks that writers wait for."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from jobgroups.database.locks import DatabaseLock
from jobgroups.domain.leases import FencingToken, LeaseTable
from jobgroups.errors import LeaseLost
from jobgroups.models import ChildJob, Lease, Runner
from jobgroups.queries import leases
from jobgroups.services import backends, leases as lease_services, runners
from jobgroups.services.leases import LEASE_TTL, lease_acquire, lease_release, verify_fence
from jobgroups.services.progress import ProgressRow, progress_flush
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.races import race, started
from tests.harness.waits import until

pytestmark = pytest.mark.django_db(transaction=True)


on_postgres = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="PostgreSQL's locks are meant"
)


def runner(name: str, *, age: float = 0.0, lived: float = 60.0) -> None:
    """Register a runner whose last heartbeat is so old, in seconds."""
    runners.runner_register(name=name, instance="1", version="0")
    moment = leases.database_now()
    Runner.objects.filter(name=name).update(
        heartbeat_at=moment - dt.timedelta(seconds=age),
        started_at=moment - dt.timedelta(seconds=lived),
    )


def test_runner_that_does_not_report_may_be_unable_to() -> None:
    """Its database may be locked, full or read-only."""
    assert leases.halt_reason() == "No runner is alive: no job is sent until one starts."
    runner("room-1")
    assert leases.halt_reason() == ""
    Runner.objects.update(heartbeat_at=dt.datetime(2026, 2, 1, 22, tzinfo=dt.UTC))
    assert leases.halt_reason() == (
        "No runner has reported since 2026-02-01 22:00:00 UTC: it ended, or the database is locked "
        "or full. No job is sent until one reports."
    )
    factories.allow_writes(allowed=False)
    try:
        is_known = connection.vendor == "postgresql"
        assert leases.is_read_only() is is_known
        assert (leases.halt_reason() == leases.READ_ONLY) is is_known
    finally:
        factories.allow_writes(allowed=True)


@contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[None]:
    """Hold a transaction open in another thread, after its work, until the block ends."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            work()
            begun.set()
            over.wait(20.0)

    thread = started(hold)
    try:
        assert begun.wait(10.0)
        yield
    finally:
        over.set()
        thread.join(10.0)


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
    factories.backend("gpu-1")
    factories.lease("gpu-1", "a")
    runners.runner_register(name="a", instance="2", version="0")
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


@on_postgres
def test_lease_of_a_runner_without_its_name_lock_is_acquired_at_once() -> None:
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
    # In a server's first seconds a missing lock proves nothing.
    until(lambda: leases.dead_runners() == {"a"})
    assert leases.has_free_lease("b")
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


@on_postgres
def test_missing_name_lock_is_ignored_while_the_heartbeat_is_recent() -> None:
    runner("a", age=1.0)
    assert leases.dead_runners() == frozenset()


@on_postgres
def test_name_lock_is_acquired_again_after_its_connection_was_cut() -> None:
    lock = DatabaseLock(f"{leases.NAME_LOCK}a", "")
    other = DatabaseLock(f"{leases.NAME_LOCK}a", "")
    assert lock.try_acquire()
    assert lock.ensure_held()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    until(lock.ensure_held)
    assert not other.try_acquire()
    lock.release()
    until(other.try_acquire)
    assert not lock.ensure_held(), "it is another one's by now"
    other.release()


@on_postgres
def test_lease_renewal_waits_for_no_writer() -> None:
    factories.backend("gpu-1")
    runner("a")
    fence = factories.lease("gpu-1", "a")
    with meanwhile(lambda: verify_fence(fence)):
        began = time.monotonic()
        assert runners.runner_heartbeat(name="a", instance="1")
        assert time.monotonic() - began < 10.0


def _flush(fence: FencingToken) -> None:
    progress_flush(rows=[ProgressRow("j_none", 0, 1.0, None, 0, 0, fence)])


@on_postgres
@pytest.mark.parametrize("write", [verify_fence, _flush])
def test_lease_in_a_write_transaction_is_neither_acquired_nor_awaited(
    write: Callable[[FencingToken], Any],
) -> None:
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    Lease.objects.update(expires_at=leases.database_now() - dt.timedelta(seconds=1))
    with meanwhile(partial(write, fence)):
        began = time.monotonic()
        assert lease_acquire(backend_id="gpu-1", runner="b") is None
        assert time.monotonic() - began < 10.0
    assert lease_acquire(backend_id="gpu-1", runner="b") is not None


@on_postgres
def test_progress_of_a_group_does_not_wait_for_the_lock_of_another() -> None:
    fence = factories.online()
    groups = [factories.submit(), factories.submit()]
    claims = [factories.begin(fence) for _ in groups]
    rows = [ProgressRow(one.child_id, one.pk, 50.0, None, 1, 2) for one in claims]
    for locked in groups:
        ChildJob.objects.update(progress=0.0)
        with ThreadPoolExecutor() as pool:
            with group_transaction(locked.id):
                flush = pool.submit(race, partial(progress_flush, rows=rows))
                until(ChildJob.objects.filter(progress=50.0).exclude(group=locked).exists)
            flush.result()
        assert ChildJob.objects.filter(progress=50.0).count() == 2


@on_postgres
def test_lock_timeout_of_a_runner_is_shorter_than_its_lease() -> None:
    factories.backend("gpu-1")
    fence = factories.lease("gpu-1", "a")
    group = factories.submit()
    with group_transaction(group.id, fence=fence):
        assert _shown("lock_timeout") == "3s"
    assert _shown("lock_timeout") == "5s"
    assert _shown("idle_in_transaction_session_timeout") == "8s"
    assert dt.timedelta(seconds=3 + 8) < LEASE_TTL


def _shown(setting: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {setting}")
        (value,) = cursor.fetchone()
    return str(value)


def test_progress_is_not_stored_under_a_lost_lease() -> None:
    old = factories.online()
    factories.submit()
    claimed = factories.begin(old)
    new = factories.lease()

    def flush(percent: float, fence: FencingToken) -> float:
        progress_flush(rows=[ProgressRow(claimed.child_id, claimed.pk, percent, "", 1, 4, fence)])
        return ChildJob.objects.get(pk=claimed.child_id).progress

    assert flush(75.0, new) == 75.0
    assert flush(25.0, old) == 75.0


def test_observation_is_not_stored_under_a_lost_lease() -> None:
    old = factories.online(reachability="unknown")
    new = factories.lease()
    backends.backend_observed(fence=new, reachable=True)
    with pytest.raises(LeaseLost):
        backends.backend_observed(fence=old, reachable=False, reason="refused")
    assert factories.row().reachability == "online"


def test_lease_of_a_backend_that_is_deleted_meanwhile_is_not_acquired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deleted_meanwhile(*_: object) -> None:
        # PostgreSQL's error if the row is deleted between the query and the insert.
        raise IntegrityError("violates foreign key constraint")

    monkeypatch.setattr(lease_services, "_lease_acquire", deleted_meanwhile)
    assert lease_acquire(backend_id="gpu-1", runner="runner") is None
