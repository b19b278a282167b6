"""Where a retried job waits, and a user's retry of one job while its group runs."""

import datetime as dt
from functools import partial
from typing import Any

import pytest

from backends.errors import RequestError
from backends.models import Backend, Reachability
from jobgroups.domain.clock import iso, now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.shapes.groups import RetryResult
from jobgroups.domain.states import AttemptState, RetryScope, Where
from jobgroups.errors import (
    BackendNotFound,
    BackendUnavailable,
    ChildNotFound,
    Conflict,
    JobCompleted,
    JobNotFailed,
    RunPassed,
)
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.serializers import serialize_submission
from jobgroups.services import cancellation, candidates, expiry, submission
from jobgroups.services.assignment import Choice
from jobgroups.services.backends import backend_delete
from jobgroups.services.retries import AS_THE_GROUP_SAYS, child_retry, group_retry
from tests.harness import factories
from tests.harness.factories import accept, begin, crash, fail, farm, online, time_out
from tests.harness.races import race

pytestmark = pytest.mark.django_db

NEVER, GROUP, ANY = RetryScope.NEVER, RetryScope.GROUP, RetryScope.ANY
SHUT: dict[str, dict[str, Any]] = {
    "disabled": {"enabled": False, "changed_reason": "cleaning the fans"},
    "drained": {"hold": "drain"},
    "quarantined": {"quarantined_at": now(), "quarantine_reason": "3 failures in 10 min."},
}


def failed(
    *backend_ids: str, kind: FailureClass = FailureClass.NODE_ERROR, **fields: Any
) -> JobGroup:
    group = factories.submit(*backend_ids, **fields)
    for backend_id in backend_ids:
        fence = factories.lease(backend_id)
        claimed = begin(fence)
        factories.finish(claimed, fence, AttemptState.ERROR)
    Attempt.objects.filter(child__group=group).update(failure_class=kind.value)
    ChildJob.objects.filter(group=group).update(failure_class=kind.value)
    return factories.fresh(group)


def places(group: JobGroup) -> list[str | None]:
    return list(group.children.order_by("position").values_list("backend_id", flat=True))


def retry(group: JobGroup, elsewhere: RetryScope | None = None) -> RetryResult:
    return group_retry(group_id=group.id, choice=Choice(elsewhere=elsewhere))


@pytest.mark.parametrize("shut", SHUT.values(), ids=SHUT.keys())
def test_retry_at_an_unschedulable_backend_is_refused_with_advice(shut: dict[str, Any]) -> None:
    farm(2)
    group = failed("gpu-1", "gpu-2")
    Backend.objects.filter(pk="gpu-1").update(**shut)
    before = factories.log(group)
    with pytest.raises(BackendUnavailable) as refused:
        retry(group)
    (unavailable,) = refused.value.extra["unavailable_backends"]
    assert unavailable["backend_id"] == "gpu-1"
    assert "retry_elsewhere" in refused.value.detail
    for reason in (shut.get("changed_reason"), shut.get("quarantine_reason")):
        assert not reason or reason.rstrip(".") in unavailable["reason"]
    assert factories.log(group) == before
    assert factories.fresh(group).run == 1
    first = group.children.get(position=0)
    assert retry(group, GROUP).moved[first.id] == "gpu-2"
    assert factories.log(group)[-1]["backend_ids"][0] == "gpu-2"
    # For this retry alone: the policy of the group is unchanged.
    assert factories.fresh(group).retry_elsewhere == "never"


def test_unschedulable_backend_of_another_job_is_no_reason_to_refuse() -> None:
    farm(2)
    group = failed("gpu-1", "gpu-2")
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    second = group.children.get(position=1)
    assert group_retry(group_id=group.id, job_ids=[second.id]).job_ids == (second.id,)


def test_retry_at_a_deleted_backend_is_refused(db: None) -> None:
    farm(2)
    group = failed("gpu-1")
    Backend.objects.filter(pk="gpu-1").delete()
    with pytest.raises(BackendUnavailable, match="not registered any more"):
        retry(group)
    # gpu-2 is none of the group's backends.
    with pytest.raises(BackendUnavailable, match="No other backend"):
        retry(group, GROUP)
    assert retry(group, ANY).moved == {group.children.get().id: "gpu-2"}


@pytest.mark.parametrize(
    ("policy", "elsewhere", "moves"), [(NEVER, None, False), (ANY, None, True), (ANY, NEVER, False)]
)
def test_retry_moves_as_it_says_or_else_as_the_policy_of_its_group(
    policy: RetryScope, elsewhere: RetryScope | None, moves: bool
) -> None:
    farm(2)
    group = failed("gpu-1", kind=FailureClass.CUDA_FATAL)
    JobGroup.objects.update(retry_elsewhere=policy.value)
    retry(group, elsewhere)
    assert places(group) == ["gpu-2" if moves else "gpu-1"]


def test_retry_prefers_backends_that_have_not_failed_the_job() -> None:
    farm(2)
    online("gpu-3", enabled=False)
    group = failed("gpu-1")
    assert list(retry(group, ANY).moved.values()) == ["gpu-2"]
    fence = factories.lease("gpu-2")
    factories.finish(factories.claim(fence), fence, AttemptState.ERROR)
    Attempt.objects.update(failure_class=FailureClass.CUDA_FATAL.value)
    # In its last run it failed at gpu-2 alone.
    assert list(retry(group, ANY).moved.values()) == ["gpu-1"]


def test_retry_spreads_jobs_over_backends() -> None:
    farm(4)
    group = failed(*["gpu-1"] * 9)
    retry(group, ANY)
    assert sorted(places(group)) == [f"gpu-{n}" for n in (2, 2, 2, 3, 3, 3, 4, 4, 4)]


def test_retry_respects_required_capabilities() -> None:
    online("gpu-1", tags=["flux"])
    online("gpu-2")
    online("gpu-3", tags=["flux"])
    group = failed("gpu-1", required_capabilities=["flux"])
    retry(group, ANY)
    assert places(group) == ["gpu-3"]


def test_retry_of_cancelled_jobs_keeps_their_backend() -> None:
    farm(2)
    group = factories.submit("gpu-1", "gpu-1")
    cancellation.group_cancel(group_id=group.id)
    retry(group, ANY)
    assert places(group) == ["gpu-1", "gpu-1"]


@pytest.mark.parametrize("away", [{"reachability": "offline"}, {"hold": "pause"}])
def test_offline_or_paused_backend_keeps_jobs_that_may_not_move(away: dict[str, Any]) -> None:
    farm(2)
    group = failed("gpu-1")
    Backend.objects.filter(pk="gpu-1").update(**away)
    assert retry(group).moved == {}
    cancellation.group_cancel(group_id=group.id)
    assert list(retry(group, ANY).moved.values()) == ["gpu-2"]


def test_retry_of_a_thousand_jobs_needs_constant_reads(django_assert_max_num_queries: Any) -> None:
    farm(4)
    group = factories.submit(*["gpu-1"] * 1000)
    cancellation.group_cancel(group_id=group.id)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    with django_assert_max_num_queries(1000 + 40):  # one write for each child
        retry(group, ANY)
    assert "gpu-1" not in places(group)


@pytest.mark.django_db(transaction=True)
def test_concurrent_retry_and_backend_deletion_are_serialized() -> None:
    for _ in range(6):
        online("gpu-1")
        group = failed("gpu-1")
        outcomes = race(
            partial(group_retry, group_id=group.id),
            partial(backend_delete, backend_id="gpu-1"),
            refused=Conflict,
        )
        codes = [one.code if isinstance(one, Conflict) else "done" for one in outcomes]
        assert codes in (["done", "backend_in_use"], ["backend_unavailable", "done"])
        cancellation.group_cancel(group_id=group.id)
        Backend.objects.filter(pk="gpu-1").delete()


def replay(group: JobGroup) -> list[str]:
    found = submission.group_replay(submitter="", owner_id=None, key="k", digest="d")
    assert found is not None
    answer = serialize_submission(found.group, found.children)
    return [child["backend_id"] for child in answer["child_jobs"]]


def test_replay_names_the_submitted_backends_after_moves_and_runs() -> None:
    first, second, third = farm(3)
    policy: Any = {"max_attempts": 3, "idempotency_key": "k", "idempotency_digest": "d"}
    group = factories.submit("gpu-1", "gpu-2", retry_elsewhere=ANY, **policy)
    fail(begin(first), first, FailureClass.NODE_OR_MODEL_MISSING)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    expiry.children_reassign(fence=second, reason="it is away.")
    assert places(group) == ["gpu-3", "gpu-3"]
    before = list(ChildJob.objects.order_by("position").values())
    assert replay(group) == ["gpu-1", "gpu-2"]
    assert list(ChildJob.objects.order_by("position").values()) == before
    Backend.objects.filter(pk="gpu-2").update(enabled=False)
    expiry.children_fail_unavailable(fence=third, away_s=600, reason="refused")
    assert factories.fresh(group).status == "failed"
    Backend.objects.filter(pk="gpu-2").update(enabled=True)
    group_retry(group_id=group.id, choice=Choice(elsewhere=ANY))
    assert replay(group) == ["gpu-1", "gpu-2"]


def test_retry_elsewhere_adds_no_backend_to_the_group() -> None:
    first, second, _ = farm(3)
    group = factories.submit("gpu-1", max_attempts=3, retry_elsewhere=GROUP)
    expiry.children_fail_unavailable(fence=first, away_s=600, reason="refused")
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    assert list(retry(group, ANY).moved.values()) == ["gpu-2"]
    Backend.objects.filter(pk="gpu-1").update(enabled=True)
    found = candidates.candidate_backends(factories.fresh(group), GROUP, besides=["gpu-2"])
    # The one it was submitted to, though no prompt was sent there; not those of the retry.
    assert [one.backend_id for one in found] == ["gpu-1"]
    fail(begin(second), second, FailureClass.NODE_OR_MODEL_MISSING)
    assert places(group) == ["gpu-1"]


SAME, OTHER, AUTO = (Choice(where=one) for one in Where)


@pytest.fixture
def fence() -> FencingToken:
    return online("gpu-1", 8)


def running(
    fence: FencingToken, kind: FailureClass = FailureClass.NODE_ERROR, **fields: Any
) -> tuple[JobGroup, ChildJob]:
    """Submit a group that runs: its first child has failed, its second waits."""
    group = factories.submit(fence.backend_id, fence.backend_id, **fields)
    fail(begin(fence), fence, kind)
    failed = group.children.get(position=0)
    assert failed.status == "failed"
    return factories.fresh(group), failed


def retry_one(
    group: JobGroup, child: ChildJob, choice: Choice = AS_THE_GROUP_SAYS, **said: Any
) -> RetryResult:
    return child_retry(group_id=group.id, job_id=child.id, choice=choice, **said)


def run_all(*fences: FencingToken) -> None:
    for fence in fences:
        while claimed := factories.claim_alone(fence=fence, client_id="c", depth=9).claim:
            factories.start(claimed, fence)
            factories.finish(claimed, fence)


def test_failed_job_is_retried_while_its_group_runs(fence: FencingToken) -> None:
    group, failed = running(fence)
    done = retry_one(group, failed, by="anna")
    assert (done.run, done.status, done.job_ids, done.moved) == (1, "running", (failed.id,), {})
    again = factories.fresh(failed)
    assert (again.status, again.run, again.completed_at) == ("queued", 1, None)
    assert (again.error_message, again.error_type, again.failure_class) == (None, None, "")
    assert factories.fresh(group).failed_count == 0
    event = factories.log(group)[-1]
    expected = {
        "type": "child_retrying",
        "run": 1,
        "job_id": failed.id,
        "attempt": 1,
        "not_before": None,
    }
    expected |= {
        "next_backend_id": "gpu-1",
        "queued_at": iso(again.queued_at),
        "requested_by": "anna",
    }
    assert event == {**event, **expected}
    run_all(fence)
    stored = factories.fresh(group)
    assert (stored.status, stored.run, stored.completed_count) == ("completed", 1, 2)
    types = factories.types(group)
    assert (types.count("group_complete"), types[-1]) == (1, "group_complete")
    assert "group_reopened" not in types
    results = factories.log(group)[-1]["results"]
    assert [one["status"] for one in results] == ["completed", "completed"]


def test_internal_error_does_not_block_a_retry_elsewhere(fence: FencingToken) -> None:
    other = online("gpu-2")
    group, claimed = factories.running(fence, "gpu-1", "gpu-1")
    crash(claimed, fence)
    child = group.children.get(position=0)
    retry_one(group, child, OTHER)
    assert factories.claim(other).child_id == child.id
    assert Attempt.objects.get(pk=claimed.pk).ended_at is None


def test_retry_within_a_run_adopts_a_late_result(fence: FencingToken) -> None:
    group, claimed = factories.running(fence, "gpu-1", "gpu-1")
    time_out(claimed, fence)
    factories.finish(claimed, fence)
    child = group.children.get(position=0)
    assert retry_one(group, child).adopted_job_ids == (child.id,)
    assert factories.fresh(child).status == "completed"
    assert factories.fresh(group).completed_at is None
    assert factories.types(group)[-3:] == ["child_retrying", "child_started", "child_completed"]


def test_retry_by_a_person_ignores_max_attempts(fence: FencingToken) -> None:
    group, failed = running(fence, max_attempts=1)
    retry_one(group, failed)
    ChildJob.objects.filter(group=group).exclude(pk=failed.pk).update(
        queued_at=now() + dt.timedelta(hours=1)
    )
    fail(begin(fence), fence)
    assert (factories.fresh(failed).status, factories.fresh(failed).attempt_count) == ("failed", 2)
    assert retry_one(group, failed).job_ids == (failed.id,)


def refused(group: JobGroup, child: ChildJob, kind: type[RequestError], **said: Any) -> None:
    before = factories.log(group)
    rows = list(ChildJob.objects.order_by("pk").values())
    with pytest.raises(kind):
        retry_one(group, child, **said)
    assert factories.log(group) == before
    assert list(ChildJob.objects.order_by("pk").values()) == rows


def test_retry_of_a_job_that_has_not_failed_is_refused(fence: FencingToken) -> None:
    group, failed = running(fence)
    waiting = group.children.get(position=1)
    refused(group, waiting, JobNotFailed)
    claimed = begin(fence)
    refused(group, waiting, JobNotFailed)
    retry_one(group, failed)
    # A second click.
    refused(group, failed, JobNotFailed)
    factories.finish(claimed, fence)
    refused(group, waiting, JobCompleted)
    refused(group, failed, RunPassed, run=2)
    refused(group, ChildJob(id="j_000000000000"), ChildNotFound)


def test_cancelled_job_is_not_retried_within_its_run(fence: FencingToken) -> None:
    group, _ = running(fence)
    waiting = group.children.get(position=1)
    failed = group.children.get(position=0)
    retry_one(group, failed)
    cancellation.child_cancel(group_id=group.id, job_id=waiting.id)
    refused(group, waiting, JobNotFailed)


@pytest.mark.django_db(transaction=True)
def test_concurrent_retry_and_end_of_the_run_are_serialized() -> None:
    fence = online("gpu-1")
    for _ in range(6):
        group, failed = running(fence)
        last = begin(fence)
        _, done = race(partial(factories.finish, last, fence), partial(retry_one, group, failed))
        run_all(fence)
        stored = factories.fresh(group)
        assert (stored.status, stored.run) == ("completed", done.run)
        ends = [one["run"] for one in factories.log(group) if one["type"] == "group_complete"]
        assert ends == list(range(1, done.run + 1))
        assert factories.types(group)[-1] == "group_complete"


@pytest.fixture
def cards() -> dict[str, FencingToken]:
    """Two small cards and two larger ones."""
    return {f"gpu-{at}": online(f"gpu-{at}", vram) for at, vram in enumerate((8, 8, 12, 24), 1)}


@pytest.mark.parametrize(
    ("choice", "kind", "moves"),
    [
        (OTHER, FailureClass.OUT_OF_MEMORY, True),
        (SAME, FailureClass.OUT_OF_MEMORY, False),
        (AS_THE_GROUP_SAYS, FailureClass.OUT_OF_MEMORY, False),
        (AUTO, FailureClass.OUT_OF_MEMORY, True),
        (AUTO, FailureClass.NODE_OR_MODEL_MISSING, True),
        (AUTO, FailureClass.BACKEND_LOST, True),
        (AUTO, FailureClass.UNREACHABLE, True),
        (AUTO, FailureClass.NODE_ERROR, False),
    ],
)
def test_choice_decides_whether_a_retry_moves(
    cards: dict[str, FencingToken], choice: Choice, kind: FailureClass, moves: bool
) -> None:
    elsewhere = RetryScope.ANY if choice is SAME else RetryScope.NEVER
    group, failed = running(cards["gpu-1"], kind, retry_elsewhere=elsewhere, max_attempts=1)
    done = retry_one(group, failed, choice)
    place = factories.fresh(failed).backend_id
    assert done.moved == ({failed.id: place} if moves else {})
    assert (place != "gpu-1") is moves
    if moves and kind is FailureClass.OUT_OF_MEMORY:
        assert place == "gpu-4", "the largest card"


def test_auto_keeps_the_backend_when_there_is_no_other(fence: FencingToken) -> None:
    group, failed = running(fence, FailureClass.OUT_OF_MEMORY)
    assert retry_one(group, failed, AUTO).moved == {}


def test_auto_decides_for_each_job_of_a_group(cards: dict[str, FencingToken]) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    fail(begin(cards["gpu-1"]), cards["gpu-1"], FailureClass.OUT_OF_MEMORY)
    fail(begin(cards["gpu-1"]), cards["gpu-1"], FailureClass.NODE_ERROR)
    group_retry(group_id=group.id, choice=AUTO)
    first, second = group.children.order_by("position")
    assert (first.backend_id, second.backend_id) == ("gpu-4", "gpu-1")


@pytest.mark.parametrize("opens_run", [True, False])
def test_named_backend_gets_the_retry(cards: dict[str, FencingToken], opens_run: bool) -> None:
    group, failed = running(cards["gpu-1"])
    if opens_run:
        run_all(cards["gpu-1"])
    done = retry_one(group, failed, Choice(backend_id="gpu-3"))
    assert (done.moved, done.run) == ({failed.id: "gpu-3"}, 2 if opens_run else 1)
    assert factories.claim(cards["gpu-3"]).child_id == failed.id


def test_named_backend_that_is_unfit_is_refused(cards: dict[str, FencingToken]) -> None:
    group, failed = running(cards["gpu-1"])
    refused(group, failed, BackendNotFound, choice=Choice(backend_id="gpu-9"))
    Backend.objects.filter(pk="gpu-3").update(enabled=False)
    refused(group, failed, BackendUnavailable, choice=Choice(backend_id="gpu-3"))
    JobGroup.objects.update(required_capabilities=["flux"])
    refused(group, failed, BackendUnavailable, choice=Choice(backend_id="gpu-2"))


def test_named_backend_does_not_wait_for_an_offline_one(cards: dict[str, FencingToken]) -> None:
    group = factories.submit("gpu-1", "gpu-2")
    claimed = accept(cards["gpu-1"])
    cancellation.child_cancel(group_id=group.id, job_id=claimed.child_id)
    run_all(cards["gpu-2"])
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    child = ChildJob.objects.get(pk=claimed.child_id)
    retry_one(group, child, Choice(backend_id="gpu-3"))
    assert factories.claim(cards["gpu-3"]).child_id == child.id
    assert Attempt.objects.get(pk=claimed.pk).failure_class == "unreachable"
