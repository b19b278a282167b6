"""Writes of an attempt: allowed transitions, events, fencing, concurrency."""

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import (
    ATTEMPT_ENDED,
    ATTEMPT_MOVES,
    CHILD_FINAL,
    CHILD_MOVES,
    AttemptState,
    ChildStatus,
    StopReason,
)
from jobgroups.errors import LeaseLost
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob, JobGroup
from jobgroups.runner.attempt import result
from jobgroups.services import attempts, cancellation, outcomes
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.factories import abandon, begin, not_sent, time_out
from tests.harness.races import race

pytestmark = pytest.mark.django_db


def put(child: ChildJob, status: ChildStatus) -> None:
    """Force a status and the columns that belong to it."""
    attempt = Attempt.objects.create(
        child=child,
        number=child.attempts.count() + 1,
        run=1,
        backend_id="gpu-1",
        prompt_id=f"p-{child.attempts.count()}",
        client_id="c",
        epoch=1,
        created_at=now(),
    )
    ChildJob.objects.filter(pk=child.pk).update(
        status=status,
        current_attempt=attempt,
        completed_at=now() if status in CHILD_FINAL else None,
        outputs_json="{}" if status is ChildStatus.COMPLETED else None,
    )


@pytest.mark.parametrize("source", ChildStatus)
def test_child_moves_only_as_the_table_says(source: ChildStatus, fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    child = group.children.earliest("position")
    for target in ChildStatus:
        put(child, source)
        fields = {"outputs_json": "{}"} if target is ChildStatus.COMPLETED else {}
        with group_transaction(group.id) as tx:
            moved = tx.move_child(factories.fresh(child), target, **fields)
        assert moved is (target in CHILD_MOVES[source]), target
        assert factories.fresh(child).status == (target if moved else source)


@pytest.mark.parametrize("source", AttemptState)
def test_attempt_moves_only_as_the_table_says(source: AttemptState, fence: FencingToken) -> None:
    def ended(state: AttemptState) -> dt.datetime | None:
        return now() if state in ATTEMPT_ENDED else None

    group = factories.submit()
    factories.claim(fence)
    for target in AttemptState:
        Attempt.objects.update(state=source, ended_at=ended(source))
        with group_transaction(group.id) as tx:
            moved = tx.move_attempt(Attempt.objects.get(), target, ended_at=ended(target))
        assert moved is (target in ATTEMPT_MOVES[source]), target
        assert Attempt.objects.get().state == (target if moved else source)


def test_events_are_in_order_from_submission_to_group_complete(fence: FencingToken) -> None:
    group, claimed = factories.running(fence)
    assert factories.fresh(group).status == "running"
    factories.finish(claimed, fence)
    assert factories.types(group) == [
        "group_created",
        "child_started",
        "child_completed",
        "group_complete",
    ]
    assert [event["seq"] for event in factories.log(group)] == [1, 2, 3, 4]
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_count, stored.seq) == ("completed", 1, 4)
    child = group.children.get()
    assert (child.status, child.progress, child.attempt_count) == ("completed", 100.0, 1)


def test_second_result_of_an_attempt_changes_nothing(fence: FencingToken) -> None:
    group, claimed = factories.claiming(fence)
    assert factories.finish(claimed, fence)
    before = factories.log(group)
    assert not factories.finish(claimed, fence, AttemptState.ERROR)
    assert factories.log(group) == before
    assert group.children.get().status == "completed"


def test_start_event_precedes_the_end_when_the_start_was_missed(fence: FencingToken) -> None:
    group = factories.submit()
    factories.finish(factories.claim(fence), fence, AttemptState.ERROR)
    assert factories.types(group) == [
        "group_created",
        "child_started",
        "child_failed",
        "group_complete",
    ]
    child = group.children.get()
    assert (child.error_message, child.error_type) == ("CUDA out of memory", "ComfyUIError")
    assert factories.fresh(group).status == "failed"


def test_late_result_of_a_cancelled_job_is_stored_on_its_attempt_only(fence: FencingToken) -> None:
    group, claimed = factories.running(fence)
    cancellation.group_cancel(group_id=group.id)
    before = factories.log(group)
    assert factories.finish(claimed, fence)
    assert factories.log(group) == before
    child = group.children.get()
    assert (child.status, child.outputs_json) == ("cancelled", None)
    attempt = child.attempts.get()
    assert attempt.state == "success"
    assert attempt.outputs_json is not None


def test_refused_job_fails_without_a_start(fence: FencingToken) -> None:
    group = factories.submit()
    attempts.attempt_refused(
        attempt_id=factories.claim(fence).pk,
        fence=fence,
        message="PromptInfo has no outputs",
        details={"node_errors": {}},
    )
    assert factories.types(group) == ["group_created", "child_failed", "group_complete"]
    assert factories.log(group)[1]["error_type"] == "ValidationError"


def test_unsent_attempt_is_requeued_and_not_counted(fence: FencingToken) -> None:
    group, first = factories.claiming(fence)
    not_sent(first, fence)
    child = group.children.get()
    assert (child.status, child.current_attempt_id, child.uncounted_attempts) == ("queued", None, 0)
    second = factories.claim(fence)
    assert (second.child_id, second.number) == (first.child_id, 2)
    assert second.prompt_id != first.prompt_id


def test_job_fails_after_five_abandoned_prompts(fence: FencingToken) -> None:
    group = factories.submit()
    for _ in range(outcomes.MAX_UNCOUNTED):
        claimed = factories.claim(fence)
        abandon(claimed, fence)
    assert AbandonedPrompt.objects.count() == outcomes.MAX_UNCOUNTED
    child = group.children.get()
    assert (child.status, child.error_type) == ("failed", "ConnectionError")
    assert factories.types(group) == ["group_created", "child_failed", "group_complete"]


def test_abandoned_prompt_that_runs_is_adopted_while_its_job_waits(fence: FencingToken) -> None:
    group, claimed = factories.claiming(fence)
    abandon(claimed, fence)
    for _ in range(2):
        assert attempts.abandoned_prompt_found(attempt_id=claimed.pk, fence=fence)
    child = group.children.get()
    assert (child.status, child.current_attempt_id) == ("running", claimed.pk)
    assert not AbandonedPrompt.objects.exists()
    factories.finish(claimed, fence)
    assert factories.fresh(group).status == "completed"


def test_abandoned_prompt_is_not_adopted_when_its_job_has_a_newer_attempt(
    fence: FencingToken,
) -> None:
    group, old = factories.claiming(fence)
    abandon(old, fence)
    new = factories.claim(fence)
    assert not attempts.abandoned_prompt_found(attempt_id=old.pk, fence=fence)
    # Its late success is recorded where it belongs, and decides nothing.
    factories.finish(old, fence)
    assert group.children.get().current_attempt_id == new.pk
    assert group.children.get().status == "queued"
    assert AbandonedPrompt.objects.count() == 0


def test_timeout_fails_the_job_and_requests_a_stop(fence: FencingToken) -> None:
    group, claimed = factories.running(fence, timeout_seconds=30)
    assert time_out(claimed, fence)
    child = group.children.get()
    assert (child.status, child.error_message) == ("timeout", "Timed out after 30 s")
    assert factories.types(group)[2:] == ["child_timeout", "group_complete"]
    assert factories.log(group)[2]["failure_class"] == "timeout"
    attempt = child.attempts.get()
    assert (attempt.stop_reason, attempt.failure_class) == ("timeout", "timeout")
    assert attempt.ended_at is None
    # Its place is taken until it is seen to end, and then the attempt says why.
    factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    attempt = child.attempts.get()
    assert (attempt.state, attempt.error_message) == ("timeout", "Timed out after 30 s")
    assert factories.fresh(group).failed_count == 1


@pytest.mark.parametrize(
    "reason", [reason for reason in StopReason if reason != StopReason.TIMEOUT]
)
def test_error_of_a_stopped_attempt_does_not_blame_another_client(
    reason: StopReason, fence: FencingToken
) -> None:
    factories.submit()
    claimed = begin(fence)
    Attempt.objects.update(stop_requested_at=now(), stop_reason=reason)
    url = "http://localhost:8188"
    prompt = result.PromptInfo(prompt_id="p", workflow={}, base_url=url, group_id="g", child_id="j")
    stopped = result.interrupted_result(prompt, {})
    assert attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=stopped)
    said = Attempt.objects.get().error_message
    assert said
    assert "at the machine" not in said


def test_claims_are_limited_by_depth_and_stopping_prompts_count(fence: FencingToken) -> None:
    group, first = factories.claiming(fence, "gpu-1", "gpu-1", "gpu-1")
    factories.claim(fence)
    assert factories.claim_alone(fence=fence, client_id="c", depth=2).claim is None
    cancellation.group_cancel(group_id=group.id)
    factories.submit()
    assert factories.claim_alone(fence=fence, client_id="c", depth=2).claim is None
    factories.start(first, fence)
    # A running prompt is being stopped: its interrupt could hit the next one, whatever the depth.
    assert factories.claim_alone(fence=fence, client_id="c", depth=9).claim is None
    # The cancel of its job could not.
    cancelled = {first.pk}
    assert (
        factories.claim_alone(fence=fence, client_id="c", depth=2, cancelled=cancelled).claim
        is None
    )
    assert (
        factories.claim_alone(fence=fence, client_id="c", depth=9, cancelled=cancelled).claim
        is not None
    )


def test_stale_fencing_token_writes_nothing(fence: FencingToken) -> None:
    group, claimed = factories.claiming(fence)
    factories.submit()
    factories.lease()
    it: Any = {"attempt_id": claimed.pk, "fence": fence}
    calls: list[Callable[[], object]] = [
        lambda: attempts.attempt_accepted(**it),
        lambda: attempts.attempt_started(**it),
        lambda: factories.finish(claimed, fence),
        lambda: attempts.attempt_not_sent(**it),
        lambda: attempts.attempt_timed_out(**it),
        lambda: attempts.attempt_lost(**it, reason=""),
        lambda: factories.claim_alone(fence=fence, client_id="c", depth=9).claim,
    ]
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    assert Attempt.objects.get(pk=claimed.pk).state == "intent"
    assert factories.types(group) == ["group_created"]


def test_database_constraints_reject_inconsistent_rows() -> None:
    factories.backend()
    group = factories.submit()
    child = ChildJob.objects.filter(group=group)
    wrong: list[Callable[[], object]] = [
        lambda: child.update(status="completed", completed_at=now()),
        lambda: child.update(status="failed"),
        lambda: child.update(completed_at=now()),
        lambda: child.update(outputs_json="{}"),
        lambda: child.update(status="running"),
        lambda: child.update(status="nonsense"),
        lambda: child.update(progress=100.5),
        lambda: JobGroup.objects.filter(pk=group.pk).update(status="completed"),
    ]
    for write in wrong:
        with pytest.raises(IntegrityError), transaction.atomic():
            write()


@pytest.mark.django_db(transaction=True)
def test_concurrent_results_and_cancels_end_a_job_once(fence: FencingToken) -> None:
    group, claimed = factories.running(fence)

    def end() -> bool:
        return factories.finish(claimed, fence)

    def cancel() -> bool:
        return cancellation.group_cancel(group_id=group.id).interrupted == 1

    won = race(*[cancel, end] * 4)
    # The attempt is closed once; the child was ended once, by the end or by a cancel.
    assert sum(won[1::2]) == 1
    kinds = factories.types(group)
    finals = [kind for kind in kinds if kind in ("child_completed", "child_cancelled")]
    assert len(finals) == 1
    assert kinds.count("group_complete") == 1
    assert [event["seq"] for event in factories.log(group)] == list(range(1, len(kinds) + 1))


@pytest.mark.django_db(transaction=True)
def test_group_completes_once_when_its_last_jobs_end_together() -> None:
    factories.backend("gpu-1")
    factories.backend("gpu-2")
    fences = [factories.lease("gpu-1"), factories.lease("gpu-2")]
    for _ in range(5):
        group = factories.submit("gpu-1", "gpu-2")
        claimed = [factories.claim(fence) for fence in fences]
        race(*(partial(factories.finish, *one) for one in zip(claimed, fences, strict=True)))
        assert factories.types(group).count("group_complete") == 1
        assert factories.fresh(group).status == "completed"
