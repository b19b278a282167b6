"""Turns from rows: which job is claimed next by levels, shares and own orders, of the pool and
bound ones.
"""

import datetime as dt
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.schedule import Backlog, Schedule
from jobgroups.errors import GroupEnded, GroupNotFound
from jobgroups.models import Attempt, ChildJob, JobGroup, ShareCount, Submitter, Variant
from jobgroups.queries.pool import pool_backends, pool_snapshot
from jobgroups.queries.shares import current_shares
from jobgroups.services import cancellation, retries, shares
from jobgroups.services.groups import group_change
from tests.harness.factories import (
    begin,
    claim_alone,
    finish,
    online,
    start,
    submit,
    submit_to_pool,
)
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def next_job(fence: FencingToken) -> str | None:
    """Claim the next job as a runner does that has just read the queue; return its group."""
    schedule = Schedule()
    schedule.renew(Backlog(pool_snapshot(pool_backends())))
    choice = schedule.choose(fence.backend_id, prompts=0)
    first = choice.bound_first if choice else schedule.bound_first(fence.backend_id)
    result = claim_alone(
        fence=fence,
        client_id="c",
        depth=99,
        choice=choice,
        bound_first=first,
        held=schedule.snapshot.held_at.get(fence.backend_id, ()),
    )
    return None if result.claim is None else result.claim.child.group_id


def next_jobs(fence: FencingToken, number: int) -> list[str | None]:
    return [next_job(fence) for _ in range(number)]


def used(submitter: str, took: float, **ago: float) -> None:
    """Have an attempt of a submitter that took so many seconds and ended some time ago."""
    fence = FencingToken("gpu-1", 1)
    group = submit("gpu-1", submitter=submitter)
    ChildJob.objects.filter(group=group).update(queued_at=now() - dt.timedelta(days=1))
    claimed = begin(fence, depth=99)
    assert claimed.child.group_id == group.id
    finish(claimed, fence)
    ended_at = now() - dt.timedelta(**ago)
    started_at = ended_at - dt.timedelta(seconds=took)
    Attempt.objects.filter(pk=claimed.pk).update(ended_at=ended_at, started_at=started_at)


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "pool"])
def test_job_of_a_higher_level_is_claimed_first_and_a_changed_priority_is_obeyed(
    bound: bool,
) -> None:
    fence = online("gpu-1")
    low, usual, high = (
        submit("gpu-1", "gpu-1", priority=priority)
        if bound
        else submit_to_pool(2, priority=priority)
        for priority in (40, 50, 60)
    )
    assert next_job(fence) == high.id
    group_change(group_id=low.id, priority=61)
    assert next_jobs(fence, 6) == [low.id, low.id, high.id, usual.id, usual.id, None]


def test_bound_jobs_and_those_of_the_pool_are_claimed_in_one_order() -> None:
    fence = online("gpu-1")
    bound = submit(*["gpu-1"] * 3, submitter="anna")
    pooled = submit_to_pool(2, submitter="ben")
    later = submit("gpu-1", submitter="ben", priority=70)
    order = [later, bound, bound, pooled, bound, pooled]
    assert next_jobs(fence, 6) == [group.id for group in order]


def test_submitter_who_has_used_less_is_next_and_one_alone_has_everything() -> None:
    fence = online("gpu-1")
    many = submit_to_pool(5, submitter="anna")
    assert next_jobs(fence, 2) == [many.id, many.id]
    few = submit_to_pool(2, address="192.0.2.1")
    # Two prompts of unknown duration count for Anna: both jobs of the client without a name come
    # first.
    assert next_jobs(fence, 5) == [few.id, few.id, many.id, many.id, many.id]


def test_prompt_that_is_being_stopped_is_no_use_of_the_farm() -> None:
    """At a machine that is gone it would be more use with each hour."""
    fence = online("gpu-1")
    anna = submit_to_pool(3, submitter="anna")
    assert next_jobs(fence, 2) == [anna.id, anna.id]
    for claimed in Attempt.objects.all():
        cancellation.child_cancel(group_id=anna.id, job_id=claimed.child_id)
    ben = submit_to_pool(1, submitter="ben")
    assert next_jobs(fence, 2) == [anna.id, ben.id]


def test_weight_is_obeyed_and_first_come_is_first_served_without_shares(settings: Settings) -> None:
    fence = online("gpu-1")
    shares.submitter_change(name="ben", weight=2)
    anna = submit_to_pool(4, submitter="anna")
    ben = submit_to_pool(8, submitter="ben")
    claimed = next_jobs(fence, 9)
    assert claimed.count(ben.id) == 2 * claimed.count(anna.id)
    settings.DIRECTOR_FAIR_SHARE = False
    assert next_jobs(fence, 2) == [anna.id, ben.id]


def test_ended_attempts_count_once_and_less_with_time(settings: Settings) -> None:
    online("gpu-1")
    settings.DIRECTOR_SHARE_HALF_LIFE = 3600
    ShareCount.objects.create(counted_until=now() - dt.timedelta(days=1))
    used("anna", 100, hours=2)
    used("anna", 40, hours=1)
    used("ben", 100, seconds=1)
    expected = {"anna": pytest.approx(45, abs=0.1), "ben": pytest.approx(100, abs=0.1)}
    assert dict(current_shares().used) == expected
    race(*[shares.uses_count] * 4)
    assert Submitter.objects.get(name="anna").used_seconds == pytest.approx(45, abs=0.5)
    # An end of a moment ago may be that of a transaction that is not over.
    assert not Submitter.objects.filter(name="ben").exists()
    assert dict(current_shares().used) == expected
    ShareCount.objects.update(counted_until=now() - dt.timedelta(hours=1.5))
    shares.submitter_change(name="anna", weight=3)
    shares.uses_count()
    assert Submitter.objects.get(name="anna").weight == 3
    assert ShareCount.objects.get().counted_until > now() - dt.timedelta(seconds=30)


def test_next_brings_a_group_before_those_of_its_submitter_or_of_its_level() -> None:
    fence = online("gpu-1")
    first, second, third = (submit_to_pool(1, submitter="anna") for _ in "abc")
    ben = submit("gpu-1", submitter="ben", priority=51)
    shares.group_next(group_id=third.id, in_level=False)
    shares.group_next(group_id=second.id, in_level=True)
    assert next_jobs(fence, 4) == [ben.id, second.id, third.id, first.id]
    with pytest.raises(GroupNotFound):
        shares.group_next(group_id="jg_0", in_level=True)
    cancellation.group_cancel(group_id=first.id)
    with pytest.raises(GroupEnded):
        shares.group_next(group_id=first.id, in_level=False)


def test_retried_group_is_behind_again() -> None:
    online("gpu-1")
    group = submit_to_pool(1)
    shares.group_next(group_id=group.id, in_level=True)
    shares.group_next(group_id=group.id, in_level=False)
    cancellation.group_cancel(group_id=group.id)
    retries.group_retry(group_id=group.id)
    group.refresh_from_db()
    assert (group.front_at, group.ordered_at) == (None, None)
    assert group.waiting_since == Variant.objects.get().queued_at


def mark() -> None:
    snapshot = pool_snapshot(pool_backends())
    waiting, served = snapshot.waiting_changes
    shares.groups_mark_waiting(waiting=waiting, served=served)


def level(group: JobGroup) -> int:
    return {one.group_id: one.turn.level for one in pool_snapshot(()).variants}[group.id]


def waited(group: JobGroup, minutes: float) -> None:
    since = now() - dt.timedelta(minutes=minutes)
    JobGroup.objects.filter(pk=group.id).update(waiting_since=since)


def test_group_rises_while_no_backend_has_a_job_of_it(settings: Settings) -> None:
    settings.DIRECTOR_AGING_MINUTES = 10
    fence = online("gpu-1")
    group = submit_to_pool(2)
    waited(group, 25)
    assert level(group) == 52
    assert next_job(fence) == group.id
    assert level(group) == 50
    mark()
    assert JobGroup.objects.get().waiting_since is None
    attempt = Attempt.objects.get()
    start(attempt, fence)
    finish(attempt, fence)
    assert level(group) == 50
    mark()
    assert JobGroup.objects.get().waiting_since is not None
    mark()
    waited(group, 10)
    assert level(group) == 51
    settings.DIRECTOR_AGING_MINUTES = 0
    assert level(group) == 50


def test_group_rises_while_its_only_prompt_is_being_stopped(settings: Settings) -> None:
    """The stop has no end while the machine is gone."""
    settings.DIRECTOR_AGING_MINUTES = 10
    fence = online("gpu-1")
    group = submit_to_pool(2)
    assert next_job(fence) == group.id
    claimed = Attempt.objects.get()
    start(claimed, fence)
    cancellation.child_cancel(group_id=group.id, job_id=claimed.child_id)
    mark()
    waited(group, 10)
    mark()
    assert level(group) == 51


def test_group_of_the_previous_release_counts_for_its_submitter() -> None:
    fence = online("gpu-1")
    old: dict[str, Any] = {"share_of": None, "priority": None, "waiting_since": None}
    group = submit_to_pool(3, submitter="anna")
    JobGroup.objects.filter(pk=group.id).update(**old)
    same = submit_to_pool(1, submitter="anna")
    assert next_jobs(fence, 4) == [group.id] * 3 + [same.id]
