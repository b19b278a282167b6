import datetime as dt
from functools import partial
from typing import Any

import pytest

from backends.models import Backend
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope, StopReason
from jobgroups.errors import Conflict, LeaseLost
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, cancellation, claims, holds, outcomes, quarantine
from tests.harness import factories
from tests.harness.factories import begin, evict, idle, only, row, stall, time_out
from tests.harness.races import race

pytestmark = pytest.mark.django_db

GPU = "gpu-1"


def pause(**said: Any) -> None:
    holds.backend_hold(backend_id=GPU, hold=Hold.PAUSE, **said)


def drain(**said: Any) -> None:
    holds.backend_hold(backend_id=GPU, hold=Hold.DRAIN, **said)


def run(fence: FencingToken) -> Attempt:
    factories.submit(fence.backend_id)
    return begin(fence)


@pytest.mark.parametrize("hold", [Hold.PAUSE, Hold.DRAIN])
def test_held_or_disabled_backend_claims_nothing(fence: FencingToken, hold: Hold) -> None:
    factories.submit(GPU, GPU)
    holds.backend_hold(backend_id=GPU, hold=hold)
    assert idle(fence)
    holds.backend_resume(backend_id=GPU)
    assert not idle(fence)
    Backend.objects.update(enabled=False)
    assert idle(fence)


def test_claim_checks_the_hold_under_the_lease(
    fence: FencingToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.submit()
    original = claims._oldest_bound

    def checks_and_is_paused(*args: Any, **options: Any) -> ChildJob | None:
        found = original(*args, **options)
        pause()
        return found

    monkeypatch.setattr(claims, "_oldest_bound", checks_and_is_paused)
    assert idle(fence)
    assert not Attempt.objects.exists()


def test_claim_checks_that_the_child_was_not_moved(
    fence: FencingToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.backend("gpu-2")
    factories.submit()
    original = claims._oldest_bound

    def finds_and_is_moved(*args: Any, **options: Any) -> ChildJob | None:
        found = original(*args, **options)
        ChildJob.objects.update(backend_id="gpu-2")
        return found

    monkeypatch.setattr(claims, "_oldest_bound", finds_and_is_moved)
    assert idle(fence)


@pytest.mark.django_db(transaction=True)
def test_pause_excludes_concurrent_claims(fence: FencingToken) -> None:
    for _ in range(15):
        factories.submit()

        def claim_all() -> None:
            while not idle(fence, depth=1000):
                pass

        def pause_and_count() -> int:
            pause()
            return Attempt.objects.count()

        _, claimed = race(claim_all, pause_and_count)
        assert claimed == Attempt.objects.count()
        holds.backend_resume(backend_id=GPU)
        while not idle(fence, depth=1000):
            pass


def test_repeated_hold_keeps_author_reason_and_time(fence: FencingToken) -> None:
    pause(reason="hot", by="anna")
    first = row()
    pause()
    assert (row().hold, row().changed_by, row().changed_reason) == ("pause", "anna", "hot")
    assert row().changed_at == first.changed_at
    pause(by="ben", at_once=True)
    assert (row().changed_by, row().evict, row().changed_at) == ("ben", True, first.changed_at)
    pause()
    assert row().evict, "an eviction stays in force"
    holds.backend_resume(backend_id=GPU, by="anna")
    assert (row().hold, row().evict, row().changed_reason) == ("", False, "")
    pause(reason="lunch", by="anna", at_once=True)
    drain(by="ben")
    assert (row().hold, row().evict, row().changed_by) == ("drain", False, "ben")
    assert row().changed_reason == ""


def test_eviction_requeues_the_child_and_counts_no_attempt(fence: FencingToken) -> None:
    group, claimed = factories.running(fence)
    pause(at_once=True, by="anna")
    assert holds.prompts_evict(fence=fence) == {claimed.pk}
    attempt = Attempt.objects.get(pk=claimed.pk)
    assert (attempt.stop_reason, attempt.is_counted) == (StopReason.GIVEN_BACK, False)
    assert attempt.ended_at is None, "its stop is pending until its prompt ends"
    child = only(group)
    assert (child.status, child.current_attempt_id, child.progress) == ("queued", None, 0.0)
    assert child.uncounted_attempts == 0
    last = factories.log(group)[-1]
    assert last["type"] == "child_requeued"
    assert last["reason"] == "given back: gpu-1 was paused by anna"
    assert holds.prompts_evict(fence=fence) == set()


def test_repeated_eviction_never_fails_a_child(fence: FencingToken) -> None:
    group = factories.submit()
    for _ in range(2 * outcomes.MAX_UNCOUNTED):
        claimed = begin(fence)
        evict(fence)
        factories.finish(claimed, fence, AttemptState.INTERRUPTED)
        holds.backend_resume(backend_id=GPU)
    assert only(group).status == "queued"
    assert set(Attempt.objects.values_list("failure_class", "is_counted")) == {("", False)}
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "completed"


def test_success_before_the_stop_is_the_result(fence: FencingToken) -> None:
    group, claimed = factories.running(fence)
    evict(fence)
    factories.finish(claimed, fence, AttemptState.SUCCESS)
    assert factories.fresh(group).status == "completed"
    assert factories.types(group)[-3:] == ["child_started", "child_completed", "group_complete"]


def test_prompt_without_a_response_is_evicted(fence: FencingToken) -> None:
    group, claimed = factories.claiming(fence)
    pause(at_once=True)
    assert holds.prompts_evict(fence=fence) == {claimed.pk}
    accepted = attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    assert accepted.stop_requested_at is not None
    assert group.children.get().current_attempt_id is None
    assert factories.types(group) == ["group_created"]


def test_eviction_needs_a_pause_at_once_and_no_other_stop(fence: FencingToken) -> None:
    claimed = run(fence)
    pause()
    assert holds.prompts_evict(fence=fence) == set()
    pause(at_once=True)
    holds.backend_resume(backend_id=GPU)
    assert holds.prompts_evict(fence=fence) == set()
    assert Attempt.objects.get(pk=claimed.pk).stop_requested_at is None
    group = JobGroup.objects.get()
    cancellation.group_cancel(group_id=group.id)
    pause(at_once=True)
    assert holds.prompts_evict(fence=fence) == set()
    assert only(group).status == "cancelled"


def test_eviction_requires_the_lease(fence: FencingToken) -> None:
    run(fence)
    pause(at_once=True)
    factories.lease()
    with pytest.raises(LeaseLost):
        holds.prompts_evict(fence=fence)
    assert not Attempt.objects.filter(stop_requested_at__isnull=False).exists()


def test_evicted_child_does_not_wait_for_a_stalled_prompt(fence: FencingToken) -> None:
    factories.backend("gpu-2", reachability="online", last_seen_at=now())
    factories.submit(GPU, retry_elsewhere=RetryScope.ANY)
    claimed = begin(fence)
    evict(fence)
    other = factories.lease("gpu-2")
    assert idle(other)
    assert stall(claimed, fence)
    assert factories.claim(other).child_id == claimed.child_id


def test_drained_backend_is_disabled_when_it_is_empty(fence: FencingToken) -> None:
    claimed = run(fence)
    drain(reason="new card", by="anna")
    assert not holds.backend_finish_drain(fence=fence)
    factories.finish(claimed, fence)
    assert holds.backend_finish_drain(fence=fence)
    drained = row()
    assert (drained.enabled, drained.hold) == (False, "")
    assert (drained.changed_by, drained.changed_reason) == ("anna", "drained: new card")
    assert not holds.backend_finish_drain(fence=fence)


def test_drain_waits_for_queued_children(fence: FencingToken) -> None:
    pause()
    assert not holds.backend_finish_drain(fence=fence), "it is only paused"
    group = factories.submit()
    drain()
    assert not holds.backend_finish_drain(fence=fence)
    cancellation.group_cancel(group_id=group.id)
    assert holds.backend_finish_drain(fence=fence)


def test_submission_after_the_end_of_a_drain_is_refused(fence: FencingToken) -> None:
    drain()
    assert holds.backend_finish_drain(fence=fence)
    with pytest.raises(Conflict, match="disabled a moment ago; submit again"):
        factories.submit()
    assert not JobGroup.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_end_of_a_drain_excludes_concurrent_submissions(fence: FencingToken) -> None:
    for _ in range(15):
        Backend.objects.update(enabled=True, hold="drain")
        race(factories.submit, partial(holds.backend_finish_drain, fence=fence), refused=Conflict)
        assert ChildJob.objects.exists() == row().enabled
        JobGroup.objects.all().delete()


def fail(fence: FencingToken, kind: FailureClass = FailureClass.CUDA_FATAL) -> None:
    factories.fail(run(fence), fence, kind)


def test_third_counted_failure_quarantines_the_backend(fence: FencingToken) -> None:
    for _ in range(2):
        fail(fence)
    assert row().quarantined_at is None
    fail(fence)
    quarantined = row()
    assert quarantined.quarantined_at is not None
    assert quarantined.quarantine_until == quarantined.quarantined_at + dt.timedelta(minutes=10)
    assert quarantined.quarantine_reason.startswith("3 failures within 10 min; last: ")
    assert (quarantined.quarantine_by, quarantined.consecutive_quarantines) == ("", 1)
    factories.submit()
    assert idle(fence)


def test_other_failure_classes_quarantine_nothing(fence: FencingToken) -> None:
    for kind in FailureClass:
        if kind not in quarantine.COUNTED_FAILURES:
            fail(fence, kind)
    assert row().quarantined_at is None
    assert {"cuda_fatal", "backend_lost", "stalled"} == quarantine.COUNTED_FAILURES


def test_failures_count_per_backend_and_window(fence: FencingToken) -> None:
    other = factories.online("gpu-2")
    for _ in range(2):
        fail(fence)
        fail(other)
    Attempt.objects.update(ended_at=now() - dt.timedelta(minutes=10, seconds=1))
    fail(fence)
    assert not Backend.objects.filter(quarantined_at__isnull=False).exists()


@pytest.mark.django_db(transaction=True)
def test_concurrent_failures_both_count(fence: FencingToken) -> None:
    for _ in range(10):
        Attempt.objects.all().delete()
        Backend.objects.update(quarantined_at=None, consecutive_quarantines=0)
        JobGroup.objects.all().delete()
        fail(fence)
        factories.submit()
        factories.submit()
        both = [begin(fence) for _ in range(2)]
        race(*(partial(factories.fail, one, fence, FailureClass.CUDA_FATAL) for one in both))
        assert row().quarantined_at is not None


def test_release_starts_a_probation(fence: FencingToken) -> None:
    for _ in range(3):
        fail(fence)
    holds.backend_release(backend_id=GPU)
    assert (row().quarantined_at, row().quarantine_until) == (None, None)
    assert (row().quarantine_reason, row().consecutive_quarantines) == ("", 1)
    factories.submit(GPU, GPU)
    factories.claim(fence)
    assert idle(fence), "one prompt at a time until one succeeds"


def test_failure_on_probation_doubles_the_quarantine(fence: FencingToken) -> None:
    for _ in range(3):
        fail(fence)
    holds.backend_release(backend_id=GPU)
    fail(fence)
    back = row()
    assert back.quarantined_at is not None
    assert back.quarantine_until == back.quarantined_at + dt.timedelta(minutes=20)
    assert back.consecutive_quarantines == 2
    assert back.quarantine_reason.startswith("It failed again on probation: ")


def test_success_ends_the_probation(fence: FencingToken) -> None:
    for _ in range(3):
        fail(fence)
    holds.backend_release(backend_id=GPU)
    factories.submit()
    factories.finish(factories.claim(fence), fence)
    assert row().consecutive_quarantines == 0
    fail(fence)
    fail(fence)
    assert row().quarantined_at is None, "failures before the release do not count"
    factories.submit(GPU, GPU)
    factories.claim(fence)
    assert not idle(fence), "two at a time again"


def test_quarantine_ends_at_its_time(fence: FencingToken) -> None:
    holds.backend_quarantine(backend_id=GPU, minutes=5)
    assert not holds.quarantine_expire(fence=fence)
    Backend.objects.update(quarantine_until=now() - dt.timedelta(seconds=1))
    assert holds.quarantine_expire(fence=fence)
    assert row().quarantined_at is None
    assert not holds.quarantine_expire(fence=fence)


def test_quarantine_by_a_user_lasts_until_the_release(fence: FencingToken) -> None:
    holds.backend_quarantine(backend_id=GPU, reason="it smokes", by="anna")
    assert not holds.quarantine_expire(fence=fence)
    quarantined = row()
    assert (quarantined.quarantine_until, quarantined.quarantine_by) == (None, "anna")
    holds.backend_quarantine(backend_id=GPU, by="ben", minutes=60)
    again = row()
    assert again.quarantined_at == quarantined.quarantined_at
    assert (again.quarantine_by, again.consecutive_quarantines) == ("ben", 1)
    assert again.quarantine_until is not None


def test_failure_does_not_change_a_quarantine(fence: FencingToken) -> None:
    claimed = run(fence)
    holds.backend_quarantine(backend_id=GPU, reason="it smokes", by="anna")
    quarantined = row()
    factories.fail(claimed, fence, FailureClass.CUDA_FATAL)
    assert (row().quarantine_by, row().quarantined_at) == ("anna", quarantined.quarantined_at)
    assert row().consecutive_quarantines == quarantined.consecutive_quarantines


def test_stalled_prompt_counts_before_it_ends(fence: FencingToken) -> None:
    fail(fence)
    fail(fence)
    group, claimed = factories.running(fence)
    time_out(claimed, fence)
    assert row().quarantined_at is None
    stall(claimed, fence)
    assert row().quarantined_at is not None
    assert only(group).status == "timeout"
