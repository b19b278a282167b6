"""Attempts that end after their job was closed or retried without them."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, PartialOutputs, RetryScope
from jobgroups.events.hub import hub
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, cancellation, expiry, holds, outages, retries
from jobgroups.services.assignment import Choice
from jobgroups.services.outcomes import MAX_UNCOUNTED
from tests.db.stream_client import assert_law, connect
from tests.harness import factories
from tests.harness.factories import abandon, begin, evict, fail, farm, idle, lose, online, only, row
from tests.harness.races import started
from tests.ws.client_state import ClientState

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_backoff")]

FATAL = FailureClass.CUDA_FATAL


def give_up(fence: FencingToken) -> None:
    expiry.children_fail_unavailable(fence=fence, away_s=600, reason="connection refused")


def hang(fence: FencingToken) -> Attempt:
    factories.submit(fence.backend_id)
    claimed = begin(fence)
    factories.time_out(claimed, fence)
    assert factories.stall(claimed, fence)
    return claimed


@pytest.mark.parametrize("ending", ["lost", "error", "interrupted"])
def test_stalled_attempt_that_ends_after_the_release_does_not_quarantine_again(
    settings: Settings, ending: str
) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence = online("gpu-1")
    claimed = hang(fence)
    assert row().quarantined_at is not None
    holds.backend_release(backend_id="gpu-1")
    if ending == "lost":
        lose(claimed, fence)
    else:
        factories.finish(claimed, fence, AttemptState(ending))
    assert Attempt.objects.get().ended_at is not None
    assert row().quarantined_at is None
    # Nor with the first failure after its probation.
    factories.submit()
    factories.finish(begin(fence), fence)
    settings.DIRECTOR_QUARANTINE_FAILURES = 2
    factories.submit()
    fail(begin(fence), fence, FATAL)
    assert row().quarantined_at is None


@pytest.mark.parametrize("stop", ["cancel", "pause"])
def test_stopped_prompt_that_is_lost_does_not_count_against_its_backend(
    settings: Settings, stop: str
) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence = online("gpu-1")
    group, claimed = factories.running(fence)
    if stop == "cancel":
        cancellation.group_cancel(group_id=group.id)
    else:
        evict(fence)
    lose(claimed, fence)
    attempt = Attempt.objects.get()
    assert (attempt.state, attempt.failure_class) == ("lost", "")
    assert row().quarantined_at is None


def test_backend_that_was_paused_and_switched_off_is_not_quarantined(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence, other = farm(2)
    group, claimed = factories.running(fence, retry_elsewhere=RetryScope.ANY)
    evict(fence)
    assert idle(other)
    factories.stall(claimed, fence, reachable=False)
    assert row().quarantined_at is None
    factories.finish(begin(other), other)
    lose(claimed, fence)
    assert row().quarantined_at is None
    assert only(group).status == "completed"


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_backend_that_repeatedly_loses_queued_prompts_is_quarantined_unless_they_are_cancelled(
    settings: Settings, is_cancelled: bool
) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence = online("gpu-1")
    group = factories.submit()
    for _ in range(MAX_UNCOUNTED):
        assert row().quarantined_at is None
        claimed = factories.accept(fence)
        if is_cancelled and claimed.number == MAX_UNCOUNTED:
            cancellation.group_cancel(group_id=group.id)
        lose(claimed, fence)
    assert (row().quarantined_at is None) is is_cancelled
    assert only(group).status == ("cancelled" if is_cancelled else "failed")


def test_retry_waits_for_the_result_of_the_prompt_at_the_returned_backend() -> None:
    fence = online("gpu-1")
    group = factories.submit()
    claimed = factories.accept(fence)
    give_up(fence)
    assert only(group).status == "failed"
    retries.group_retry(group_id=group.id)
    # It is back: the result of the first prompt is soon known.
    assert idle(fence)
    factories.finish(claimed, fence)
    assert only(group).status == "completed"
    assert Attempt.objects.count() == 1


Overtaken = tuple[JobGroup, Attempt, Attempt, FencingToken, ClientState]


@pytest.fixture
def overtaken() -> Overtaken:
    """A job whose first attempt succeeded while the second one was active."""
    first, second = farm(2)
    group = factories.submit("gpu-1", max_attempts=2, retry_elsewhere=RetryScope.ANY)
    client = connect(group)
    claimed = begin(first)
    factories.time_out(claimed, first)
    factories.stall(claimed, first)
    again = factories.claim(second)
    factories.finish(claimed, first, execution={"outputs_reused": True})
    assert only(group).status == "queued"
    return group, claimed, again, second, client


def fail_started(claimed: Attempt, fence: FencingToken) -> None:
    factories.start(claimed, fence)
    fail(claimed, fence)


def refuse(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_refused(attempt_id=claimed.pk, fence=fence, message="no such node", details={})


def evict_started(claimed: Attempt, fence: FencingToken) -> None:
    factories.start(claimed, fence)
    evict(fence)


def give_up_accepted(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    give_up(fence)
    # Its slot is taken, and its stop pending, until its end is seen.
    assert Attempt.objects.get(pk=claimed.pk).stop_reason == "gave_up"


def go_offline(claimed: Attempt, fence: FencingToken) -> None:
    factories.start(claimed, fence)
    Backend.objects.filter(pk=fence.backend_id).update(
        reachability=Reachability.OFFLINE, unreachable_since=now()
    )
    assert outages.attempts_move(fence=fence, reason="It does not answer.") == {claimed.pk}


def lose_files(claimed: Attempt, fence: FencingToken) -> None:
    factories.start(claimed, fence)
    gone = factories.end(failure=FailureClass.OUTPUT_GONE)
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=gone)


@pytest.mark.parametrize(
    ("end_last", "was_started"),
    [
        (fail_started, True),
        (refuse, False),
        (factories.not_sent, False),
        (evict_started, True),
        (give_up_accepted, False),
        (go_offline, True),
        (lose_files, True),
    ],
)
def test_late_result_is_adopted_when_the_last_attempt_gives_none(
    overtaken: Overtaken, end_last: Callable[[Attempt, FencingToken], None], was_started: bool
) -> None:
    group, claimed, last, second, client = overtaken
    end_last(last, second)
    child = only(group)
    assert (child.status, child.backend_id, child.outputs_reused) == ("completed", "gpu-1", True)
    assert child.current_attempt_id == claimed.pk
    assert (child.error_message, child.failure_class) == (None, "")
    assert idle(second)
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_count) == ("completed", 1)
    assert_law(client)
    types = factories.types(group)
    assert types[types.index("child_retrying") + 1 :] == [
        *(["child_started", "child_requeued"] if was_started else []),
        "child_started",
        "child_completed",
        "group_complete",
    ]
    assert Attempt.objects.get(pk=claimed.pk).failure_class == ""


def met(claimed: Attempt, fence: FencingToken) -> bool:
    return attempts.abandoned_prompt_found(attempt_id=claimed.pk, fence=fence)


def test_abandoned_prompt_with_a_pending_stop_is_not_adopted() -> None:
    fence = online("gpu-1")
    group, claimed = factories.claiming(fence)
    cancellation.group_cancel(group_id=group.id)
    abandon(claimed, fence)
    retries.group_retry(group_id=group.id)
    # Its pending stop would end the job as interrupted.
    assert not met(claimed, fence)
    assert AbandonedPrompt.objects.exists()
    factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    assert only(group).status == "queued"
    factories.finish(begin(fence), fence)
    assert only(group).status == "completed"


def test_abandoned_prompt_that_was_interrupted_is_not_adopted_later() -> None:
    fence = online("gpu-1")
    group, old = factories.claiming(fence, max_attempts=2)
    abandon(old, fence)
    newer = factories.claim(fence)
    assert not met(old, fence)
    factories.not_sent(newer, fence)
    assert not met(old, fence)
    # It succeeded before its interrupt.
    factories.finish(old, fence)
    assert only(group).status == "completed"


def test_result_of_a_newer_attempt_is_used_when_the_adopted_prompt_fails() -> None:
    fence = online("gpu-1")
    group, old = factories.claiming(fence, max_attempts=3)
    abandon(old, fence)
    newer = begin(fence)
    evict(fence)
    assert met(old, fence)
    # It succeeded before its stop, while the older one is the job's current attempt.
    factories.finish(newer, fence)
    fail(old, fence)
    child = only(group)
    assert (child.status, child.current_attempt_id) == ("completed", newer.pk)


def test_cancelled_prompt_at_an_offline_backend_does_not_block_a_retry_elsewhere() -> None:
    fence, other = farm(2)
    group, claimed = factories.running(fence)
    cancellation.group_cancel(group_id=group.id)
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    # No job waits for that end yet, nor does one at that backend itself count.
    assert expiry.children_unblock(fence=fence) == 0
    retries.group_retry(group_id=group.id, choice=Choice(elsewhere=RetryScope.ANY))
    assert only(group).backend_id == "gpu-2"
    assert idle(other)
    assert expiry.children_unblock(fence=fence) == 1
    assert expiry.children_unblock(fence=fence) == 0
    factories.finish(begin(other), other)
    assert only(group).status == "completed"
    old = Attempt.objects.get(pk=claimed.pk)
    assert (old.ended_at, old.stop_reason, old.failure_class) == (None, "cancel", "unreachable")


def interrupt(claimed: Attempt, fence: FencingToken) -> None:
    factories.finish(claimed, fence, AttemptState.INTERRUPTED)


@pytest.mark.parametrize(
    ("end", "ran"), [(factories.not_sent, False), (abandon, False), (lose, True), (interrupt, True)]
)
def test_runners_are_notified_when_a_blocking_attempt_ends(
    end: Callable[[Attempt, FencingToken], object],
    ran: bool,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    fence, other = farm(2)
    factories.submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    claimed = begin(fence) if ran else factories.claim(fence)
    evict(fence)
    assert idle(other)
    notified: list[bool] = []
    monkeypatch.setattr(
        hub, "notify_runners", lambda work_only=False: work_only or notified.append(True)
    )
    with django_capture_on_commit_callbacks(execute=True):
        end(claimed, fence)
    assert notified == [True]
    assert not idle(other)


def age(group: JobGroup, hours: float) -> None:
    ChildJob.objects.filter(group=group).update(queued_at=now() - dt.timedelta(hours=hours))


def waited(fence: FencingToken) -> int:
    return expiry.children_expire(fence=fence, limit_s=86_400)


def test_queue_limit_of_a_retried_job_counts_from_its_last_execution() -> None:
    fence = online("gpu-1")
    group = factories.submit("gpu-1", max_attempts=2)
    age(group, 25)
    fail(begin(fence), fence)
    assert waited(fence) == 0
    assert only(group).status == "queued"
    Attempt.objects.update(started_at=now() - dt.timedelta(hours=25))
    assert waited(fence) == 1
    child = only(group)
    assert (child.status, child.error_message) == ("timeout", "Not executed again within 86400 s")


@pytest.mark.parametrize("is_next_run", [False, True])
def test_queue_limit_ignores_unexecuted_attempts_and_earlier_runs(is_next_run: bool) -> None:
    fence = online("gpu-1")
    group = factories.submit("gpu-1")
    if is_next_run:
        fail(begin(fence), fence)
        retries.group_retry(group_id=group.id)
    else:
        factories.not_sent(factories.claim(fence), fence)
    age(group, 25)
    assert waited(fence) == 1
    assert only(group).status == "timeout"


def test_retry_is_not_delayed_by_a_clock_that_was_set_back() -> None:
    fence = online("gpu-1")
    factories.submit("gpu-1", max_attempts=2)
    fail(begin(fence), fence)
    ChildJob.objects.update(not_before=now() + dt.timedelta(seconds=59))
    assert idle(fence)
    # Longer than any backoff.
    ChildJob.objects.update(not_before=now() + dt.timedelta(hours=1))
    assert not idle(fence)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_no_claim_precedes_the_quarantine_that_a_failure_causes(settings: Settings) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer")
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence = online("gpu-1")
    factories.submit("gpu-1")
    claimed = begin(fence)
    factories.submit("gpu-1")
    found: list[Any] = []

    def claim() -> None:
        found.append(factories.claim_alone(fence=fence, client_id="c", depth=2).claim)

    with transaction.atomic():
        fail(claimed, fence, FATAL)
        thread = started(claim)
        thread.join(1)
    thread.join(10)
    assert row().quarantined_at is not None
    assert found == [None]


NODE_ERRORS = {"9": {"class_type": "SaveImage", "errors": [], "dependent_outputs": []}}


def test_late_success_without_all_outputs_is_no_result_when_the_group_wants_all() -> None:
    fence = online("gpu-1")
    group, claimed = factories.claiming(fence, partial_outputs=PartialOutputs.FAIL)
    abandon(claimed, fence)
    late = factories.end(node_errors=NODE_ERRORS)
    assert attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=late)
    child = only(group)
    assert (child.status, child.current_attempt_id) == ("queued", None)
    old = child.attempts.get()
    assert (old.state, old.failure_class) == ("success", "workflow_refused")
    # Nor is it one later, when its next attempt fails.
    fail(begin(fence), fence)
    assert (only(group).status, only(group).failure_class) == ("failed", "node_error")


def test_late_success_without_all_outputs_is_a_result_with_its_warnings() -> None:
    fence = online("gpu-1")
    group, claimed = factories.running(fence)
    factories.time_out(claimed, fence)
    warned = factories.end(node_errors=NODE_ERRORS, warnings=("Output 9 was not executed.",))
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=warned)
    assert only(group).status == "timeout"
    retries.group_retry(group_id=group.id)
    child = only(group)
    assert (child.status, child.warnings_json) == ("completed", '["Output 9 was not executed."]')


def test_cancelled_job_stays_cancelled_when_its_prompt_was_refused_in_part() -> None:
    fence = online("gpu-1")
    group, claimed = factories.claiming(fence, partial_outputs=PartialOutputs.FAIL)
    stored = attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence, node_errors=NODE_ERRORS)
    assert (stored.stop_requested_at is not None, only(group).status) == (True, "queued")
    cancellation.group_cancel(group_id=group.id)
    assert factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    assert only(group).status == "cancelled"
    assert factories.types(group)[-2:] == ["child_cancelled", "group_complete"]


def test_prompt_of_an_old_comfyui_counts_as_hanging_only_for_a_refusal_in_part() -> None:
    fence = online("gpu-1")
    partly = factories.submit(partial_outputs=PartialOutputs.FAIL)
    timed = factories.submit()
    first, second = factories.claim(fence), factories.claim(fence)
    attempts.attempt_accepted(attempt_id=first.pk, fence=fence, node_errors=NODE_ERRORS)
    factories.start(second, fence)
    factories.time_out(second, fence)
    for claimed, hangs in ((first, True), (first, False), (second, False)):
        said = factories.stall(claimed, fence, can_interrupt=False)
        assert said is hangs
    assert (only(partly).status, only(partly).failure_class) == ("failed", "workflow_refused")
    assert only(timed).attempts.get().failure_class == "timeout"
