"""Jobs at a backend that goes offline: moved to another backend, failed as lost, or finished late."""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries import groups
from jobgroups.services import attempts, backends, cancellation, outages, runners
from tests.db.stream_client import assert_law, connect
from tests.harness import factories
from tests.harness.factories import accept, begin, farm, idle, lose, online, only, row, time_out

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_backoff")]

AWAY = "gpu-1 has been away for 60 s: connection refused."


def go_offline(name: str = "gpu-1", seconds: float = 60.0, heard: float = 64.0) -> None:
    """Store what a runner stores of a backend that stopped answering so many seconds ago."""
    moment = now()
    Backend.objects.filter(pk=name).update(
        reachability=Reachability.OFFLINE,
        status_reason="connection refused",
        unreachable_since=moment - dt.timedelta(seconds=seconds),
        last_seen_at=moment - dt.timedelta(seconds=heard),
    )


def move(fence: FencingToken) -> set[int]:
    return outages.attempts_move(fence=fence, reason=AWAY)


def attempt_of(claimed: Attempt) -> Attempt:
    return Attempt.objects.get(pk=claimed.pk)


def submit(*names: str, **fields: Any) -> JobGroup:
    return factories.submit(
        *names or ("gpu-1",), **{"max_attempts": 2, "retry_elsewhere": RetryScope.ANY, **fields}
    )


def test_running_job_fails_as_lost_when_its_time_is_up_at_an_offline_backend() -> None:
    fence = online("gpu-1", name="Render 1")
    group, claimed = factories.running(fence)
    go_offline()
    since = Backend.objects.get().unreachable_since
    assert since is not None
    assert time_out(claimed, fence, offline=True)
    child, message = (
        only(group),
        f"Render 1 went offline at {since:%H:%M:%S} UTC, while it rendered",
    )
    assert (child.status, child.failure_class) == ("failed", "backend_lost")
    assert (child.error_type, child.error_message) == ("ConnectionError", f"{message} this job")
    assert factories.types(group)[2:] == ["child_failed", "group_complete"]
    attempt = attempt_of(claimed)
    assert (attempt.stop_reason, attempt.failure_class) == ("gave_up", "backend_lost")
    assert (attempt.ended_at, attempt.error_message) == (None, child.error_message)
    # The second call finds the job final.
    assert not time_out(claimed, fence, offline=True)


def test_lost_message_names_the_gap_when_no_runner_probed() -> None:
    fence = online("gpu-1")
    group, claimed = factories.running(fence)
    go_offline(heard=3600)
    time_out(claimed, fence, offline=True)
    gap = r"gpu-1 went offline between \S+.* UTC and \S+ UTC, while it rendered this job"
    assert re.fullmatch(gap, only(group).error_message or "")


def test_running_job_is_retried_on_another_backend_and_counts() -> None:
    fence, other = farm(2)
    group = submit()
    claimed = begin(fence)
    go_offline()
    assert move(fence) == {claimed.pk}
    child, attempt = only(group), attempt_of(claimed)
    assert (child.status, child.backend_id, child.progress) == ("queued", "gpu-2", 0.0)
    assert (attempt.failure_class, attempt.stop_reason) == ("backend_lost", "gave_up")
    assert (attempt.is_counted, attempt.ended_at) == (True, None)
    event = factories.log(group)[-1]
    assert (event["type"], event["failure_class"]) == ("child_retrying", "backend_lost")
    assert event["reason"].startswith("gpu-1 went offline at ")
    assert move(fence) == set()
    # The older attempt may never end: it does not delay the next one.
    factories.finish(begin(other), other, AttemptState.ERROR)
    assert only(group).status == "failed", "both attempts count"
    assert only(group).attempt_count == 2


def test_job_that_was_accepted_and_not_started_moves_uncounted() -> None:
    fence, other = farm(2)
    group = submit(max_attempts=1, retry_on=["node_error"])
    claimed = accept(fence)
    go_offline()
    assert move(fence) == {claimed.pk}
    attempt = attempt_of(claimed)
    assert (attempt.failure_class, attempt.is_counted) == ("unreachable", False)
    event = factories.log(group)[-1]
    assert (event["type"], event["failure_class"]) == ("child_retrying", "unreachable")
    assert (event["reason"], event["next_backend_id"]) == (AWAY, "gpu-2")
    assert event["not_before"] is None
    factories.finish(begin(other), other)
    assert only(group).status == "completed"


@pytest.mark.parametrize(
    "policy",
    [
        {"max_attempts": 1},
        {"retry_on": ["node_error"]},
        {"required_capabilities": ["large"]},
        {"retry_elsewhere": RetryScope.NEVER},
    ],
    ids=str,
)
def test_running_job_stays_when_its_policy_has_no_other_attempt(policy: dict[str, Any]) -> None:
    fence = online("gpu-1", tags=["large"])
    online("gpu-2")
    group = submit(**policy)
    claimed = begin(fence)
    go_offline()
    assert move(fence) == set()
    assert only(group).status == "running"
    assert attempt_of(claimed).stop_requested_at is None
    factories.finish(claimed, fence)
    assert only(group).status == "completed"


def test_job_that_finds_no_backend_at_first_moves_later() -> None:
    fence, other = farm(2)
    group = submit()
    begin(fence)
    go_offline("gpu-1")
    go_offline("gpu-2")
    assert move(fence) == set()
    backends.backend_observed(fence=other, reachable=True, responded=True)
    assert len(move(fence)) == 1
    assert only(group).backend_id == "gpu-2"


def test_cancelled_job_of_an_offline_backend_is_not_moved() -> None:
    fence, _ = farm(2)
    group = submit("gpu-1", "gpu-1")
    claimed = begin(fence)
    go_offline()
    cancellation.group_cancel(group_id=group.id)
    assert move(fence) == set()
    assert set(group.children.values_list("status", flat=True)) == {"cancelled"}
    # The same after the move: the older attempt keeps its first stop.
    assert attempt_of(claimed).stop_reason == "cancel"


def test_timed_out_job_of_a_backend_that_goes_offline_waits_for_it_no_longer() -> None:
    fence, other = farm(2)
    group = submit()
    claimed = begin(fence)
    time_out(claimed, fence)
    go_offline()
    assert idle(other)
    factories.stall(claimed, fence, reachable=False)
    assert attempt_of(claimed).failure_class == "backend_lost"
    factories.finish(begin(other), other)
    assert only(group).status == "completed"


def test_cause_of_a_moved_job_stays_when_its_prompt_starts_and_is_stopped() -> None:
    fence, _ = farm(2)
    submit()
    claimed = accept(fence)
    go_offline()
    move(fence)
    attempts.attempt_started(attempt_id=claimed.pk, fence=fence)
    factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    attempt = attempt_of(claimed)
    assert (attempt.state, attempt.failure_class) == ("interrupted", "unreachable")
    assert attempt.error_message == AWAY


@pytest.mark.parametrize("started", [True, False], ids=["running", "accepted"])
def test_late_result_is_adopted_while_the_moved_job_waits(started: bool) -> None:
    fence, other = farm(2)
    group = submit()
    client = connect(group)
    claimed = begin(fence) if started else accept(fence)
    go_offline()
    move(fence)
    factories.finish(claimed, fence)
    child = only(group)
    assert (child.status, child.backend_id) == ("completed", "gpu-1")
    assert attempt_of(claimed).failure_class == ""
    assert idle(other)
    assert factories.types(group)[-2:] == ["child_completed", "group_complete"]
    assert_law(client)


@pytest.mark.parametrize("policy", [RetryScope.NEVER, RetryScope.ANY])
def test_lost_attempt_counts_once_against_its_backend(
    settings: Settings, policy: RetryScope
) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 2
    fence, _ = farm(2)
    submit("gpu-1", "gpu-1", retry_elsewhere=policy, max_attempts=2)
    first, second = begin(fence), accept(fence)
    go_offline()
    if policy is RetryScope.NEVER:
        time_out(first, fence, offline=True)
    else:
        assert move(fence) == {first.pk, second.pk}
    # One that ran is counted, one that waited in the queue is not.
    assert row().quarantined_at is None
    for claimed in (first, second):
        lose(claimed, fence)
    assert row().quarantined_at is None
    ended = attempt_of(first)
    assert (ended.state, ended.failure_class) == ("lost", "backend_lost")
    assert "went offline" in (ended.error_message or ""), "the first cause stays"
    if policy is RetryScope.ANY:
        factories.submit("gpu-1")
        again = begin(fence)
        lose(again, fence)
        assert row().quarantined_at is not None


def test_lost_attempt_quarantines_its_backend_before_it_ends(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 1
    fence, _ = farm(2)
    submit()
    claimed = begin(fence)
    go_offline()
    move(fence)
    assert attempt_of(claimed).ended_at is None
    backend = row()
    assert backend.quarantined_at is not None
    assert "lost with the backend" in backend.quarantine_reason


def reason(group: JobGroup) -> str:
    (row,) = groups.group_snapshot(group.id)["child_jobs"]
    return row["waiting_reason"] or ""


CLOCK = r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d UTC"
SINCE = rf"gpu-1 has not been reachable since {CLOCK}: connection refused\."
BY_THEN = r" if the backend does not answer by then\."


@pytest.mark.parametrize(
    ("claim", "policy", "seconds", "then"),
    [
        (
            begin,
            {"retry_elsewhere": RetryScope.NEVER, "max_attempts": 1},
            5,
            rf"Fails at {CLOCK}{BY_THEN}",
        ),
        (begin, {"retry_elsewhere": RetryScope.NEVER}, 5, rf"Retried at {CLOCK}{BY_THEN}"),
        (begin, {"max_attempts": 1}, 5, rf"Fails at {CLOCK}{BY_THEN}"),
        # Only what comes first applies, unless no backend was there to move to.
        (begin, {}, 5, rf"Moves to another backend at {CLOCK}\."),
        (begin, {"stall_seconds": 120}, 5, rf"Moves to another backend at {CLOCK}\."),
        (begin, {"timeout_seconds": 30}, 5, rf"Retried at {CLOCK}{BY_THEN}"),
        (begin, {"stall_seconds": 30}, 5, rf"Retried 30 s after its last event{BY_THEN}"),
        (
            begin,
            {},
            61,
            rf"Moves to another backend as soon as possible\. Retried at {CLOCK}{BY_THEN}",
        ),
        (accept, {}, 5, rf"Moves to another backend at {CLOCK}\. Given up at {CLOCK}\."),
    ],
)
def test_waiting_reason_of_a_running_or_accepted_job_says_what_follows(
    claim: Callable[[FencingToken], Attempt], policy: dict[str, Any], seconds: float, then: str
) -> None:
    fence = online("gpu-1")
    runners.runner_register(name="r", instance="i", version="1")
    group = submit(**policy)
    claim(fence)
    assert (reason(group) == "") is (claim is begin)
    go_offline(seconds=seconds, heard=seconds + 4)
    assert re.fullmatch(rf"{SINCE} {then}", reason(group)), reason(group)
