"""Writes to attempts of one group that share a transaction: none changes what another one comes to."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.errors import LeaseLost
from jobgroups.models import Attempt, JobEvent
from jobgroups.runner.completer import Completer
from jobgroups.services import attempts
from jobgroups.services.claims import Claim
from jobgroups.services.transactions import FencedWrite, group_store
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)

Begun = tuple[FencingToken, Claim]


def begun(count: int, **fields: Any) -> tuple[Any, list[Begun]]:
    """Return a group and the started jobs of it, each on a backend of its own."""
    fences = factories.farm(count)
    group = factories.submit(*(fence.backend_id for fence in fences), **fields)
    return group, [(fence, factories.begin(fence)) for fence in fences]


def ended(fence: FencingToken, claim: Claim, **end: Any) -> FencedWrite:
    return FencedWrite(
        fence, partial(attempts.attempt_ended, attempt_id=claim.attempt_id, fence=fence, end=factories.end(**end))
    )


def broken(error: Exception) -> Any:
    def fail(**_: Any) -> None:
        raise error

    return fail


def test_ends_of_one_group_are_one_transaction_with_gapless_events() -> None:
    group, jobs = begun(4)
    writes = [ended(*job) for job in jobs]
    assert group_store(group_id=group.id, writes=writes) == [True] * 4
    events = factories.log(group)
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    assert [one["type"] for one in events][-5:] == ["child_completed"] * 4 + ["group_complete"]
    assert factories.fresh(group).completed_count == 4


def test_a_start_and_its_end_may_share_a_transaction() -> None:
    fence = factories.online()
    group = factories.submit()
    claim = factories.accept(fence)
    start = FencedWrite(fence, partial(attempts.attempt_started, attempt_id=claim.attempt_id, fence=fence))
    group_store(group_id=group.id, writes=[start, ended(fence, claim)])
    assert factories.types(group)[-3:] == ["child_started", "child_completed", "group_complete"]


def test_a_lost_lease_fails_its_own_write_alone() -> None:
    group, jobs = begun(3)
    factories.lease("gpu-2")
    results = group_store(group_id=group.id, writes=[ended(*job) for job in jobs])
    assert [isinstance(one, LeaseLost) for one in results] == [False, True, False]
    assert factories.fresh(group).completed_count == 2


def test_an_error_stores_nothing_of_the_batch() -> None:
    group, jobs = begun(2)
    writes = [ended(*jobs[0]), FencedWrite(jobs[1][0], broken(IntegrityError("bad")))]
    with pytest.raises(IntegrityError):
        group_store(group_id=group.id, writes=writes)
    assert factories.fresh(group).completed_count == 0
    assert not Attempt.objects.filter(ended_at__isnull=False).exists()


def test_batches_with_failures_do_not_deadlock() -> None:
    """Failures lock the rows of their backends, for the quarantine."""
    first, jobs = begun(4)
    second = factories.submit(*(fence.backend_id for fence, _ in jobs))
    others = [(fence, factories.begin(fence)) for fence, _ in jobs]
    failed = {"state": AttemptState.ERROR, "failure": FailureClass.CUDA_FATAL, "error_message": "x"}
    race(
        partial(group_store, group_id=first.id, writes=[ended(*one, **failed) for one in jobs]),
        partial(group_store, group_id=second.id, writes=[ended(*one, **failed) for one in others[::-1]]),
    )
    assert {factories.fresh(one).status for one in (first, second)} == {"failed"}


@pytest.fixture
async def threads(transactional_db: None) -> AsyncIterator[DatabaseThreads]:
    made = DatabaseThreads(
        threads=1 if connection.vendor == "sqlite" else 4, name="test", batch_commits=connection.vendor == "sqlite"
    )
    yield made
    await asyncio.to_thread(made.close)


async def test_write_after_the_end_of_the_runner_is_refused(threads: DatabaseThreads) -> None:
    async with asyncio.TaskGroup() as tasks:
        completer = Completer(threads, tasks)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await completer.store("jg_1", attempts.attempt_ended, fence=FencingToken("gpu-1", 1), attempt_id=1)


async def test_what_arrives_during_a_transaction_shares_the_next_one(threads: DatabaseThreads) -> None:
    group, jobs = await in_thread(begun)(12)
    async with asyncio.TaskGroup() as tasks:
        completer = Completer(threads, tasks)
        results = await asyncio.gather(
            *(
                completer.store(
                    group.id, attempts.attempt_ended, fence=fence, attempt_id=claim.attempt_id, end=factories.end()
                )
                for fence, claim in jobs
            )
        )
    assert results == [True] * 12
    assert await in_thread(lambda: factories.fresh(group).status)() == "completed"
    rows = await in_thread(lambda: list(JobEvent.objects.values_list("seq", flat=True)))()
    assert sorted(rows) == list(range(1, len(rows) + 1))


async def test_one_bad_write_of_a_batch_fails_alone(threads: DatabaseThreads) -> None:
    group, jobs = await in_thread(begun)(6)

    def bad(**_: Any) -> None:
        raise ValueError("bad")

    async with asyncio.TaskGroup() as tasks:
        completer = Completer(threads, tasks)
        writes = [
            completer.store(
                group.id,
                bad if number == 3 else attempts.attempt_ended,
                fence=fence,
                attempt_id=claim.attempt_id,
                end=factories.end(),
            )
            for number, (fence, claim) in enumerate(jobs)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(one).__name__ for one in results] == ["bool"] * 3 + ["ValueError"] + ["bool"] * 2
    assert (await in_thread(factories.fresh)(group)).completed_count == 5
