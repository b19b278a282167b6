"""A move by a user: a queued job gets another backend, and none of its prompts runs twice."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.shapes.groups import MoveResult
from jobgroups.errors import BackendUnavailable, JobNotWaiting
from jobgroups.models import Attempt, JobGroup
from jobgroups.services import attempts, cancellation, expiry
from jobgroups.services.moves import child_move
from tests.harness import factories
from tests.harness.factories import accept, begin, farm, idle, only, removed
from tests.harness.races import race

pytestmark = pytest.mark.django_db


def move(group: JobGroup, backend_id: str = "gpu-2", by: str = "") -> MoveResult:
    return child_move(group_id=group.id, job_id=only(group).id, backend_id=backend_id, by=by)


def accepted(fence: FencingToken) -> tuple[JobGroup, Attempt]:
    return factories.submit(fence.backend_id), accept(fence)


def test_unsent_job_waits_for_the_named_backend() -> None:
    first, second = farm(2)
    group = factories.submit("gpu-1")
    queued_at = only(group).queued_at
    done = move(group, by="anna")
    assert (done.moved, done.removing_from, done.backend_id) == (True, None, "gpu-2")
    assert idle(first)
    assert factories.claim(second).child_id == only(group).id
    assert only(group).queued_at == queued_at
    event = factories.log(group)[-1]
    assert event["type"] == "child_retrying"
    assert (event["backend_id"], event["next_backend_id"]) == ("gpu-1", "gpu-2")
    assert (event["requested_by"], event["failure_class"]) == ("anna", None)
    assert event["reason"] == "Moved from gpu-1 by anna."


def test_move_to_the_same_backend_changes_nothing() -> None:
    first, _ = farm(2)
    group, claimed = accepted(first)
    before = factories.log(group)
    done = move(group, "gpu-1")
    assert (done.moved, done.removing_from) == (False, None)
    assert factories.log(group) == before
    assert only(group).current_attempt_id == claimed.pk


def test_move_ends_the_backoff() -> None:
    _, second = farm(2)
    group = factories.submit("gpu-1")
    group.children.update(not_before=now().replace(year=2100))
    move(group)
    assert not idle(second)


@pytest.mark.parametrize(
    ("shut", "said"),
    [
        ({"enabled": False, "changed_reason": "cleaning"}, "disabled"),
        ({"hold": "drain"}, "drained"),
        ({"quarantined_at": now(), "quarantine_reason": "it failed."}, "quarantined"),
        ({"tags": []}, "Lacks flux"),
    ],
)
def test_move_to_an_unschedulable_or_unfit_backend_is_refused(
    shut: dict[str, Any], said: str
) -> None:
    farm(2)
    Backend.objects.update(tags=["flux"])
    group = factories.submit("gpu-1", required_capabilities=["flux"])
    Backend.objects.filter(pk="gpu-2").update(**shut)
    before = factories.log(group)
    with pytest.raises(BackendUnavailable, match=said):
        move(group)
    assert only(group).backend_id == "gpu-1"
    assert factories.log(group) == before


@pytest.mark.parametrize("away", [{"hold": "pause"}, {"reachability": "offline"}])
def test_move_to_a_paused_or_offline_backend_is_accepted(away: dict[str, Any]) -> None:
    farm(2)
    group = factories.submit("gpu-1")
    Backend.objects.filter(pk="gpu-2").update(**away)
    assert move(group).moved


def test_running_or_final_job_is_not_moved() -> None:
    first, _ = farm(2)
    group, claimed = factories.running(first)
    with pytest.raises(JobNotWaiting, match="runs on gpu-1"):
        move(group)
    assert Attempt.objects.get().stop_requested_at is None
    factories.finish(claimed, first)
    with pytest.raises(JobNotWaiting, match="is completed"):
        move(group)


def test_moved_job_is_sent_after_its_accepted_prompt_is_removed() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    done = move(group)
    assert done.removing_from == "gpu-1"
    attempt = Attempt.objects.get()
    assert (attempt.stop_reason, attempt.is_counted) == ("moved", False)
    assert (only(group).backend_id, only(group).current_attempt_id) == ("gpu-2", None)
    assert idle(second)
    removed(claimed, first)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.error_message) == ("interrupted", "Moved to another backend")
    assert attempt.failure_class == ""
    sent = begin(second)
    factories.finish(sent, second)
    assert factories.fresh(group).status == "completed"
    ends = ["child_started", "child_completed", "group_complete"]
    assert factories.types(group)[1:] == ["child_retrying", *ends]


def test_move_is_void_when_the_prompt_starts_before_its_removal() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    move(group)
    stored = attempts.attempt_started(attempt_id=claimed.pk, fence=first)
    assert stored.stop_requested_at is None
    child, attempt = only(group), Attempt.objects.get()
    assert (child.status, child.backend_id) == ("running", "gpu-1")
    assert (attempt.stop_reason, attempt.is_counted) == ("", True)
    void, started = factories.log(group)[-2:]
    assert (void["backend_id"], void["next_backend_id"]) == ("gpu-2", "gpu-1")
    assert "stays" in void["reason"]
    assert started["backend_id"] == "gpu-1"
    assert idle(second)
    factories.finish(claimed, first)
    assert factories.fresh(group).status == "completed"


def test_prompt_that_ran_unseen_is_the_result_of_the_moved_job() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    move(group)
    factories.finish(claimed, first)
    assert (only(group).status, only(group).backend_id) == ("completed", "gpu-1")
    assert idle(second)


def test_moved_job_that_is_cancelled_is_stopped_at_its_old_backend() -> None:
    first, _ = farm(2)
    group, claimed = accepted(first)
    move(group)
    cancellation.group_cancel(group_id=group.id)
    stored = attempts.attempt_started(attempt_id=claimed.pk, fence=first)
    assert stored.stop_requested_at is not None
    assert Attempt.objects.get().stop_reason == "cancel"
    assert only(group).status == "cancelled"


def never_accepted(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_never_accepted(attempt_id=claimed.pk, fence=fence, remember_until=now())


def test_uncertain_prompt_is_looked_up_before_the_moved_job_is_sent() -> None:
    first, second = farm(2)
    group, claimed = factories.claiming(first)
    attempts.attempt_uncertain(attempt_id=claimed.pk, fence=first)
    assert move(group).removing_from == "gpu-1"
    assert idle(second)
    never_accepted(claimed, first)
    assert factories.claim(second).child_id == only(group).id
    # It arrives later, when its job has another attempt: it is removed.
    assert not attempts.abandoned_prompt_found(attempt_id=claimed.pk, fence=first)


def test_abandoned_prompt_that_runs_after_a_move_is_adopted() -> None:
    first, _ = farm(2)
    group, claimed = factories.claiming(first)
    attempts.attempt_uncertain(attempt_id=claimed.pk, fence=first)
    move(group)
    never_accepted(claimed, first)
    assert attempts.abandoned_prompt_found(attempt_id=claimed.pk, fence=first)
    assert (only(group).status, only(group).backend_id) == ("running", "gpu-1")
    assert Attempt.objects.get().stop_requested_at is None


def test_job_may_be_moved_back_during_the_removal() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    move(group)
    assert move(group, "gpu-1").removing_from == "gpu-1"
    assert idle(first)
    removed(claimed, first)
    assert factories.claim(first).child_id == only(group).id
    assert idle(second)


def test_job_leaves_an_unreachable_backend_at_once() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    assert move(group).removing_from is None
    sent = factories.claim(second)
    # Back again: it had the prompt, which must not run a second time.
    stored = attempts.attempt_started(attempt_id=claimed.pk, fence=first)
    assert stored.stop_requested_at is not None
    assert Attempt.objects.get(pk=claimed.pk).stop_reason == "superseded"
    factories.start(sent, second)
    assert only(group).backend_id == "gpu-2"


def test_unreachable_backend_that_starts_the_moved_job_first_keeps_it() -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    move(group)
    attempts.attempt_started(attempt_id=claimed.pk, fence=first)
    assert idle(second)
    assert (only(group).status, Attempt.objects.get().failure_class) == ("running", "")


def unreachable(claimed: Attempt, fence: FencingToken) -> None:
    assert expiry.children_unblock(fence=fence) == 1


@pytest.mark.parametrize("event", [unreachable, factories.stall, factories.crash])
def test_moved_job_is_claimed_when_its_old_backend_cannot_confirm_the_removal(
    event: Callable[[Attempt, FencingToken], object],
) -> None:
    first, second = farm(2)
    group, claimed = accepted(first)
    move(group)
    assert idle(second)
    event(claimed, first)
    assert factories.claim(second).child_id == only(group).id
    assert Attempt.objects.get(pk=claimed.pk).ended_at is None
    factories.lose(claimed, first)
    assert only(group).backend_id == "gpu-2"


@pytest.mark.django_db(transaction=True)
def test_concurrent_move_and_start_leave_one_current_attempt() -> None:
    first, second = farm(2)
    for _ in range(6):
        group, claimed = accepted(first)
        start = partial(attempts.attempt_started, attempt_id=claimed.pk, fence=first)
        race(start, partial(move, group), refused=JobNotWaiting)
        child = only(group)
        assert (child.status, child.backend_id) == ("running", "gpu-1")
        assert idle(second)
        factories.finish(claimed, first)
        assert factories.fresh(group).status == "completed"
