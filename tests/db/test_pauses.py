"""Pauses of a group, of a submitter and of the farm: nothing is claimed, what waits at a backend is
taken back, and what runs continues.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.errors import GroupEnded, GroupNotFound
from jobgroups.models import Attempt, JobGroup, Pause
from jobgroups.queries.groups import group_snapshot
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.pool import pool_backends, pool_snapshot
from jobgroups.services import attempts, cancellation, expiry, pauses, runners
from jobgroups.services.moves import MAX_RECALLS, prompt_recall
from tests.db.test_order import mark, next_job, waited
from tests.harness import factories
from tests.harness.factories import finish, removed

pytestmark = pytest.mark.django_db(transaction=True)

PAUSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "group": (
        lambda group, **request: pauses.group_pause(group_id=group.id, **request),
        lambda group: pauses.group_resume(group_id=group.id),
    ),
    "submitter": (
        lambda _group, **request: pauses.submitter_pause(name="anna", **request),
        lambda _group: pauses.submitter_resume(name="anna"),
    ),
    "farm": (
        lambda _group, **request: pauses.queue_pause(**request),
        lambda _group: pauses.queue_resume(),
    ),
}


def submit(in_pool: bool, jobs: int = 2, **fields: Any) -> JobGroup:
    fields = {"submitter": "anna", **fields}
    if in_pool:
        return factories.submit_to_pool(jobs, **fields)
    return factories.submit(*["gpu-1"] * jobs, **fields)


def taken_back() -> set[int]:
    return set(pool_snapshot(pool_backends()).taken_back)


def accepted(fence: FencingToken, group: JobGroup) -> Attempt:
    assert next_job(fence) == group.id
    claimed = Attempt.objects.latest("pk")
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)
    return claimed


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
@pytest.mark.parametrize("of", PAUSES)
def test_nothing_is_claimed_during_a_pause_and_what_waits_is_taken_back(
    of: str, in_pool: bool
) -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool, jobs=3)
    other = factories.submit_to_pool(1, submitter="ben", priority=0)
    running = accepted(fence, group)
    attempts.attempt_started(attempt_id=running.pk, fence=fence)
    waiting = accepted(fence, group)
    pause, resume = PAUSES[of]
    pause(group)
    assert next_job(fence) == (None if of == "farm" else other.id)
    assert taken_back() == {waiting.pk}
    assert prompt_recall(attempt_id=waiting.pk, is_paused=True)
    assert not prompt_recall(attempt_id=waiting.pk, is_paused=True)
    assert not prompt_recall(attempt_id=running.pk, is_paused=True)
    removed(waiting, fence)
    waiting.refresh_from_db()
    assert (waiting.error_message, waiting.is_counted) == ("Taken back: its job is paused", False)
    assert next_job(fence) is None
    finish(running, fence)
    resume(group)
    claimed = [next_job(fence) for _ in range(2)]
    assert claimed == [group.id, group.id]
    retaken = Attempt.objects.filter(child=waiting.child_id).latest("pk")
    assert (retaken.backend_id, retaken.pk > waiting.pk) == ("gpu-1", True)
    assert "child_retrying" not in factories.types(group)


def test_pause_ends_by_itself_and_runners_know_when() -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool=True)
    pauses.group_pause(group_id=group.id, until=now() + dt.timedelta(minutes=30))
    snapshot = pool_snapshot(pool_backends())
    assert snapshot.due_in == pytest.approx(1800, abs=30)
    assert next_job(fence) is None
    Pause.objects.update(ends_at=now() - dt.timedelta(seconds=1))
    assert next_job(fence) == group.id


def test_group_starts_after_its_time() -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool=True, start_after=now() + dt.timedelta(minutes=30))
    bound = submit(in_pool=False, start_after=now() + dt.timedelta(minutes=20))
    assert pool_snapshot(pool_backends()).due_in == pytest.approx(1200, abs=30)
    assert next_job(fence) is None
    JobGroup.objects.filter(pk=group.id).update(start_after=now() - dt.timedelta(seconds=1))
    assert next_job(fence) == group.id
    JobGroup.objects.filter(pk=bound.id).update(start_after=None)
    assert {next_job(fence) for _ in range(3)} == {group.id, bound.id}


def test_repeated_pause_keeps_its_beginning_and_is_ended_once() -> None:
    factories.online("gpu-1")
    group = submit(in_pool=True)
    until = now() + dt.timedelta(hours=1)
    pauses.group_pause(group_id=group.id, reason="review", by="anna")
    pauses.group_pause(group_id=group.id, until=until)
    (row,) = current_pauses().by_target.values()
    assert (row.reason, row.by, row.ends_at) == ("review", "anna", until)
    pauses.group_resume(group_id=group.id)
    pauses.group_resume(group_id=group.id)
    assert not current_pauses()
    Pause.objects.update(ends_at=now() - dt.timedelta(days=32))
    pauses.pauses_forget()
    assert not Pause.objects.exists()


def test_group_that_has_ended_or_does_not_exist_is_not_paused() -> None:
    factories.online("gpu-1")
    group = submit(in_pool=True)
    cancellation.group_cancel(group_id=group.id)
    with pytest.raises(GroupEnded):
        pauses.group_pause(group_id=group.id)
    for change in (pauses.group_pause, pauses.group_resume):
        with pytest.raises(GroupNotFound):
            change(group_id="jg_000000000000")


def test_prompt_that_starts_before_it_is_taken_back_goes_on() -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool=False, jobs=1)
    claimed = accepted(fence, group)
    pauses.queue_pause()
    assert prompt_recall(attempt_id=claimed.pk, is_paused=True)
    attempts.attempt_started(attempt_id=claimed.pk, fence=fence)
    finish(claimed, fence)
    attempt = Attempt.objects.get()
    assert (attempt.stop_reason, attempt.error_message, attempt.is_counted) == ("", None, True)
    assert factories.types(group)[1:] == ["child_started", "child_completed", "group_complete"]


def test_paid_prompt_and_one_that_was_resumed_are_not_taken_back() -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool=False, jobs=1)
    claimed = accepted(fence, group)
    assert not prompt_recall(attempt_id=claimed.pk, is_paused=True)
    JobGroup.objects.update(uses_partner_nodes=True)
    pauses.queue_pause()
    assert not prompt_recall(attempt_id=claimed.pk, is_paused=True)


def test_pauses_do_not_count_against_the_limit_of_recalls() -> None:
    fence = factories.online("gpu-1")
    group = submit(in_pool=True, jobs=1)
    for _ in range(MAX_RECALLS + 1):
        claimed = accepted(fence, group)
        pauses.queue_pause()
        assert prompt_recall(attempt_id=claimed.pk, is_paused=True)
        removed(claimed, fence)
        pauses.queue_resume()
    assert prompt_recall(attempt_id=accepted(fence, group).pk)


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
def test_queued_limit_stands_still_during_pauses_and_before_the_start(in_pool: bool) -> None:
    fence = factories.online("gpu-1")

    def expire() -> int:
        if not in_pool:
            return expiry.children_expire(fence=fence, limit_s=86_400)
        overdue = pool_snapshot(pool_backends()).overdue(now() - dt.timedelta(days=1))
        return sum(expiry.pool_expire(variant_id=one, limit_s=86_400) for one in overdue)

    def ago(**of: float) -> dt.datetime:
        return now() - dt.timedelta(**of)

    def queued(group: JobGroup, at: dt.datetime) -> None:
        group.children.update(queued_at=at)
        group.variants.update(queued_at=at)

    paused, later, old, ancient = (submit(in_pool, 1, submitter=name) for name in "pqrs")
    queued(paused, ago(days=3))
    pauses.submitter_pause(name="p")
    Pause.objects.update(began_at=ago(days=2.5))
    queued(later, ago(days=3))
    JobGroup.objects.filter(pk=later.id).update(start_after=ago(hours=23))
    queued(old, ago(days=1.1))
    queued(ancient, ago(days=31))
    pauses.group_pause(group_id=ancient.id)
    Pause.objects.filter(target=ancient.id).update(began_at=ago(days=30.9))
    assert expire() == 2
    assert {group.id for group in (paused, later)} == set(
        JobGroup.objects.filter(completed_at=None).values_list("id", flat=True)
    )
    JobGroup.objects.filter(pk=later.id).update(start_after=ago(hours=25))
    pauses.submitter_resume(name="p")
    assert expire() == 1
    queued(paused, ago(days=3.6))
    assert expire() == 1


def test_paused_group_does_not_rise(settings: Settings) -> None:
    settings.DIRECTOR_AGING_MINUTES = 10
    factories.online("gpu-1")
    group = submit(in_pool=True)
    waited(group, 25)
    pauses.queue_pause()
    mark()
    assert JobGroup.objects.get().waiting_since is None
    mark()
    assert JobGroup.objects.get().waiting_since is None
    pauses.queue_resume()
    mark()
    assert JobGroup.objects.get().waiting_since is not None


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
def test_waiting_reason_names_the_pause(in_pool: bool) -> None:
    factories.online("gpu-1")
    runners.runner_register(name="runner", instance="i", version="1")
    group = submit(in_pool)

    def reason() -> str:
        text: str = group_snapshot(group.id)["child_jobs"][0]["waiting_reason"]
        return text

    pauses.group_pause(group_id=group.id, reason="review first", by="olga")
    assert reason() == "Paused by olga: review first."
    pauses.submitter_pause(name="anna")
    assert reason() == "Everything of anna is paused."
    pauses.queue_pause(reason="power")
    assert reason() == "The whole farm is paused: power."
