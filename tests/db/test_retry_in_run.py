"""Policy of a group: a failed job is retried, here or on another backend, or ends."""

import datetime as dt
from collections import Counter
from functools import partial
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend
from jobgroups.domain.clock import iso, now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, cancellation, candidates, expiry
from jobgroups.services.outcomes import MAX_UNCOUNTED
from tests.harness import factories
from tests.harness.factories import begin, fail, farm, idle, lose, online, only, stall, time_out
from tests.harness.races import race

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_backoff")]

GIB = 2**30
MEMORY, RAISED = FailureClass.OUT_OF_MEMORY, FailureClass.NODE_ERROR
FATAL, MISSING = FailureClass.CUDA_FATAL, FailureClass.NODE_OR_MODEL_MISSING


def submit(*names: str, attempts: int = 3, **fields: Any) -> JobGroup:
    fields = {"retry_elsewhere": RetryScope.GROUP, **fields}
    return factories.submit(*names, max_attempts=attempts, **fields)


def retrying(group: JobGroup) -> list[dict[str, Any]]:
    return [event for event in factories.log(group) if event["type"] == "child_retrying"]


def test_first_failure_is_final_without_a_policy() -> None:
    fence, _ = farm(2)
    group = factories.submit("gpu-1")
    fail(begin(fence), fence, MEMORY)
    assert factories.types(group)[1:] == ["child_started", "child_failed", "group_complete"]
    child, attempt = only(group), Attempt.objects.get()
    assert (child.status, child.failure_class) == ("failed", "out_of_memory")
    assert attempt.failure_class == "out_of_memory"
    event = factories.log(group)[2]
    assert (event["failure_class"], event["error"]) == ("out_of_memory", "It met out_of_memory.")


def test_failed_job_is_retried_elsewhere_with_its_seed() -> None:
    first, second = farm(2)
    group = submit("gpu-1", "gpu-2")
    child = group.children.earliest("position")
    other = begin(second)
    fail(begin(first), first, MISSING)
    waits = factories.fresh(child)
    assert (waits.status, waits.backend_id, waits.seed) == ("queued", "gpu-2", child.seed)
    assert (waits.current_attempt_id, waits.error_message, waits.failure_class) == (None, None, "")
    [event] = retrying(group)
    assert event == {
        "type": "child_retrying",
        "seq": event["seq"],
        "run": 1,
        "job_id": child.id,
        "backend_id": "gpu-1",
        "seed": child.seed,
        "variation": None,
        "attempt": 1,
        "failure_class": "node_or_model_missing",
        "reason": "It met node_or_model_missing.",
        "next_backend_id": "gpu-2",
        "not_before": iso(waits.not_before),
        "queued_at": iso(waits.queued_at),
        "requested_by": None,
    }
    assert factories.fresh(group).status == "running"
    factories.finish(other, second)
    again = begin(second)
    assert (again.child_id, again.child.seed) == (child.id, child.seed)
    factories.finish(again, second)
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_count, stored.failed_count) == ("completed", 2, 0)
    assert factories.types(group).count("group_complete") == 1
    assert [row.state for row in child.attempts.all()] == ["error", "success"]


def test_job_fails_after_max_attempts() -> None:
    fence = online("gpu-1")
    group = submit("gpu-1", attempts=3)
    for _ in range(3):
        fail(begin(fence), fence)
    assert idle(fence)
    child = only(group)
    assert (child.status, child.attempt_count, child.failure_class) == ("failed", 3, "node_error")
    retried = ["child_started", "child_retrying"] * 2
    assert factories.types(group)[1:] == [
        *retried,
        "child_started",
        "child_failed",
        "group_complete",
    ]


def test_internal_error_fails_its_job_and_is_not_retried() -> None:
    fence = online("gpu-1")
    group = submit("gpu-1")
    claimed = begin(fence)
    factories.crash(claimed, fence)
    child = only(group)
    assert (child.status, child.failure_class) == ("failed", FailureClass.INTERNAL)
    assert retrying(group) == []


def only_statuses(group: JobGroup) -> list[str]:
    return sorted(group.children.values_list("status", flat=True))


def test_retry_on_names_the_classes_that_are_retried() -> None:
    fence = online("gpu-1")
    group = submit("gpu-1", "gpu-1", retry_on=["out_of_memory"])
    fail(begin(fence), fence, MEMORY)
    fail(begin(fence), fence, RAISED)
    assert len(retrying(group)) == 1
    assert only_statuses(group) == ["failed", "queued"]


def test_job_never_returns_to_a_backend_with_a_fatal_gpu_error() -> None:
    first, second = farm(2)
    group = submit("gpu-1", "gpu-2", attempts=5)
    cancellation.child_cancel(group_id=group.id, job_id=group.children.latest("position").id)
    child = group.children.earliest("position")
    fail(begin(first), first, FATAL)
    fail(begin(second), second, RAISED)
    assert factories.fresh(child).backend_id == "gpu-2"
    fail(begin(second), second, FATAL)
    assert factories.fresh(child).status == "failed"


def test_retry_elsewhere_limits_the_backends() -> None:
    fence = online("gpu-1")
    online("gpu-9")
    within = submit("gpu-1")
    anywhere = submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    nowhere = submit("gpu-1", retry_elsewhere=RetryScope.NEVER)
    for _ in range(3):
        fail(begin(fence), fence, FATAL)
    assert only(within).status == "failed"
    assert (only(anywhere).status, only(anywhere).backend_id) == ("queued", "gpu-9")
    assert only(nowhere).status == "failed"


@pytest.mark.parametrize(
    "unfit",
    [
        {"enabled": False},
        {"hold": "pause"},
        {"hold": "drain"},
        {"quarantined_at": dt.datetime(2026, 1, 1, 0, 0, tzinfo=dt.UTC)},
        {"reachability": "offline"},
        {"reachability": "unknown"},
        {"last_seen_at": dt.datetime(2026, 1, 1, 0, 0, tzinfo=dt.UTC)},
        {"tags": []},
    ],
)
def test_retry_avoids_unschedulable_and_unfit_backends(unfit: dict[str, Any]) -> None:
    fence = online("gpu-1", tags=["lora"])
    online("gpu-2", tags=["lora"])
    group = submit("gpu-1", "gpu-2", required_capabilities=["lora"])
    Backend.objects.filter(pk="gpu-2").update(**unfit)
    fail(begin(fence), fence, FATAL)
    assert group.children.earliest("position").status == "failed"


def test_backend_that_was_skipped_at_submission_may_take_a_retry() -> None:
    fence, _ = farm(2)
    skipped = [{"backend_id": "gpu-2", "reason": "Offline: it was."}]
    group = submit("gpu-1", skipped_backends=skipped)
    fail(begin(fence), fence, FATAL)
    assert only(group).backend_id == "gpu-2"


def test_retry_waits_for_its_backoff(settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 20
    fence = online("gpu-1")
    group = submit("gpu-1")
    fail(begin(fence), fence)
    wait = only(group).not_before - now()
    assert dt.timedelta(seconds=9) < wait < dt.timedelta(seconds=31)
    assert idle(fence)
    ChildJob.objects.update(not_before=now())
    assert not idle(fence)


def test_lost_attempt_is_retried_when_it_ran_and_requeued_otherwise() -> None:
    fence = online("gpu-1")
    group = submit("gpu-1")
    claimed = factories.accept(fence)
    lose(claimed, fence)
    assert retrying(group) == []
    claimed = begin(fence)
    lose(claimed, fence)
    [event] = retrying(group)
    assert (event["failure_class"], event["next_backend_id"]) == ("backend_lost", "gpu-1")


def test_failure_counts_against_its_backend_before_its_job_is_decided(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence, _ = farm(2)
    group = submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    lose(begin(fence), fence)
    assert only(group).backend_id == "gpu-2", "gpu-1 is quarantined"


def test_five_lost_prompts_count_as_one_attempt() -> None:
    fence = online("gpu-1")
    group = submit("gpu-1", attempts=2)
    for _ in range(2 * MAX_UNCOUNTED):
        claimed = factories.accept(fence)
        lose(claimed, fence)
    assert idle(fence)
    child = only(group)
    assert (child.status, child.failure_class) == ("failed", "backend_lost")
    assert child.attempts.filter(is_counted=True).count() == 2


@pytest.fixture
def timed_out() -> tuple[JobGroup, Attempt, FencingToken, FencingToken]:
    """A job that timed out at gpu-1 and waits for gpu-2."""
    first, second = farm(2)
    group = submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    claimed = begin(first)
    assert time_out(claimed, first)
    return group, claimed, first, second


TimedOut = tuple[JobGroup, Attempt, FencingToken, FencingToken]


def test_timed_out_job_is_retried_after_its_prompt_ended(timed_out: TimedOut) -> None:
    group, claimed, first, second = timed_out
    child = only(group)
    assert (child.status, child.backend_id) == ("queued", "gpu-2")
    assert factories.types(group)[1:] == ["child_started", "child_retrying"]
    assert idle(second)
    assert not time_out(claimed, first)
    stopped = factories.end(AttemptState.INTERRUPTED, failure=FailureClass.INTERRUPTED)
    attempts.attempt_ended(attempt_id=claimed.pk, fence=first, end=stopped)
    attempt = Attempt.objects.get()
    assert (attempt.state, attempt.failure_class) == ("timeout", "timeout")
    factories.finish(begin(second), second)
    assert factories.fresh(group).status == "completed"


@pytest.mark.parametrize("is_completed", [True, False])
def test_late_result_changes_nothing_when_the_next_attempt_was_claimed(
    timed_out: TimedOut, is_completed: bool
) -> None:
    group, claimed, first, second = timed_out
    assert stall(claimed, first)
    assert not stall(claimed, first)
    attempt = Attempt.objects.get()
    assert (attempt.failure_class, attempt.ended_at) == ("stalled", None)
    again = factories.claim(second)
    if is_completed:
        factories.finish(again, second)
    before = factories.log(group)
    factories.finish(claimed, first)
    assert factories.log(group) == before
    child = only(group)
    assert child.status == ("completed" if is_completed else "queued")
    assert (child.current_attempt_id, child.backend_id) == (again.pk, "gpu-2")
    assert Attempt.objects.get(pk=claimed.pk).state == "success"


def test_late_result_is_adopted_while_its_job_waits(timed_out: TimedOut) -> None:
    group, claimed, first, second = timed_out
    factories.finish(claimed, first)
    assert idle(second), "it has its result"
    child = only(group)
    assert (child.status, child.backend_id) == ("completed", "gpu-1")
    ends = ["child_started", "child_completed", "group_complete"]
    assert factories.types(group)[2:] == ["child_retrying", *ends]
    assert Attempt.objects.get().failure_class == ""


def test_concurrent_late_result_and_claim_give_one_result(transactional_db: None) -> None:
    first, second = farm(2)
    group = submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    claimed = begin(first)
    time_out(claimed, first)
    stall(claimed, first)
    claim = partial(factories.claim_alone, fence=second, client_id="c", depth=2)
    _, result = race(partial(factories.finish, claimed, first), claim)
    again = result.claim
    child = only(group)
    if again is None:
        assert (child.status, child.current_attempt_id) == ("completed", claimed.pk)
    else:
        assert (child.status, child.current_attempt_id) == ("queued", again.pk)
        factories.finish(again, second)
    assert factories.types(group).count("child_completed") == 1


def gone(claimed: Attempt, fence: FencingToken) -> None:
    end = factories.end(
        failure=FailureClass.OUTPUT_GONE, error_message="All gone.", warnings=("a.png is gone.",)
    )
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=end)


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_result_without_its_files_is_retried_and_then_completes_with_a_warning(
    max_attempts: int,
) -> None:
    fence = online("gpu-1")
    group = submit("gpu-1", attempts=max_attempts)
    for _ in range(max_attempts):
        gone(begin(fence), fence)
    child = only(group)
    assert (child.status, child.warnings_json) == ("completed", '["a.png is gone."]')
    assert (child.failure_class, child.error_message) == ("", None)
    retried = [(event["failure_class"], event["reason"]) for event in retrying(group)]
    assert retried == [("output_gone", "All gone.")] * (max_attempts - 1)


def test_jobs_of_an_offline_backend_are_spread_over_the_others() -> None:
    away, *_ = farm(3)
    group = submit("gpu-1", "gpu-1", "gpu-1", "gpu-1", attempts=1, retry_elsewhere=RetryScope.ANY)
    # Claimed first: two groups of one millisecond are claimed in the order of their ids.
    sent = factories.claim(away)
    stays = factories.submit("gpu-1")
    moved = expiry.children_reassign(
        fence=away, reason="gpu-1 has been away for 60 s.", kind=FailureClass.UNREACHABLE
    )
    assert moved == 3
    bound = [child.backend_id for child in group.children.exclude(pk=sent.child_id)]
    assert sorted(Counter(bound).values()) == [1, 2]
    assert set(bound) == {"gpu-2", "gpu-3"}
    events = retrying(group)
    assert {(one["backend_id"], one["attempt"], one["not_before"]) for one in events} == {
        ("gpu-1", 0, None)
    }
    assert [one["failure_class"] for one in events] == ["unreachable"] * 3
    assert ChildJob.objects.get(pk=sent.child_id).backend_id == "gpu-1"
    assert only(stays).backend_id == "gpu-1"


def test_moved_job_may_return_to_its_first_backend() -> None:
    first, second = farm(2)
    group = submit("gpu-1", "gpu-2")
    cancellation.child_cancel(group_id=group.id, job_id=group.children.latest("position").id)
    expiry.children_reassign(fence=first, reason="gpu-1 is drained.")
    fail(begin(second), second, FATAL)
    assert group.children.earliest("position").backend_id == "gpu-1"


def test_jobs_of_an_unreachable_backend_fail_or_move() -> None:
    away, second = farm(2)
    stays = factories.submit("gpu-1", "gpu-1")
    goes = submit("gpu-1", "gpu-1", retry_elsewhere=RetryScope.ANY)
    factories.claim(away)
    ChildJob.objects.filter(group=stays).update(queued_at=now())
    sent = factories.claim(away)
    assert sent.child.group_id == goes.id
    assert expiry.children_fail_unavailable(fence=away, away_s=600.0, reason="no answer") == 4
    assert only_statuses(stays) == ["failed", "failed"]
    assert {event["failure_class"] for event in factories.log(stays)[1:3]} == {"unreachable"}
    assert set(goes.children.values_list("status", "backend_id")) == {("queued", "gpu-2")}
    old = Attempt.objects.get(pk=sent.pk)
    assert (old.stop_reason, old.failure_class, old.ended_at) == ("gave_up", "unreachable", None)
    # The backend may never return: its attempt delays no other.
    assert factories.claim(second).child.group_id == goes.id
    assert factories.claim(second).child.group_id == goes.id


def test_stalled_backend_is_quarantined_for_its_jobs(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    stuck = online("gpu-1")
    group = factories.submit("gpu-1")
    factories.claim(stuck)
    kind = FailureClass.STALLED
    expiry.children_fail_unavailable(fence=stuck, away_s=600.0, reason="nothing runs", kind=kind)
    assert (only(group).status, only(group).failure_class) == ("failed", "stalled")
    assert Attempt.objects.get().failure_class == "stalled"
    assert Backend.objects.get().quarantined_at is not None


def test_jobs_of_a_disabled_backend_move_when_they_may() -> None:
    fence, _ = farm(2)
    stays, goes = factories.submit("gpu-1"), submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    expiry.children_fail_disabled(fence=fence)
    assert only(stays).status == "failed"
    assert (only(goes).status, only(goes).backend_id) == ("queued", "gpu-2")


def test_retry_skips_a_backend_that_is_deleted_at_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fence, *_ = farm(3)
    group = submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    hold = candidates.lock_backends

    def forgotten_first(ids: list[str]) -> None:
        Backend.objects.filter(pk="gpu-2").delete()
        hold(ids)

    monkeypatch.setattr(candidates, "lock_backends", forgotten_first)
    fail(begin(fence), fence, FATAL)
    assert only(group).backend_id == "gpu-3"


@pytest.mark.parametrize("cancel_first", [True, False])
def test_cancelled_job_is_not_retried(cancel_first: bool) -> None:
    fence = online("gpu-1")
    group = submit("gpu-1")
    claimed = begin(fence)
    if not cancel_first:
        fail(claimed, fence)
    assert cancellation.group_cancel(group_id=group.id).interrupted == 1
    if cancel_first:
        fail(claimed, fence)
    assert only(group).status == "cancelled"
    assert len(retrying(group)) == (0 if cancel_first else 1)
    assert idle(fence)
    assert factories.types(group)[-2:] == ["child_cancelled", "group_complete"]
