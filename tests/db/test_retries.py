"""A retry by a user: the next run of a group, in one transaction."""

import datetime as dt
import json
from collections.abc import Callable
from functools import partial

import pytest

from backends.models import Backend
from director.pages import group_list
from director.pages.filters import Filters
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.errors import Conflict, GroupNotFinished, JobCompleted, NothingToRetry
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import groups
from jobgroups.services import cancellation, expiry, runners
from jobgroups.services.assignment import Choice
from jobgroups.services.retries import group_retry
from tests.harness import factories
from tests.harness.factories import begin, idle, only, time_out
from tests.harness.races import race

pytestmark = pytest.mark.django_db


@pytest.fixture
def fence() -> FencingToken:
    runners.runner_register(name="runner", instance="1", version="0")
    return factories.online()


def ended(fence: FencingToken, *states: AttemptState) -> JobGroup:
    """Submit a group of which each child has ended like this."""
    group = factories.submit(*["gpu-1"] * len(states))
    for state in states:
        factories.finish(begin(fence), fence, state)
    return factories.fresh(group)


def timed_out(fence: FencingToken) -> tuple[JobGroup, Attempt]:
    """Submit a group whose only job timed out; its prompt is still to be stopped."""
    group, claimed = factories.running(fence)
    time_out(claimed, fence)
    return group, claimed


def children(group: JobGroup) -> list[ChildJob]:
    return list(group.children.order_by("position"))


SUCCESS, ERROR = AttemptState.SUCCESS, AttemptState.ERROR


def test_retry_requeues_failed_jobs_and_keeps_completed_ones(fence: FencingToken) -> None:
    group = ended(fence, ERROR, SUCCESS, ERROR)
    before = children(group)
    done = group_retry(group_id=group.id)
    first, second, third = children(group)
    assert [child.status for child in (first, second, third)] == ["queued", "completed", "queued"]
    assert (done.run, done.status, done.job_ids) == (2, "running", (first.id, third.id))
    assert (first.run, second.run) == (2, 1)
    assert first.seed == before[0].seed
    assert second.outputs_json == before[1].outputs_json
    stored = factories.fresh(group)
    assert (stored.run, stored.completed_at, stored.status) == (2, None, "running")
    assert (stored.completed_count, stored.failed_count) == (1, 0)
    assert listed(status="running") == [group.id]
    assert listed(status="partial_complete") == []
    row = group_list.group_row(group.id)
    shown = ("queued", "completed", "failed", "ended", "to_retry")
    assert [row[name] for name in shown] == [2, 1, 0, False, 0]
    assert group_list.group_list(Filters(hide="finished"), EVERYBODY)["rows"][0]["id"] == group.id


def listed(**narrowed: str) -> list[str]:
    page = groups.group_list(
        filters=groups.GroupFilter(principal=EVERYBODY, **narrowed),  # type: ignore[arg-type]
        cursor=None,
        limit=10,
    )
    return [row["job_group_id"] for row in page.results]


def test_retry_resets_everything_but_the_attempts(fence: FencingToken) -> None:
    group = ended(fence, ERROR)
    ChildJob.objects.update(
        not_before=now() + dt.timedelta(hours=1),
        uncounted_attempts=4,
        progress=60.0,
        current_step="KSampler",
        steps_completed=12,
        steps_total=20,
        failure_class="node_error",
        warnings_json='["old"]',
        queued_at=now() - dt.timedelta(hours=30),
    )
    group_retry(group_id=group.id)
    (row,) = groups.group_snapshot(group.id)["child_jobs"]
    assert row["progress"] == 0.0
    null = ["current_step", "outputs", "error_message", "error_type", "error_details"]
    assert [row[name] for name in [*null, "started_at", "completed_at"]] == [None] * 7
    assert (row["warnings"], row["attempts"]) == ([], 1)
    (child,) = children(group)
    assert (child.not_before, child.uncounted_attempts, child.failure_class) == (None, 0, "")
    assert (child.current_attempt_id, child.steps_completed, child.steps_total) == (None, 0, 0)
    # The queue limit counts from the retry.
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 0
    (attempt,) = child.attempts.all()
    assert (attempt.run, attempt.state, attempt.error_message) == (1, "error", "CUDA out of memory")


def test_each_run_ends_with_its_own_group_complete(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR)
    last = group.seq
    group_retry(group_id=group.id)
    claimed = begin(fence)
    assert claimed.number == 2
    factories.finish(claimed, fence)
    stored = factories.fresh(group)
    assert (stored.status, stored.run) == ("completed", 2)
    events = [(event["type"], event["run"], event["seq"]) for event in factories.log(group)]
    assert events[-5:] == [
        ("group_complete", 1, last),
        ("group_reopened", 2, last + 1),
        ("child_started", 2, last + 2),
        ("child_completed", 2, last + 3),
        ("group_complete", 2, last + 4),
    ]
    reopened = factories.log(group)[-4]
    retried = children(group)[1]
    assert (reopened["job_ids"], reopened["backend_ids"]) == ([retried.id], ["gpu-1"])
    assert retried.queued_at == dt.datetime.fromisoformat(reopened["reopened_at"])
    results = factories.log(group)[-1]["results"]
    assert [one["status"] for one in results] == ["completed", "completed"]
    assert [row.run for row in Attempt.objects.filter(child=retried)] == [1, 2]


def test_retry_of_named_jobs_requeues_no_others(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR, ERROR)
    _, second, third = children(group)
    done = group_retry(group_id=group.id, job_ids=[third.id, third.id])
    assert done.job_ids == (third.id,)
    assert [child.status for child in children(group)] == ["completed", "failed", "queued"]
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_at) == ("partial_complete", None)
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "partial_complete"
    assert group_retry(group_id=group.id).job_ids == (second.id,)


def test_retry_of_a_cancelled_group_requeues_cancelled_jobs(fence: FencingToken) -> None:
    group = factories.submit(*["gpu-1"] * 3)
    factories.finish(factories.claim(fence), fence)
    factories.finish(factories.claim(fence), fence, ERROR)
    cancellation.group_cancel(group_id=group.id)
    done = group_retry(group_id=group.id)
    assert [child.status for child in children(group)] == ["completed", "queued", "queued"]
    assert len(done.job_ids) == 2
    stored = factories.fresh(group)
    assert (stored.status, stored.cancelled_at, stored.cancelled_count) == ("running", None, 0)
    factories.finish(factories.claim(fence), fence)
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "completed"


def test_job_that_was_cancelled_alone_is_retried_only_by_name(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    factories.finish(factories.claim(fence), fence, ERROR)
    factories.finish(factories.claim(fence), fence)
    cancelled = children(group)[2]
    cancellation.child_cancel(group_id=group.id, job_id=cancelled.id)
    assert group_retry(group_id=group.id).job_ids == (children(group)[0].id,)
    factories.finish(factories.claim(fence), fence)
    with pytest.raises(NothingToRetry):
        group_retry(group_id=group.id)
    assert group_retry(group_id=group.id, job_ids=[cancelled.id]).job_ids == (cancelled.id,)


def test_retry_of_an_unclaimed_group_is_pending_until_a_claim(db: None) -> None:
    factories.backend()
    group = factories.submit(runner_alive=False)
    cancellation.group_cancel(group_id=group.id)
    assert group_retry(group_id=group.id).status == "pending"
    factories.claim(factories.lease())
    assert factories.fresh(group).status == "running"
    assert factories.types(group)[-2:] == ["group_reopened", "group_started"]


def test_retry_of_an_unfinished_group_is_refused(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    factories.finish(factories.claim(fence), fence, ERROR)
    before = factories.log(group)
    with pytest.raises(GroupNotFinished, match="1 job is not final"):
        group_retry(group_id=group.id)
    with pytest.raises(GroupNotFinished):
        group_retry(group_id=group.id, job_ids=[children(group)[0].id])
    assert factories.log(group) == before


def test_retry_of_completed_jobs_is_refused(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR)
    before = factories.log(group)
    with pytest.raises(JobCompleted):
        group_retry(group_id=group.id, job_ids=[child.id for child in children(group)])
    with pytest.raises(NothingToRetry):
        group_retry(group_id=ended(fence, SUCCESS).id)
    assert factories.log(group) == before
    assert factories.fresh(group).completed_at is not None


@pytest.mark.django_db(transaction=True)
def test_concurrent_retries_open_one_run(fence: FencingToken) -> None:
    group = ended(fence, ERROR, ERROR)
    outcomes = race(*[partial(group_retry, group_id=group.id)] * 4, refused=Conflict)
    texts = [one.code if isinstance(one, Conflict) else str(one.run) for one in outcomes]
    assert sorted(texts) == ["2", *["group_not_finished"] * 3]
    assert factories.types(group).count("group_reopened") == 1


def test_retried_job_is_not_claimed_while_its_earlier_prompt_may_run(fence: FencingToken) -> None:
    group, claimed = timed_out(fence)
    # Elsewhere, where the stop of another prompt delays no claim.
    other = factories.online("gpu-2")
    group_retry(group_id=group.id, choice=Choice(elsewhere=RetryScope.ANY))
    assert only(group).backend_id == "gpu-2"
    assert idle(other)
    assert factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    assert (only(group).status, only(group).current_attempt_id) == ("queued", None)
    assert factories.claim(other).number == 2


@pytest.mark.parametrize(
    "late",
    [
        factories.start,
        factories.lose,
        factories.interrupted_by_other,
        factories.fail,
        time_out,
        factories.crash,
    ],
)
def test_earlier_attempt_changes_nothing_of_a_retried_job(
    fence: FencingToken, late: Callable[[Attempt, FencingToken], object]
) -> None:
    group, claimed = timed_out(fence)
    group_retry(group_id=group.id)
    before = factories.log(group)
    late(claimed, fence)
    child = only(group)
    assert (child.status, child.current_attempt_id, child.uncounted_attempts) == ("queued", None, 0)
    assert factories.log(group) == before


def late_success(fence: FencingToken) -> tuple[JobGroup, Attempt]:
    """Submit a group whose only job timed out, and whose prompt succeeded nevertheless."""
    group, claimed = timed_out(fence)
    factories.finish(claimed, fence)
    return factories.fresh(group), Attempt.objects.get(pk=claimed.pk)


def test_retry_adopts_a_late_result(fence: FencingToken) -> None:
    group, attempt = late_success(fence)
    done = group_retry(group_id=group.id)
    child = only(group)
    assert (done.run, done.status, done.job_ids) == (2, "completed", ())
    assert done.adopted_job_ids == (child.id,)
    assert child.status == "completed"
    assert json.loads(child.outputs_json or "") == factories.OUTPUTS
    assert (child.progress, child.current_attempt_id) == (100.0, attempt.pk)
    assert (child.started_at, child.completed_at) == (attempt.started_at, attempt.ended_at)
    events = factories.log(group)[-4:]
    kinds = ["group_reopened", "child_started", "child_completed", "group_complete"]
    assert [event["type"] for event in events] == kinds
    assert {event["run"] for event in events} == {2}
    assert events[2]["outputs"] == factories.OUTPUTS
    assert idle(fence)
    with pytest.raises(NothingToRetry):
        group_retry(group_id=group.id)


@pytest.mark.parametrize("is_registered", [True, False])
def test_retry_does_not_adopt_a_result_without_its_files_or_backend(
    fence: FencingToken, is_registered: bool
) -> None:
    group, attempt = late_success(fence)
    if is_registered:
        Attempt.objects.filter(pk=attempt.pk).update(failure_class="output_gone")
    else:
        factories.backend("gpu-2")
        ChildJob.objects.update(backend="gpu-2")
        Backend.objects.filter(pk="gpu-1").delete()
    done = group_retry(group_id=group.id)
    assert (done.adopted_job_ids, len(done.job_ids)) == ((), 1)
