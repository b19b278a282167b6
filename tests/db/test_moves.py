"""A move by a person: what waits goes to another backend, and no prompt of it runs twice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.errors import BackendNotFound, BackendUnavailable, ChildNotFound, GroupNotFound, JobNotWaiting
from jobgroups.models import Attempt, JobGroup
from jobgroups.services import attempts, cancellation, claims, expiry
from jobgroups.services.moves import Moved, child_move
from jobgroups.services.outcomes import AttemptResult
from tests.harness import factories
from tests.harness.factories import accept, begin, idle, online, only
from tests.harness.races import race

pytestmark = pytest.mark.django_db


@pytest.fixture
def first() -> FencingToken:
    return online("gpu-1")


@pytest.fixture
def second() -> FencingToken:
    return online("gpu-2")


def move(group: JobGroup, backend_id: str = "gpu-2", by: str = "") -> Moved:
    return child_move(group_id=group.id, job_id=only(group).id, backend_id=backend_id, by=by)


def accepted(fence: FencingToken) -> tuple[JobGroup, claims.Claim]:
    """Submit a group whose child stands in the backend's queue."""
    group = factories.submit(fence.backend_id)
    claimed = accept(fence)
    return group, claimed


def removed(claimed: claims.Claim, fence: FencingToken) -> None:
    """Tell that the prompt was deleted from the queue and seen gone."""
    end = AttemptResult(
        state=AttemptState.INTERRUPTED,
        outputs={},
        error_message="Removed from the queue",
        error_type=ErrorType.INTERRUPTED,
        ran=False,
    )
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)


# --- not sent -------------------------------------------------------------------------------------


def test_unsent_job_waits_for_the_named_backend(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    queued_at = only(group).queued_at
    done = move(group, by="anna")
    assert (done.moved, done.removing_from, done.backend_id) == (True, None, "gpu-2")
    assert idle(first)
    assert factories.claim(second).child_id == only(group).id
    assert only(group).queued_at == queued_at
    event = factories.log(group)[-1]
    assert event["type"] == "child_retrying"
    named = ["backend_id", "next_backend_id", "requested_by", "failure_class", "reason"]
    assert [event[name] for name in named] == ["gpu-1", "gpu-2", "anna", None, "Moved from gpu-1 by anna."]


def test_move_without_a_name_is_requested_by_a_person(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    move(group)
    assert factories.log(group)[-1]["requested_by"] == "a person"


def test_move_to_the_same_backend_changes_nothing(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    before = factories.log(group)
    done = move(group, "gpu-1")
    assert (done.moved, done.removing_from) == (False, None)
    assert factories.log(group) == before
    assert only(group).current_attempt_id == claimed.attempt_id


def test_move_ends_the_backoff(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    group.children.update(not_before=now().replace(year=2100))
    move(group)
    assert not idle(second)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shut", "said"),
    [
        ({"enabled": False, "changed_reason": "cleaning"}, "disabled"),
        ({"hold": "drain"}, "drained"),
        ({"quarantined_at": now(), "quarantine_reason": "it failed."}, "quarantined"),
        ({"tags": []}, "lacks flux"),
    ],
)
def test_move_to_an_unschedulable_or_unfit_backend_is_refused(
    first: FencingToken, second: FencingToken, shut: dict[str, Any], said: str
) -> None:
    Backend.objects.update(tags=["flux"])
    group = factories.submit("gpu-1", required_capabilities=["flux"])
    Backend.objects.filter(pk="gpu-2").update(**shut)
    before = factories.log(group)
    with pytest.raises(BackendUnavailable, match=said):
        move(group)
    assert only(group).backend_id == "gpu-1"
    assert factories.log(group) == before


def test_move_of_an_unknown_group_job_or_backend_is_refused(first: FencingToken) -> None:
    group = factories.submit("gpu-1")
    with pytest.raises(BackendNotFound):
        move(group, "gpu-9")
    with pytest.raises(ChildNotFound):
        child_move(group_id=group.id, job_id="j_000000000000", backend_id="gpu-1")
    with pytest.raises(GroupNotFound):
        child_move(group_id="jg_000000000000", job_id=only(group).id, backend_id="gpu-1")


@pytest.mark.parametrize("away", [{"hold": "pause"}, {"reachability": "offline"}])
def test_move_to_a_paused_or_offline_backend_is_accepted(
    first: FencingToken, second: FencingToken, away: dict[str, Any]
) -> None:
    group = factories.submit("gpu-1")
    Backend.objects.filter(pk="gpu-2").update(**away)
    assert move(group).moved


def test_running_or_final_job_is_not_moved(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    claimed = begin(first)
    with pytest.raises(JobNotWaiting, match="runs on gpu-1"):
        move(group)
    assert Attempt.objects.get().stop_requested_at is None
    factories.finish(claimed, first)
    with pytest.raises(JobNotWaiting, match="is completed"):
        move(group)


# --- accepted by the old backend ------------------------------------------------------------------


def test_moved_job_is_sent_after_its_accepted_prompt_is_removed(first: FencingToken, second: FencingToken) -> None:
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
    assert factories.types(group)[1:] == ["child_retrying", "child_started", "child_completed", "group_complete"]


def test_move_does_not_count_as_an_attempt(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1", max_attempts=2)
    claimed = accept(first)
    move(group)
    removed(claimed, first)
    sent = begin(second)
    factories.finish(sent, second, AttemptState.ERROR)
    assert only(group).status == "queued"


def test_move_is_void_when_the_prompt_starts_before_its_removal(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    move(group)
    stored = attempts.attempt_started(attempt_id=claimed.attempt_id, fence=first)
    assert (stored.stop_requested, stored.is_current) == (False, True)
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


def test_prompt_that_ran_unseen_is_the_result_of_the_moved_job(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    move(group)
    factories.finish(claimed, first)
    assert (only(group).status, only(group).backend_id) == ("completed", "gpu-1")
    assert idle(second)


def test_moved_job_that_is_cancelled_is_stopped_at_its_old_backend(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    move(group)
    cancellation.group_cancel(group_id=group.id)
    stored = attempts.attempt_started(attempt_id=claimed.attempt_id, fence=first)
    assert stored.stop_requested
    assert Attempt.objects.get().stop_reason == "cancel"
    assert only(group).status == "cancelled"


def test_uncertain_prompt_is_looked_up_before_the_moved_job_is_sent(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    claimed = factories.claim(first)
    attempts.attempt_uncertain(attempt_id=claimed.attempt_id, fence=first)
    assert move(group).removing_from == "gpu-1"
    assert idle(second)
    attempts.attempt_never_accepted(attempt_id=claimed.attempt_id, fence=first, remember_until=now())
    assert factories.claim(second).child_id == only(group).id
    # It is met after all: its child has gone on, so it is removed.
    assert not attempts.abandoned_prompt_found(attempt_id=claimed.attempt_id, fence=first, running=True)


def test_abandoned_prompt_that_runs_after_a_move_is_adopted(first: FencingToken, second: FencingToken) -> None:
    group = factories.submit("gpu-1")
    claimed = factories.claim(first)
    attempts.attempt_uncertain(attempt_id=claimed.attempt_id, fence=first)
    move(group)
    attempts.attempt_never_accepted(attempt_id=claimed.attempt_id, fence=first, remember_until=now())
    assert attempts.abandoned_prompt_found(attempt_id=claimed.attempt_id, fence=first, running=True)
    assert (only(group).status, only(group).backend_id) == ("running", "gpu-1")
    assert Attempt.objects.get().stop_requested_at is None


def test_job_may_be_moved_back_during_the_removal(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    move(group)
    assert move(group, "gpu-1").removing_from == "gpu-1"
    assert idle(first)
    removed(claimed, first)
    assert factories.claim(first).child_id == only(group).id
    assert idle(second)


# --- backends out of reach ------------------------------------------------------------------------


def test_job_leaves_an_unreachable_backend_at_once(first: FencingToken, second: FencingToken) -> None:
    group, claimed = accepted(first)
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    assert move(group).removing_from is None
    sent = factories.claim(second)
    # Back again: it had the prompt, which is not to run a second time.
    stored = attempts.attempt_started(attempt_id=claimed.attempt_id, fence=first)
    assert stored.stop_requested
    assert Attempt.objects.get(pk=claimed.attempt_id).stop_reason == "superseded"
    factories.start(sent, second)
    assert only(group).backend_id == "gpu-2"


def test_unreachable_backend_that_starts_the_moved_job_first_keeps_it(
    first: FencingToken, second: FencingToken
) -> None:
    group, claimed = accepted(first)
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    move(group)
    attempts.attempt_started(attempt_id=claimed.attempt_id, fence=first)
    assert idle(second)
    assert (only(group).status, Attempt.objects.get().failure_class) == ("running", "")


@pytest.mark.parametrize("event", ["unreachable", "stalled", "internal error"])
def test_moved_job_is_claimed_when_its_old_backend_cannot_confirm_the_removal(
    first: FencingToken, second: FencingToken, event: str
) -> None:
    group, claimed = accepted(first)
    move(group)
    assert idle(second)
    if event == "unreachable":
        assert expiry.children_unblock(fence=first) == 1
    elif event == "stalled":
        assert attempts.attempt_stalled(attempt_id=claimed.attempt_id, fence=first)
    else:
        attempts.attempt_failed_internally(attempt_id=claimed.attempt_id, fence=first, message="A defect.")
    assert factories.claim(second).child_id == only(group).id
    assert Attempt.objects.get(pk=claimed.attempt_id).ended_at is None
    if event == "unreachable":
        attempts.attempt_lost(attempt_id=claimed.attempt_id, fence=first, reason="it restarted")
        assert only(group).backend_id == "gpu-2"


@pytest.mark.django_db(transaction=True)
def test_concurrent_move_and_start_leave_one_current_attempt() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    for _ in range(6):
        group, claimed = accepted(first)
        start = partial(attempts.attempt_started, attempt_id=claimed.attempt_id, fence=first)
        race(start, partial(move, group), refused=JobNotWaiting)
        child = only(group)
        assert (child.status, child.backend_id) == ("running", "gpu-1")
        assert idle(second)
        factories.finish(claimed, first)
        assert factories.fresh(group).status == "completed"
