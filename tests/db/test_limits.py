"""Limits of the prompts of a group and of a submitter, with several runners at once, and of queued
jobs.
"""

import datetime as dt
from functools import partial
from typing import Any

import pytest

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.errors import QueueFull
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import cancellation, outages, shares
from jobgroups.services.groups import group_change
from tests.db.test_claim_sets import claim_all, request
from tests.db.test_order import next_job, next_jobs
from tests.harness import factories
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def active(**of: Any) -> int:
    return Attempt.objects.filter(ended_at__isnull=True, **of).count()


def end_one(fences: list[FencingToken]) -> None:
    attempt = Attempt.objects.filter(ended_at__isnull=True).earliest("pk")
    (fence,) = (fence for fence in fences if fence.backend_id == attempt.backend_id)
    factories.start(attempt, fence)
    factories.finish(attempt, fence)


@pytest.mark.parametrize("in_pool", [False, True])
@pytest.mark.parametrize("of_submitter", [False, True])
def test_runners_together_keep_a_limit(in_pool: bool, of_submitter: bool) -> None:
    fences = factories.farm(6)
    names = [fence.backend_id for fence in fences]
    if of_submitter:
        shares.submitter_change(name="anna", max_running=3)
    own: dict[str, Any] = {"submitter": "anna"} if of_submitter else {"max_running": 3}
    groups = [
        factories.submit_to_pool(9, **own) if in_pool else factories.submit(*names, **own)
        for _ in range(1 + of_submitter)
    ]
    choices = groups * 3 if in_pool else [None] * 6
    requests = [request(fence, group) for fence, group in zip(fences, choices * 2, strict=False)]
    race(*(partial(claim_all, [requests[at], requests[at + 3]]) for at in range(3)))
    assert active() == 3
    end_one(fences)
    assert active() == 2
    race(*(partial(claim_all, [requests[at], requests[at + 3]]) for at in range(3)))
    assert active() == 3
    for group in groups:
        group_change(group_id=group.id, max_running=None)
    if of_submitter:
        shares.submitter_change(name="anna", max_running=None)
    claim_all(requests)
    assert active() > 3


def test_jobs_behind_a_limit_do_not_keep_others_waiting() -> None:
    fence = factories.online("gpu-1")
    limited = factories.submit(*["gpu-1"] * 3, max_running=1)
    other = factories.submit("gpu-1")
    assert next_jobs(fence, 3) == [limited.id, other.id, None]
    assert active() == 2
    in_pool = factories.submit_to_pool(3, max_running=2, priority=60)
    later = factories.submit_to_pool(1)
    assert next_jobs(fence, 4) == [in_pool.id, in_pool.id, later.id, None]


def test_oldest_bound_job_of_a_full_group_hides_no_other_from_the_service() -> None:
    fence = factories.online("gpu-1")
    limited = factories.submit("gpu-1", "gpu-1", max_running=1)
    other = factories.submit("gpu-1")
    claimed = [factories.claim(fence, depth=5).child.group_id for _ in range(2)]
    assert claimed == [limited.id, other.id]
    assert factories.idle(fence)


def test_prompt_that_is_being_stopped_counts() -> None:
    fence = factories.online("gpu-1")
    group = factories.submit("gpu-1", "gpu-1", max_running=1)
    claimed = factories.begin(fence)
    cancellation.child_cancel(group_id=group.id, job_id=claimed.child_id)
    assert next_job(fence) is None
    factories.removed(claimed, fence)
    assert next_job(fence) == group.id


@pytest.mark.parametrize("of_submitter", [False, True])
def test_stop_that_is_pending_at_a_machine_that_is_gone_holds_no_limit(of_submitter: bool) -> None:
    """A machine that never comes back would keep the limit for ever."""
    away, other = factories.farm(2)
    if of_submitter:
        shares.submitter_change(name="anna", max_running=1)
    own: dict[str, Any] = {"submitter": "anna"} if of_submitter else {"max_running": 1}
    group = factories.submit_to_pool(2, **own)
    claimed = factories.claim_from_pool(away, group)
    factories.start(claimed, away)
    gone = Backend.objects.filter(pk=away.backend_id)
    since = now() - dt.timedelta(seconds=50)
    gone.update(unreachable_since=since, last_seen_at=since, reachability=Reachability.OFFLINE)
    assert outages.attempts_move(fence=away, reason="no answer.") == {claimed.pk}
    ChildJob.objects.update(not_before=None)
    assert next_job(other) is None  # after DIRECTOR_MOVE_AFTER_SECONDS alone
    since -= dt.timedelta(seconds=20)
    gone.update(unreachable_since=since, last_seen_at=now())
    assert next_job(other) is None  # it answers, and is unfit
    gone.update(last_seen_at=since)
    assert next_jobs(other, 2) == [group.id, None]


def test_group_beyond_the_queued_jobs_of_its_submitter_is_refused_whole() -> None:
    fence = factories.online("gpu-1")
    shares.submitter_change(name="anna", max_queued=4)
    factories.submit_to_pool(2, submitter="anna")
    factories.submit("gpu-1", "gpu-1", submitter="anna")
    factories.submit_to_pool(9)
    for refused in (partial(factories.submit_to_pool, 1), partial(factories.submit, "gpu-1")):
        with pytest.raises(QueueFull, match="anna has 4 queued jobs and may have 4"):
            refused(submitter="anna")
    assert JobGroup.objects.count() == 3
    factories.begin(fence)
    factories.submit("gpu-1", submitter="anna")


def test_submissions_at_once_keep_the_number_of_queued_jobs() -> None:
    factories.online("gpu-1")
    shares.submitter_change(name="anna", max_queued=3)

    def submit() -> bool:
        try:
            factories.submit_to_pool(2, submitter="anna")
        except QueueFull:
            return False
        return True

    assert race(*[submit] * 4).count(True) == 1
    assert ChildJob.objects.count() == 2
