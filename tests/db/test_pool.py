"""Claims from the pool: what two of them, or a claim and a change by a person, come to at the same
moment.
"""

import contextlib
import datetime as dt
import time
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from backends.models import Backend, Reachability
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, Placement
from jobgroups.errors import BackendUnavailable, LeaseLost
from jobgroups.models import Attempt, ChildJob, JobGroup, Timing, Variant
from jobgroups.queries import pool
from jobgroups.queries.groups import child_detail, group_snapshot
from jobgroups.queries.pool import pool_snapshot
from jobgroups.services import (
    attempts,
    cancellation,
    claim_sets,
    claims,
    expiry,
    holds,
    leases,
    moves,
    purge,
    retries,
    runners,
)
from jobgroups.services.claims import ClaimResult
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.factories import finish, online, start, submit_to_pool
from tests.harness.races import race
from tests.harness.waits import until

pytestmark = pytest.mark.django_db(transaction=True)


def claim(fence: FencingToken, group: JobGroup, **how: Any) -> ClaimResult:
    choice = factories.pool_choice(group, **how)
    return factories.claim_alone(fence=fence, client_id="c", depth=2, choice=choice)


def claimed_ids(results: list[ClaimResult]) -> list[str]:
    return [one.claim.child_id for one in results if one.claim is not None]


def unsent(group: JobGroup) -> int:
    return sum(one.unsent for one in pool_snapshot(()).variants if one.group_id == group.id)


def test_a_snapshot_has_the_variants_of_open_groups() -> None:
    online("gpu-1")
    factories.submit("gpu-1")
    groups = [submit_to_pool(1), submit_to_pool(1)]
    for _ in "ab":
        assert [one.group_id for one in pool_snapshot(()).variants] == [one.id for one in groups]
        cancellation.group_cancel(group_id=groups.pop(0).id)
        groups.append(submit_to_pool(1))


def test_two_backends_never_claim_one_job() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(1)
    results = race(partial(claim, first, group), partial(claim, second, group))
    assert len(claimed_ids(results)) == 1
    assert sorted(one.in_vain for one in results) == [False, True]
    assert Attempt.objects.count() == 1
    assert factories.types(group) == ["group_created"]


def test_many_claims_at_once_take_each_job_once() -> None:
    fences = [online(f"gpu-{number}") for number in range(6)]
    group = submit_to_pool(8)
    taken = claimed_ids(race(*(partial(claim, fence, group) for fence in fences for _ in "ab")))
    assert len(taken) == len(set(taken)) <= 8
    while len(taken) < 8:
        taken += claimed_ids([claim(fence, group) for fence in fences])
    assert len(set(taken)) == 8
    assert unsent(group) == 0


def test_the_first_claim_starts_a_group_that_was_accepted_without_a_runner() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(2, runner_alive=False)
    assert group.status == "pending"
    race(partial(claim, first, group), partial(claim, second, group))
    claim(second, group)
    assert factories.types(group) == ["group_created", "group_started"]
    assert factories.fresh(group).status == "running"


def claim_any(fence: FencingToken, group: JobGroup) -> ClaimResult:
    """Claim a job of the group, which is bound to backends or in the pool."""
    return claim(fence, group) if group.placement == Placement.POOL else claim_bound(fence)


def claim_bound(fence: FencingToken) -> ClaimResult:
    return factories.claim_alone(fence=fence, client_id="c", depth=2)


@pytest.mark.parametrize("placement", Placement)
def test_a_cancel_and_claims_at_once_leave_no_prompt_without_a_stop(placement: Placement) -> None:
    fences = [online(f"gpu-{number}") for number in range(4)]
    for _ in range(5):
        group = (
            submit_to_pool(6)
            if placement is Placement.POOL
            else factories.submit(*(one.backend_id for one in fences * 2))
        )
        claim_any(fences[0], group)
        race(
            *(partial(claim_any, fence, group) for fence in fences),
            partial(cancellation.group_cancel, group_id=group.id),
        )
        assert all(claim_any(fence, group).claim is None for fence in fences)
        active = Attempt.objects.filter(child__group=group, ended_at__isnull=True)
        assert all(one.stop_requested_at for one in active)
        assert {child.status for child in group.children.all()} == {"cancelled"}
        active.update(ended_at=group.created_at, state=AttemptState.NOT_SENT)


def test_moves_and_claims_at_once_leave_no_prompt_at_the_backend_that_was_left() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    for _ in range(5):
        group = factories.submit("gpu-1", "gpu-1")
        assert claim_bound(first).claim is not None
        waits = group.children.get(current_attempt=None)
        move = partial(moves.child_move, group_id=group.id, job_id=waits.pk, backend_id="gpu-2")
        race(partial(claim_bound, first), partial(claim_bound, second), move)
        active = Attempt.objects.filter(child=waits, ended_at__isnull=True)
        assert all(one.backend_id == "gpu-2" or one.stop_requested_at for one in active)
        assert factories.fresh(waits).backend_id == "gpu-2"
        cancellation.group_cancel(group_id=group.id)
        Attempt.objects.update(ended_at=group.created_at, state=AttemptState.NOT_SENT)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer")
@pytest.mark.parametrize("placement", Placement)
def test_a_claim_does_not_wait_for_outcomes_of_its_group(placement: Placement) -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(4) if placement is Placement.POOL else factories.submit("gpu-1", "gpu-2")
    assert claim_any(first, group).claim is not None
    with group_transaction(group.id):
        (result,) = race(partial(claim_any, second, group))
    assert result.claim is not None


@pytest.mark.parametrize(
    "change",
    [
        partial(holds.backend_hold, backend_id="gpu-1", hold=Hold.PAUSE),
        partial(holds.backend_hold, backend_id="gpu-1", hold=Hold.DRAIN),
        partial(holds.backend_quarantine, backend_id="gpu-1"),
        lambda: Backend.objects.filter(pk="gpu-1").update(enabled=False),
        lambda: Backend.objects.filter(pk="gpu-1").update(tags=[]),
        # A lease under which a claim is being written is skipped.
        lambda: until(lambda: leases.lease_acquire(backend_id="gpu-1", runner="runner"), 10.0),
    ],
    ids=["pause", "drain", "quarantine", "disable", "tag", "takeover"],
)
def test_nothing_is_claimed_after_a_change_that_forbids_it(change: Any) -> None:
    fence = online("gpu-1", tags=["fast"])
    group = submit_to_pool(3, "tag:fast")
    race(partial(claim, fence, group), change, refused=LeaseLost)
    count = Attempt.objects.count()
    with contextlib.suppress(LeaseLost):
        assert claim(fence, group).claim is None
    assert Attempt.objects.count() == count <= 1


def test_a_claim_shows_nothing_and_a_start_shows_the_backend() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(2)
    result = claim(fence, group)
    assert result.from_pool
    assert result.claim is not None
    assert {job["backend_id"] for job in group_snapshot(group.id)["child_jobs"]} == {None}
    start(result.claim, fence)
    assert child_detail(group.id, result.claim.child_id)["backend_id"] == "gpu-1"
    assert factories.log(group)[-1]["backend_id"] == "gpu-1"


def test_a_prompt_that_was_not_sent_goes_back_to_the_pool() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(1)
    claimed = factories.claim_from_pool(first, group)
    assert unsent(group) == 0
    attempts.attempt_not_sent(attempt_id=claimed.pk, fence=first)
    assert unsent(group) == 1
    assert factories.only(group).backend_id is None
    assert claim(second, group).claim is not None


def fail(result: ClaimResult, fence: FencingToken, failure: FailureClass) -> None:
    """Have what was claimed fail, and wait for no pause."""
    assert result.claim is not None
    start(result.claim, fence)
    factories.fail(result.claim, fence, failure)
    ChildJob.objects.update(not_before=None)


def test_a_backend_that_would_fail_again_does_not_take_the_job_again() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(1)
    fail(claim(first, group), first, FailureClass.CUDA_FATAL)
    retry = factories.log(group)[-1]
    assert (retry["type"], retry["backend_id"], retry["next_backend_id"]) == (
        "child_retrying",
        "gpu-1",
        None,
    )
    assert claim(first, group).in_vain
    assert claim(second, group).claim is not None


def test_a_backend_leaves_a_job_that_it_failed_to_others_for_a_minute() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(1)
    fail(claim(first, group), first, FailureClass.NODE_ERROR)
    assert claim(first, group, has_rival=True).in_vain
    minute = dt.timedelta(seconds=61)
    earlier = Attempt.objects.get().ended_at - minute  # type: ignore[operator]
    Attempt.objects.update(ended_at=earlier)
    assert claim(first, group, has_rival=True).claim is not None
    assert second


def test_a_job_fails_at_once_if_every_candidate_would_fail_again() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1)
    fail(claim(fence, group), fence, FailureClass.CUDA_FATAL)
    child = factories.only(group)
    assert (child.status, child.failure_class) == ("failed", "cuda_fatal")


def test_a_job_that_failed_ends_when_the_candidate_for_which_it_waits_stays_away() -> None:
    fence = online("gpu-1")
    online("gpu-2", unreachable_since=now() - dt.timedelta(seconds=590))
    group = submit_to_pool(2, max_attempts=5)
    fail(claim(fence, group), fence, FailureClass.CUDA_FATAL)
    fail_barred = partial(expiry.pool_fail_barred, variant_id=Variant.objects.get().id)
    assert fail_barred() == 0
    Backend.objects.filter(pk="gpu-2").update(unreachable_since=now() - dt.timedelta(seconds=601))
    assert sum(race(fail_barred, fail_barred)) == 1
    failed, waits = group.children.order_by("status")
    assert (failed.status, failed.failure_class, failed.error_message) == (
        "failed",
        "cuda_fatal",
        "It met cuda_fatal.",
    )
    assert waits.status == "queued"
    assert factories.types(group).count("child_failed") == 1


def test_a_retry_by_a_person_within_the_run_lets_every_backend_try_again() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(2)
    fail(claim(fence, group), fence, FailureClass.CUDA_FATAL)
    failed = group.children.get(status="failed")
    time.sleep(0.002)
    retries.child_retry(group_id=group.id, job_id=failed.id)
    assert expiry.pool_fail_barred(variant_id=Variant.objects.get().id) == 0
    assert claimed_ids([claim(fence, group)]) == [failed.id]


def test_a_backend_leaves_a_job_that_a_person_retries_to_others_for_a_minute() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group = submit_to_pool(1, max_attempts=1)
    fail(claim(first, group), first, FailureClass.OUT_OF_MEMORY)
    choice = factories.pool_choice(group, has_rival=True)
    for last, other in ((first, second), (second, first)):
        time.sleep(0.002)
        retries.group_retry(group_id=group.id)
        request = claims.ClaimRequest(fence=last, client_id="c", depth=2, choice=choice)
        assert claim_sets.claims_store(requests=[request]) == {}
        assert request.store_alone().in_vain
        # The last backend alone: without it, two would wait for each other.
        fail(claim(other, group, has_rival=True), other, FailureClass.NODE_ERROR)
    retries.group_retry(group_id=group.id)
    ChildJob.objects.update(queued_at=now() - dt.timedelta(seconds=61))
    assert claim(first, group, has_rival=True).claim is not None


def test_the_older_of_a_bound_job_and_a_job_of_the_pool_is_claimed() -> None:
    fence = online("gpu-1")
    bound, pooled = factories.submit("gpu-1"), submit_to_pool(1)
    first = claim(fence, pooled)
    assert first.claim is not None
    assert (first.claim.child.group_id, first.from_pool) == (bound.id, False)
    younger = factories.submit("gpu-1")
    second = claim(fence, pooled)
    assert second.claim is not None
    assert (second.claim.child.group_id, second.from_pool) == (pooled.id, True)
    assert younger


def test_a_retry_by_a_person_is_refused_if_no_candidate_takes_jobs() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1, max_attempts=1)
    fail(claim(fence, group), fence, FailureClass.NODE_ERROR)
    Backend.objects.update(enabled=False)
    with pytest.raises(BackendUnavailable, match="gpu-1 takes no jobs: Disabled"):
        retries.group_retry(group_id=group.id)
    Backend.objects.update(enabled=True)
    # A variant without a failed job does not matter.
    Variant.objects.create(group=group, number=1, candidates=["tag:none"], queued_at=now())
    retries.group_retry(group_id=group.id)
    assert finish(factories.claim_from_pool(fence, group), fence)
    assert factories.fresh(group).status == "completed"


def test_jobs_without_a_candidate_fail_once_though_two_runners_give_up() -> None:
    online("gpu-1", tags=["other"])
    group = submit_to_pool(600, "tag:none")
    variant = Variant.objects.get(group=group)
    expiry.variants_mark(unplaced=[variant.id], placed=[])
    give_up = partial(expiry.pool_give_up, variant_id=variant.id, limit_s=0)
    assert sum(race(give_up, give_up)) == 600
    assert factories.types(group).count("child_failed") == 600
    assert factories.types(group).count("group_complete") == 1
    assert "no registered backend is a candidate" in (group.children.first().error_message or "")  # type: ignore[union-attr]


def test_a_candidate_that_comes_back_in_time_keeps_the_jobs_alive() -> None:
    online("gpu-1", hold=Hold.DRAIN)
    group = submit_to_pool(2)
    variant = Variant.objects.get(group=group)
    expiry.variants_mark(unplaced=[variant.id], placed=[])
    Backend.objects.update(hold="")
    assert expiry.pool_give_up(variant_id=variant.id, limit_s=0) == 0
    expiry.variants_mark(unplaced=[], placed=[variant.id])
    assert Variant.objects.get().unplaced_since is None


def test_a_job_is_bound_or_has_a_variant() -> None:
    online("gpu-1")
    factories.submit("gpu-1")
    with pytest.raises(IntegrityError), transaction.atomic():
        ChildJob.objects.update(is_bound=False)


def reason(group: JobGroup, at: int = 0) -> str:
    job = group_snapshot(group.id)["child_jobs"][at]
    return job["waiting_reason"] or ""


def test_a_waiting_job_says_its_place_or_what_every_candidate_lacks() -> None:
    online("gpu-1")
    online("gpu-2")
    runners.runner_register(name="runner", instance="i", version="1")
    earlier, group = submit_to_pool(3), submit_to_pool(2)
    assert reason(group, 1) == "5th in line for any of 2 backends."
    assert reason(earlier) == "1st in line for any of 2 backends."
    alone = submit_to_pool(1, "gpu-2")
    assert reason(alone) == "6th in line for gpu-2."
    lacking = submit_to_pool(1, required_capabilities=["gpu:4090"])
    assert reason(lacking) == ("No backend can take it now. gpu-1, gpu-2: Lacks gpu:4090.")


def test_a_waiting_job_is_given_up_when_no_candidate_may_take_it() -> None:
    online("gpu-1")
    online("gpu-2")
    runners.runner_register(name="runner", instance="i", version="1")
    group = submit_to_pool(1)
    away = now() - dt.timedelta(seconds=30)
    Backend.objects.update(unreachable_since=away, reachability=Reachability.OFFLINE)
    holds.backend_hold(backend_id="gpu-2", hold=Hold.PAUSE)
    Backend.objects.filter(pk="gpu-2").update(unreachable_since=None)
    pool._cache.forget()
    assert "gpu-1 has not been reachable since " in reason(group)
    assert "Given up" not in reason(group)
    Backend.objects.update(unreachable_since=away, hold="")
    Variant.objects.update(unplaced_since=away)
    pool._cache.forget()
    assert reason(group).count("Given up at ") == 1
    assert reason(group).endswith(" UTC.")


def test_a_job_that_failed_on_the_only_backend_that_works_waits_for_others() -> None:
    fence = online("gpu-1")
    online("gpu-2")
    runners.runner_register(name="runner", instance="i", version="1")
    group = submit_to_pool(2)
    learned = {"models_digest": "", "seconds": 10, "updated_at": now()}
    Timing.objects.create(workflow_digest=group.workflow_digest, backend_id="gpu-1", **learned)
    fail(claim(fence, group), fence, FailureClass.CUDA_FATAL)
    ChildJob.objects.update(not_before=None)
    assert [reason(group), reason(group, 1)] == [
        "1st in line for gpu-2.",
        "2nd in line for any of 2 backends.",
    ]
    holds.backend_hold(backend_id="gpu-2", hold=Hold.PAUSE)
    pool._cache.forget()
    failed, other = group_snapshot(group.id)["child_jobs"]
    assert failed["waiting_reason"].startswith("No backend can take it now. gpu-2 is paused since ")
    assert failed["waiting_reason"].endswith(" gpu-1: This job failed there.")
    assert other["waiting_reason"] == "2nd in line for gpu-1."
    assert failed["eta_seconds"] is None
    assert other["eta_seconds"] is not None


def test_a_purge_leaves_no_variant() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1)
    finish(factories.claim_from_pool(fence, group), fence)
    long_ago = now() - dt.timedelta(days=40)
    JobGroup.objects.update(created_at=long_ago, completed_at=long_ago)
    list(purge.groups_purge(purge.Limits(age=dt.timedelta(days=30))))
    assert (JobGroup.objects.count(), Variant.objects.count()) == (0, 0)


def test_thousands_of_jobs_are_cancelled_in_a_few_statements(
    django_assert_max_num_queries: Any,
) -> None:
    online("gpu-1")
    group = submit_to_pool(2_500)
    with django_assert_max_num_queries(40):
        cancellation.group_cancel(group_id=group.id)
    assert factories.fresh(group).cancelled_count == 2_500
    assert factories.types(group).count("child_cancelled") == 2_500


def test_a_drain_does_not_wait_for_jobs_of_the_pool() -> None:
    fence = online("gpu-1", hold=Hold.DRAIN)
    group = submit_to_pool(2, "gpu-1", "away")
    assert holds.backend_finish_drain(fence=fence)
    assert (factories.row().enabled, unsent(group)) == (False, 2)
