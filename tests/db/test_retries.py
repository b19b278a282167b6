"""A retry by a person: the next run of a group, in one transaction."""

from __future__ import annotations

import datetime as dt
import json
from functools import partial

import pytest

from backends.models import Backend
from director.pages import group_list
from director.pages.filters import Filters
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.errors import (
    ChildNotFound,
    Conflict,
    GroupNotFinished,
    GroupNotFound,
    JobCompleted,
    NothingToRetry,
    RunPassed,
)
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import groups as selectors
from jobgroups.services import attempts, cancellation, expiry, runners
from jobgroups.services.assignment import Choice
from jobgroups.services.retries import group_retry
from tests.harness import factories
from tests.harness.factories import begin, idle
from tests.harness.races import race

pytestmark = pytest.mark.django_db


@pytest.fixture
def fence() -> FencingToken:
    """A backend, its lease and a runner that is alive."""
    factories.backend()
    runners.runner_register(name="runner", instance="1", version="0")
    return factories.lease()


def ended(fence: FencingToken, *states: AttemptState) -> JobGroup:
    """Submit a group of which each child has ended like this."""
    group = factories.submit(*["gpu-1"] * len(states))
    for state in states:
        claimed = begin(fence)
        factories.finish(claimed, fence, state)
    return factories.fresh(group)


def timed_out(fence: FencingToken) -> tuple[JobGroup, int]:
    """Submit a group whose only child ran out of time; its prompt is still to be stopped."""
    group = factories.submit()
    claimed = begin(fence)
    attempts.attempt_timed_out(attempt_id=claimed.attempt_id, fence=fence)
    return group, claimed.attempt_id


def children(group: JobGroup) -> list[ChildJob]:
    return list(group.children.order_by("position"))


SUCCESS, ERROR = AttemptState.SUCCESS, AttemptState.ERROR


# --- what is reopened -----------------------------------------------------------------------------


def test_retry_requeues_failed_jobs_and_keeps_completed_ones(fence: FencingToken) -> None:
    group = ended(fence, ERROR, SUCCESS, ERROR)
    before = children(group)
    done = group_retry(group_id=group.id)
    first, second, third = children(group)
    assert [child.status for child in (first, second, third)] == ["queued", "completed", "queued"]
    assert (done.run, done.status, done.job_ids) == (2, "running", [first.id, third.id])
    assert (first.run, second.run) == (2, 1)
    assert first.seed == before[0].seed
    assert second.outputs_json == before[1].outputs_json
    stored = factories.fresh(group)
    assert (stored.run, stored.completed_at, stored.status) == (2, None, "running")
    assert (stored.completed_count, stored.failed_count) == (1, 0)
    # The list shows it where it stands now, and its next end later.
    assert listed(status="running") == [group.id]
    assert listed(status="partial_complete") == []
    row = group_list.group_row(group.id)
    assert (row.queued, row.completed, row.failed, row.ended, row.to_retry) == (2, 1, 0, False, 0)
    assert group_list.group_list(Filters(hide_finished=True)).rows[0].id == group.id


def listed(**narrowed: str) -> list[str]:
    """Return the ids of the groups in the list."""
    page = selectors.group_list(
        filters=selectors.GroupFilter(**narrowed),  # type: ignore[arg-type]
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
    (row,) = selectors.group_snapshot(group.id)["child_jobs"]
    assert row["progress"] == 0.0
    null = ["current_step", "outputs", "error_message", "error_type", "error_details"]
    assert [row[name] for name in [*null, "started_at", "completed_at"]] == [None] * 7
    assert (row["warnings"], row["attempts"]) == ([], 1)
    (child,) = children(group)
    assert (child.not_before, child.uncounted_attempts, child.failure_class) == (None, 0, "")
    assert (child.current_attempt_id, child.steps_completed, child.steps_total) == (None, 0, 0)
    # A day's wait counts from the retry: it must not time out at once.
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 0
    (attempt,) = child.attempts.all()
    assert (attempt.run, attempt.state, attempt.error_message) == (1, "error", "CUDA out of memory")


def test_each_run_ends_with_its_own_group_complete(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR)
    last = group.seq
    group_retry(group_id=group.id)
    claimed = factories.claim(fence)
    assert claimed.number == 2
    factories.start(claimed, fence)
    factories.finish(claimed, fence)
    stored = factories.fresh(group)
    assert (stored.status, stored.run) == ("completed", 2)
    told = [(event["type"], event["run"], event["seq"]) for event in factories.log(group)]
    assert told[-5:] == [
        ("group_complete", 1, last),
        ("group_reopened", 2, last + 1),
        ("child_started", 2, last + 2),
        ("child_completed", 2, last + 3),
        ("group_complete", 2, last + 4),
    ]
    results = factories.log(group)[-1]["results"]
    assert [one["status"] for one in results] == ["completed", "completed"]
    assert [row.run for row in Attempt.objects.filter(child=children(group)[1])] == [1, 2]


def test_reopened_event_names_jobs_and_backends(fence: FencingToken) -> None:
    group = ended(fence, ERROR, ERROR)
    group_retry(group_id=group.id)
    event = factories.log(group)[-1]
    first, second = children(group)
    assert event["type"] == "group_reopened"
    assert event["job_ids"] == [first.id, second.id]
    assert event["backend_ids"] == ["gpu-1", "gpu-1"]
    rows = selectors.group_snapshot(group.id)["child_jobs"]
    assert {row["queued_at"] for row in rows} == {event["reopened_at"]}


def test_each_retry_opens_a_run(fence: FencingToken) -> None:
    group = ended(fence, ERROR)
    for run in range(2, 6):
        assert group_retry(group_id=group.id).run == run
        factories.finish(factories.claim(fence), fence, ERROR)
    seqs = [event["seq"] for event in factories.log(group)]
    assert seqs == list(range(1, len(seqs) + 1))
    runs = [event["run"] for event in factories.log(group) if event["type"] == "group_complete"]
    assert runs == [1, 2, 3, 4, 5]
    assert [row.number for row in children(group)[0].attempts.order_by("id")] == [1, 2, 3, 4, 5]


def test_retry_of_named_jobs_requeues_no_others(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR, ERROR)
    _, second, third = children(group)
    done = group_retry(group_id=group.id, job_ids=[third.id, third.id])
    assert done.job_ids == [third.id]
    assert [child.status for child in children(group)] == ["completed", "failed", "queued"]
    # One done, one failed, one under way: partly done, and not at its end.
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_at) == ("partial_complete", None)
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "partial_complete"
    assert group_retry(group_id=group.id).job_ids == [second.id]


# --- cancelled ------------------------------------------------------------------------------------


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
    assert group_retry(group_id=group.id).job_ids == [children(group)[0].id]
    factories.finish(factories.claim(fence), fence)
    with pytest.raises(NothingToRetry):
        group_retry(group_id=group.id)
    assert group_retry(group_id=group.id, job_ids=[cancelled.id]).job_ids == [cancelled.id]


def test_new_run_can_be_cancelled(fence: FencingToken) -> None:
    group = ended(fence, SUCCESS, ERROR)
    group_retry(group_id=group.id)
    told = cancellation.group_cancel(group_id=group.id)
    assert (told.cancelled, told.interrupted, told.already_complete) == (True, 1, 1)
    assert factories.types(group)[-2:] == ["child_cancelled", "group_complete"]


def test_retry_of_an_unclaimed_group_is_pending_until_a_claim(db: None) -> None:
    factories.backend()
    group = factories.submit(runner_alive=False)
    cancellation.group_cancel(group_id=group.id)
    assert group_retry(group_id=group.id).status == "pending"
    factories.claim(factories.lease())
    assert factories.fresh(group).status == "running"
    assert factories.types(group)[-2:] == ["group_reopened", "group_started"]


# --- refused --------------------------------------------------------------------------------------


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


def test_retry_of_an_unknown_group_or_job_is_refused(fence: FencingToken) -> None:
    group = ended(fence, ERROR)
    with pytest.raises(GroupNotFound):
        group_retry(group_id="jg_0")
    with pytest.raises(ChildNotFound, match="j_0"):
        group_retry(group_id=group.id, job_ids=[children(group)[0].id, "j_0"])
    with pytest.raises(ChildNotFound):
        group_retry(group_id=group.id, job_ids=[children(ended(fence, ERROR))[0].id])
    assert factories.fresh(group).run == 1


def test_retry_of_an_earlier_run_is_refused(fence: FencingToken) -> None:
    group = ended(fence, ERROR)
    group_retry(group_id=group.id, run=1)
    with pytest.raises(RunPassed, match="run 2"):
        group_retry(group_id=group.id, run=1)
    factories.finish(factories.claim(fence), fence, ERROR)
    with pytest.raises(RunPassed):
        group_retry(group_id=group.id, run=1)
    assert group_retry(group_id=group.id, run=2).run == 3


@pytest.mark.django_db(transaction=True)
def test_concurrent_retries_open_one_run(fence: FencingToken) -> None:
    group = ended(fence, ERROR, ERROR)
    outcomes = race(*[partial(group_retry, group_id=group.id)] * 4, refused=Conflict)
    texts = [one.code if isinstance(one, Conflict) else str(one.run) for one in outcomes]
    assert sorted(texts) == ["2", *["group_not_finished"] * 3]
    assert factories.types(group).count("group_reopened") == 1


# --- earlier attempts -----------------------------------------------------------------------------


def test_retried_job_is_not_claimed_while_its_earlier_prompt_may_run(fence: FencingToken) -> None:
    group, attempt_id = timed_out(fence)
    # RetryScope, where no stop of another prompt stands in its way.
    factories.backend("gpu-2", reachability="online", last_seen_at=now())
    group_retry(group_id=group.id, choice=Choice(elsewhere=RetryScope.ANY))
    other = factories.lease("gpu-2")
    (child,) = children(group)
    assert child.backend_id == "gpu-2"
    assert idle(other)
    end = factories.end(AttemptState.INTERRUPTED)
    assert attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=end)
    (child,) = children(group)
    assert (child.status, child.current_attempt_id) == ("queued", None)
    assert factories.claim(other).number == 2


@pytest.mark.parametrize("late", ["started", "lost", "struck", "error", "timeout", "broken"])
def test_earlier_attempt_changes_nothing_of_a_retried_job(fence: FencingToken, late: str) -> None:
    group, attempt_id = timed_out(fence)
    group_retry(group_id=group.id)
    before = factories.log(group)
    {
        "started": lambda: attempts.attempt_started(attempt_id=attempt_id, fence=fence),
        "lost": lambda: attempts.attempt_lost(attempt_id=attempt_id, fence=fence, reason="gone"),
        "struck": lambda: attempts.attempt_interrupted_by_other(
            attempt_id=attempt_id, fence=fence, end=factories.end(AttemptState.INTERRUPTED)
        ),
        "error": lambda: attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=factories.end(ERROR)),
        "timeout": lambda: attempts.attempt_timed_out(attempt_id=attempt_id, fence=fence),
        "broken": lambda: attempts.attempt_failed_internally(attempt_id=attempt_id, fence=fence, message="x"),
    }[late]()
    (child,) = children(group)
    assert (child.status, child.current_attempt_id, child.uncounted_attempts) == ("queued", None, 0)
    assert factories.log(group) == before


# --- a result that came late ----------------------------------------------------------------------


def late_success(fence: FencingToken) -> tuple[JobGroup, Attempt]:
    """Submit a group whose only child timed out, and whose prompt succeeded all the same."""
    group, attempt_id = timed_out(fence)
    attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=factories.end())
    return factories.fresh(group), Attempt.objects.get(pk=attempt_id)


def test_retry_adopts_a_late_result(fence: FencingToken) -> None:
    group, attempt = late_success(fence)
    done = group_retry(group_id=group.id)
    (child,) = children(group)
    assert (done.run, done.status, done.job_ids) == (2, "completed", [])
    assert done.adopted_job_ids == [child.id]
    assert child.status == "completed"
    assert json.loads(child.outputs_json or "") == factories.OUTPUTS
    assert (child.progress, child.current_attempt_id) == (100.0, attempt.pk)
    assert (child.started_at, child.completed_at) == (attempt.started_at, attempt.ended_at)
    told = factories.log(group)[-4:]
    kinds = ["group_reopened", "child_started", "child_completed", "group_complete"]
    assert [event["type"] for event in told] == kinds
    assert {event["run"] for event in told} == {2}
    assert told[2]["outputs"] == factories.OUTPUTS
    assert idle(fence)
    with pytest.raises(NothingToRetry):
        group_retry(group_id=group.id)


def test_retry_adopts_the_result_of_a_cancelled_prompt(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    claimed = begin(fence)
    cancellation.group_cancel(group_id=group.id)
    factories.finish(claimed, fence)
    done = group_retry(group_id=group.id)
    first, second = children(group)
    assert (done.adopted_job_ids, done.job_ids) == ([first.id], [second.id])
    assert (first.status, second.status) == ("completed", "queued")
    assert factories.fresh(group).status == "running"


@pytest.mark.parametrize("is_registered", [True, False])
def test_retry_does_not_adopt_a_result_without_its_files_or_backend(fence: FencingToken, is_registered: bool) -> None:
    group, attempt = late_success(fence)
    if is_registered:
        Attempt.objects.filter(pk=attempt.pk).update(failure_class="output_gone")
    else:
        factories.backend("gpu-2")
        ChildJob.objects.update(backend="gpu-2")
        Backend.objects.filter(pk="gpu-1").delete()
    done = group_retry(group_id=group.id)
    assert (done.adopted_job_ids, len(done.job_ids)) == ([], 1)
