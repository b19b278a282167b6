"""A recall: a prompt that waits at a backend is taken back for another one, and no prompt of its
job runs twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries.groups import group_snapshot
from jobgroups.services import attempts, cancellation, expiry, moves, runners
from jobgroups.services.moves import MAX_RECALLS, prompt_recall
from tests.harness import factories
from tests.harness.factories import farm, finish, only, removed
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fences() -> list[FencingToken]:
    return farm(2)


def accepted(fence: FencingToken, **fields: Any) -> tuple[JobGroup, Attempt]:
    """Submit a job to the pool that stands in the backend's queue."""
    group = factories.submit_to_pool(1, **fields)
    claimed = factories.claim_from_pool(fence, group)
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    return group, claimed


def take(fence: FencingToken, group: JobGroup, *, has_rival: bool = True) -> Attempt | None:
    choice = factories.pool_choice(group, has_rival=has_rival)
    return factories.claim_alone(fence=fence, client_id="c", depth=5, choice=choice).claim


def recall(claimed: Attempt) -> bool:
    return prompt_recall(attempt_id=claimed.pk)


def started(claimed: Attempt, fence: FencingToken) -> Attempt:
    return attempts.attempt_started(attempt_id=claimed.pk, fence=fence)


def test_recalled_job_is_claimed_elsewhere_after_its_prompt_is_removed(
    fences: list[FencingToken],
) -> None:
    first, second = fences
    group, claimed = accepted(first)
    queued_at = only(group).queued_at
    assert recall(claimed)
    assert not recall(claimed)
    assert take(first, group) is take(second, group) is None
    runners.runner_register(name="runner", instance="i", version="1")
    (shown,) = group_snapshot(group.id)["child_jobs"]
    assert shown["waiting_reason"] == "Its prompt is being removed from the queue of gpu-1."
    removed(claimed, first)
    attempt = Attempt.objects.get()
    assert (attempt.state, attempt.stop_reason, attempt.is_counted) == (
        "interrupted",
        "recalled",
        False,
    )
    assert attempt.error_message == "Taken back: another backend can start it earlier"
    child = only(group)
    assert (child.queued_at, child.uncounted_attempts) == (queued_at, 0)
    assert take(first, group) is None
    sent = take(second, group)
    assert sent is not None
    finish(sent, second)
    ends = ["child_started", "child_completed", "group_complete"]
    assert factories.types(group) == ["group_created", *ends]


def test_only_backend_that_fits_takes_a_recalled_job_again_at_once(
    fences: list[FencingToken],
) -> None:
    group, claimed = accepted(fences[0])
    recall(claimed)
    removed(claimed, fences[0])
    assert take(fences[0], group, has_rival=False) is not None


def test_backend_takes_a_recalled_job_again_after_a_minute(fences: list[FencingToken]) -> None:
    group, claimed = accepted(fences[0])
    recall(claimed)
    removed(claimed, fences[0])
    Attempt.objects.update(ended_at=now() - dt.timedelta(seconds=61))
    assert take(fences[0], group) is not None


def test_job_is_recalled_twice_in_a_run_at_most(fences: list[FencingToken]) -> None:
    group, claimed = accepted(fences[0])
    for number in range(MAX_RECALLS):
        assert recall(claimed)
        removed(claimed, fences[number % 2])
        fence = fences[(number + 1) % 2]
        claimed = factories.claim_from_pool(fence, group)
        attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    assert not recall(claimed)


def _cancelled(claimed: Attempt, _fence: FencingToken) -> None:
    cancellation.group_cancel(group_id=claimed.child.group_id)


@pytest.mark.parametrize("event", [started, finish, _cancelled])
def test_prompt_that_does_not_wait_in_a_queue_is_not_recalled(
    fences: list[FencingToken], event: Callable[[Attempt, FencingToken], object]
) -> None:
    _, claimed = accepted(fences[0])
    event(claimed, fences[0])
    before = Attempt.objects.values().get()
    assert not recall(claimed)
    assert Attempt.objects.values().get() == before


def test_unsent_prompt_or_bound_job_is_not_recalled(fences: list[FencingToken]) -> None:
    unsent = factories.claim_from_pool(fences[0], factories.submit_to_pool(1))
    assert not recall(unsent)
    factories.submit("gpu-1")
    assert not recall(factories.accept(fences[0]))


def test_recall_is_void_when_the_prompt_starts_before_its_removal(
    fences: list[FencingToken],
) -> None:
    first, second = fences
    group, claimed = accepted(first)
    recall(claimed)
    stored = started(claimed, first)
    assert stored.stop_requested_at is None
    attempt = Attempt.objects.get()
    assert (attempt.stop_reason, attempt.is_counted) == ("", True)
    assert take(second, group) is None
    finish(claimed, first)
    assert (only(group).status, only(group).backend_id) == ("completed", "gpu-1")
    assert "child_retrying" not in factories.types(group)


def test_prompt_that_failed_unseen_during_its_recall_decides_the_job(
    fences: list[FencingToken],
) -> None:
    group, claimed = accepted(fences[0], max_attempts=1)
    recall(claimed)
    end = factories.end(AttemptState.ERROR, error_message="bad latent")
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fences[0], end=end)
    assert (only(group).status, Attempt.objects.get().is_counted) == ("failed", True)
    assert not attempts.attempt_ended(attempt_id=claimed.pk, fence=fences[0], end=end)


def test_recalled_job_that_is_cancelled_is_stopped_at_its_backend(
    fences: list[FencingToken],
) -> None:
    group, claimed = accepted(fences[0])
    recall(claimed)
    _cancelled(claimed, fences[0])
    assert started(claimed, fences[0]).stop_requested_at is not None
    assert Attempt.objects.get().stop_reason == "cancel"
    assert only(group).status == "cancelled"


def test_recalled_job_that_is_moved_stays_if_its_prompt_starts(fences: list[FencingToken]) -> None:
    group, claimed = accepted(fences[0])
    recall(claimed)
    moves.child_move(group_id=group.id, job_id=only(group).id, backend_id="gpu-2")
    started(claimed, fences[0])
    assert only(group).backend_id == "gpu-1"
    types = factories.types(group)
    assert types[1:] == ["child_retrying", "child_retrying", "child_started"]


def _unreachable(_claimed: Attempt, fence: FencingToken) -> None:
    assert expiry.children_unblock(fence=fence) == 1


@pytest.mark.parametrize("event", [_unreachable, factories.stall, factories.crash, factories.lose])
def test_recalled_job_is_claimed_when_its_removal_cannot_be_confirmed(
    fences: list[FencingToken], event: Callable[[Attempt, FencingToken], object]
) -> None:
    group, claimed = accepted(fences[0])
    recall(claimed)
    event(claimed, fences[0])
    assert take(fences[0], group) is None
    sent = take(fences[1], group)
    assert sent is not None
    # A late start there is stopped: the job was sent elsewhere.
    started(claimed, fences[0])
    factories.start(sent, fences[1])
    assert (only(group).backend_id, only(group).uncounted_attempts) == ("gpu-2", 0)


def test_recalls_and_a_start_at_once_leave_one_current_attempt(fences: list[FencingToken]) -> None:
    for _ in range(6):
        group, claimed = accepted(fences[0])
        take_back = partial(recall, claimed)
        results = race(partial(started, claimed, fences[0]), take_back, take_back)
        assert results[1:].count(True) <= 1
        child = only(group)
        assert (child.status, child.backend_id) == ("running", "gpu-1")
        assert take(fences[1], group) is None
        finish(claimed, fences[0])
        assert factories.fresh(group).status == "completed"
