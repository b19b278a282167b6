"""Claims of many backends in one transaction: what is not plain is left to the service, and no job
is claimed twice. ``test_attempt_sets`` compares sets with services.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from backends.models import Backend
from backends.states import Hold
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.errors import SetRefused
from jobgroups.models import Attempt, ChildJob, Exclusion, JobGroup
from jobgroups.queries.pool import pool_backends, pool_snapshot
from jobgroups.runner.claims import Claims
from jobgroups.runner.sets import Tasks
from jobgroups.services import cancellation, claim_sets, holds, pauses
from jobgroups.services.claim_sets import claims_store
from jobgroups.services.claims import ClaimRequest, ClaimResult
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.races import race, started

pytestmark = pytest.mark.django_db(transaction=True)


def request(fence: FencingToken, group: JobGroup | None = None, depth: int = 2) -> ClaimRequest:
    """Return the request of a claim; of the pool with a group."""
    choice = None if group is None else factories.pool_choice(group)
    return ClaimRequest(fence=fence, client_id="s", depth=depth, choice=choice)


def claim_all(requests: list[ClaimRequest]) -> list[str]:
    """Claim as a runner does, and return the jobs."""
    results = claims_store(requests=requests)
    claims = [(results.get(one) or one.store_alone()).claim for one in requests]
    return [claim.child_id for claim in claims if claim is not None]


def test_claims_of_many_backends_take_as_many_statements_as_those_of_few() -> None:
    counts = []
    for backends in (2, 8):
        Backend.objects.all().delete()
        fences = factories.farm(backends)
        groups = [factories.submit(*(fence.backend_id for fence in fences)) for _ in range(2)]
        for _ in groups:
            with CaptureQueriesContext(connection) as queries:
                results = claims_store(requests=[request(fence) for fence in fences])
            assert [result.claim is not None for result in results.values()] == [True] * backends
        counts.append(len(queries))
        Attempt.objects.all().delete()
        JobGroup.objects.all().delete()
    assert counts[0] == counts[1]


def test_backends_of_a_set_take_different_jobs_of_the_pool_in_their_order() -> None:
    fences = factories.farm(3)
    group = factories.submit_to_pool(4)
    results = claims_store(requests=[request(fence, group) for fence in fences])
    claims = [result.claim for result in results.values() if result.from_pool]
    assert [claim.child.position for claim in claims if claim] == [0, 1, 2]


def test_set_takes_the_bound_job_of_the_group_that_comes_first(fence: FencingToken) -> None:
    _, later = factories.submit("gpu-1"), factories.submit("gpu-1")
    request = ClaimRequest(fence=fence, client_id="s", depth=2, bound_first=later.pk)
    (result,) = claims_store(requests=[request]).values()
    assert result.claim is not None
    assert result.claim.child.group_id == later.pk


def test_backend_takes_its_bound_job_if_the_pool_has_none_that_came_first(
    fence: FencingToken,
) -> None:
    group, bound = factories.submit_to_pool(1), factories.submit("gpu-1")
    choice = factories.pool_choice(group)
    factories.claim_from_pool(fence, group)
    request = ClaimRequest(fence=fence, client_id="s", depth=2, choice=choice, bound_first="")
    assert claim_all([request]) == [factories.only(bound).id]


def steps_of(work: Callable[[], object]) -> int:
    """Return about how many instructions SQLite executes."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 10
        return 0

    connection.connection.set_progress_handler(count, 10)
    try:
        work()
    finally:
        connection.connection.set_progress_handler(None, 0)
    return steps


@pytest.mark.skipif(connection.vendor != "sqlite", reason="counts the instructions of SQLite")
@pytest.mark.parametrize("store", [claim_all, lambda requests: requests[0].store_alone()])
def test_claim_passes_over_the_jobs_of_a_paused_group_in_the_index(
    fence: FencingToken, store: Callable[[list[ClaimRequest]], object]
) -> None:
    def steps(jobs: int) -> int:
        group = factories.submit(*["gpu-1"] * jobs)
        pauses.group_pause(group_id=group.pk)
        held = pool_snapshot(pool_backends()).held_at["gpu-1"]
        request = ClaimRequest(fence=fence, client_id="s", depth=9, bound_first=later.pk, held=held)
        executed = steps_of(lambda: store([request]))
        assert Attempt.objects.latest("pk").child.group_id == later.pk
        return executed

    later = factories.submit(*["gpu-1"] * 3)
    ChildJob.objects.filter(group=later).update(queued_at=now() + dt.timedelta(minutes=1))
    steps(1)
    few, many = steps(1), steps(500)
    assert many - few < 500 * 20


def test_set_answers_for_a_backend_without_work(fence: FencingToken) -> None:
    factories.backend("gpu-2")
    factories.submit("gpu-2")
    (result,) = claims_store(requests=[request(fence)]).values()
    assert (result.claim, result.in_vain) == (None, False)


def delayed() -> None:
    ChildJob.objects.update(not_before=now() + dt.timedelta(seconds=30))


def with_an_older_prompt(state: AttemptState = AttemptState.ACCEPTED) -> None:
    for child in ChildJob.objects.all():
        Attempt.objects.create(
            child=child,
            number=1,
            run=1,
            backend_id="gpu-2",
            prompt_id=child.id,
            epoch=1,
            state=state,
            created_at=now(),
        )


def with_a_prompt_that_is_stopped() -> None:
    other = factories.submit("gpu-1")
    stopping = {"stop_requested_at": now(), "stop_reason": StopReason.CANCEL}
    Attempt.objects.create(
        child=factories.only(other),
        number=1,
        run=1,
        backend_id="gpu-1",
        prompt_id="p",
        epoch=1,
        state=AttemptState.RUNNING,
        created_at=now(),
        started_at=now(),
        **stopping,
    )
    ChildJob.objects.filter(group=other).update(status="cancelled", completed_at=now())


def excluded() -> None:
    for digest in {group.workflow_digest for group in JobGroup.objects.all()}:
        Exclusion.objects.create(
            backend_id="gpu-1",
            workflow_digest=digest,
            kind=ExclusionKind.MISSING,
            count=1,
            since=now(),
            last_at=now(),
        )


def change(**fields: Any) -> Callable[[], object]:
    return lambda: Backend.objects.filter(pk="gpu-1").update(**fields)


def pause_group() -> None:
    pauses.group_pause(group_id=JobGroup.objects.latest("created_at").id)


def start_later() -> None:
    newest = JobGroup.objects.latest("created_at").id
    JobGroup.objects.filter(pk=newest).update(start_after=now() + dt.timedelta(minutes=1))


FORBIDDEN: dict[str, Callable[[], object]] = {
    "group paused": pause_group,
    "not started": start_later,
    "submitter paused": partial(pauses.submitter_pause, name="192.0.2.1"),
    "farm paused": pauses.queue_pause,
    "lease lost": factories.lease,
    "paused": partial(holds.backend_hold, backend_id="gpu-1", hold=Hold.PAUSE),
    "quarantined": partial(holds.backend_quarantine, backend_id="gpu-1"),
    "disabled": change(enabled=False),
    "delayed": delayed,
    "older prompt": with_an_older_prompt,
    "stopped prompt": with_a_prompt_that_is_stopped,
}
OF_POOL: dict[str, Callable[[], object]] = {"excluded": excluded, "tag removed": change(tags=[])}


@pytest.mark.parametrize("in_pool", [False, True])
@pytest.mark.parametrize("cause", [*FORBIDDEN, *OF_POOL])
def test_set_claims_nothing_that_is_forbidden_after_the_job_was_chosen(
    cause: str, in_pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_pool and cause in OF_POOL:
        pytest.skip("It forbids nothing to a bound job.")
    fence = factories.online("gpu-1", tags=["fast"])
    other = factories.online("gpu-2")
    factories.submit("gpu-2")
    own = {"address": "192.0.2.1"}
    group = (
        factories.submit_to_pool(1, "tag:fast", **own)
        if in_pool
        else factories.submit("gpu-1", **own)
    )
    requests = [request(fence, group if in_pool else None), request(other)]
    choose = claim_sets.store.oldest_bound

    def choose_before(backend_ids: Any, **options: Any) -> Any:
        chosen = choose(backend_ids, **options)
        (FORBIDDEN | OF_POOL)[cause]()
        return chosen

    monkeypatch.setattr(claim_sets.store, "oldest_bound", choose_before)
    results = claims_store(requests=requests)
    assert requests[0] not in results
    is_for_all = cause in ("delayed", "older prompt", "farm paused")
    assert (requests[1] in results) is not is_for_all


def test_set_takes_no_slot_that_is_used(fence: FencingToken) -> None:
    factories.submit("gpu-1", "gpu-1", "gpu-1")
    for expected in (1, 2, 2):
        claims_store(requests=[request(fence)])
        assert Attempt.objects.count() == expected


def test_set_gives_a_backend_on_probation_no_second_prompt(fence: FencingToken) -> None:
    factories.submit("gpu-1", "gpu-1")
    factories.claim(fence)
    Backend.objects.update(consecutive_quarantines=1)
    assert claim_all([request(fence)]) == []


def test_job_that_was_moved_after_it_was_chosen_is_left_to_the_service(
    fence: FencingToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.backend("gpu-2")
    factories.submit()
    choose = claim_sets.store.oldest_bound

    def choose_before(*args: Any, **options: Any) -> Any:
        chosen = choose(*args, **options)
        ChildJob.objects.update(backend_id="gpu-2")
        return chosen

    monkeypatch.setattr(claim_sets.store, "oldest_bound", choose_before)
    assert claim_all([request(fence)]) == []


def test_workflow_that_may_be_uncertain_is_left_to_the_service(fence: FencingToken) -> None:
    group = factories.submit()
    withheld = ClaimRequest(
        fence=fence, client_id="s", depth=2, withheld=frozenset({group.workflow_digest})
    )
    assert claims_store(requests=[withheld]) == {}
    assert withheld.store_alone().claim is None


def test_set_whose_job_was_bound_meanwhile_stores_nothing(
    fence: FencingToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = factories.submit()
    bind = claim_sets.store.bind

    def late(rows: Any) -> Any:
        ChildJob.objects.update(status="cancelled", completed_at=now())
        return bind(rows)

    monkeypatch.setattr(claim_sets.store, "bind", late)
    with pytest.raises(SetRefused):
        claims_store(requests=[request(fence)])
    assert not Attempt.objects.exists()
    assert factories.only(group).status == "queued"


def test_first_claim_of_a_pending_group_is_its_event(fence: FencingToken) -> None:
    group = factories.submit(runner_alive=False)
    asked = request(fence)
    assert claims_store(requests=[asked]) == {}
    assert asked.store_alone().claim is not None
    assert factories.types(group) == ["group_created", "group_started"]


def test_claim_that_a_set_has_left_out_is_stored_by_the_service(fence: FencingToken) -> None:
    group = factories.submit(runner_alive=False)
    database = DatabaseThreads(threads=1, name="test-claims")

    async def claim() -> ClaimResult:
        async with asyncio.TaskGroup() as tasks:
            return await Claims(database, Tasks(tasks)).claim(request(fence))

    result = asyncio.run(claim())
    database.close()
    assert result.claim is not None
    assert result.claim.child_id == factories.only(group).pk


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer")
def test_set_waits_for_no_group_that_another_transaction_has_locked() -> None:
    fences = factories.farm(2)
    group = factories.submit("gpu-1")
    factories.submit("gpu-2")
    requests = [request(fence) for fence in fences]
    results: list[Any] = []
    with group_transaction(group.id):
        started(lambda: results.append(claims_store(requests=requests))).join(20)
    assert [one in results[0] for one in requests] == [False, True]


@pytest.mark.parametrize("in_pool", [False, True])
def test_sets_and_a_cancel_at_once_leave_no_prompt_without_a_stop(in_pool: bool) -> None:
    fences = factories.farm(4)
    for _ in range(5):
        names = [fence.backend_id for fence in fences * 2]
        group = factories.submit_to_pool(6) if in_pool else factories.submit(*names)
        of_pool = group if in_pool else None
        race(
            *(
                partial(claim_all, [request(fence, of_pool) for fence in some])
                for some in (fences[:2], fences[2:])
            ),
            partial(cancellation.group_cancel, group_id=group.id),
        )
        active = Attempt.objects.filter(child__group=group, ended_at__isnull=True)
        assert all(attempt.stop_requested_at for attempt in active)
        assert {child.status for child in group.children.all()} == {"cancelled"}
        active.update(ended_at=group.created_at, state=AttemptState.NOT_SENT)


def test_sets_of_two_runners_claim_each_job_of_the_pool_once() -> None:
    fences = factories.farm(6)
    for _ in range(5):
        group = factories.submit_to_pool(8)
        halves = [
            partial(claim_all, [request(fence, group) for fence in some])
            for some in (fences[:3], fences[3:])
        ]
        first, second = race(*halves)
        assert len({*first, *second}) == len(fences)
        cancellation.group_cancel(group_id=group.id)
        Attempt.objects.update(ended_at=group.created_at, state=AttemptState.NOT_SENT)
