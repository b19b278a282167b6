"""Where a retried child waits: at its own backend, at another one, or nowhere, which is refused."""

from functools import partial
from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.errors import BackendUnavailable, Conflict
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.serializers import serialize_submission
from jobgroups.services import cancellation, candidates, expiry, submission
from jobgroups.services.assignment import Choice
from jobgroups.services.backends import backend_delete
from jobgroups.services.retries import Retried, group_retry
from tests.harness import factories
from tests.harness.factories import begin, fail, farm, online
from tests.harness.races import race

pytestmark = pytest.mark.django_db

NEVER, GROUP, ANY = RetryScope.NEVER, RetryScope.GROUP, RetryScope.ANY
SHUT: dict[str, dict[str, Any]] = {
    "disabled": {"enabled": False, "changed_reason": "cleaning the fans"},
    "drained": {"hold": "drain"},
    "quarantined": {"quarantined_at": now(), "quarantine_reason": "3 failures in 10 min."},
}


def failed(*backend_ids: str, kind: FailureClass = FailureClass.NODE_ERROR, **fields: Any) -> JobGroup:
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


def retry(group: JobGroup, elsewhere: RetryScope | None = None) -> Retried:
    return group_retry(group_id=group.id, choice=Choice(elsewhere=elsewhere))


@pytest.mark.parametrize("shut", SHUT.values(), ids=SHUT.keys())
def test_retry_at_an_unschedulable_backend_is_refused_with_advice(shut: dict[str, Any]) -> None:
    farm(2)
    group = failed("gpu-1", "gpu-2")
    Backend.objects.filter(pk="gpu-1").update(**shut)
    before = factories.log(group)
    with pytest.raises(BackendUnavailable) as refused:
        retry(group)
    (told,) = refused.value.extra["unavailable_backends"]
    assert told["backend_id"] == "gpu-1"
    assert "retry_elsewhere" in refused.value.detail
    for reason in (shut.get("changed_reason"), shut.get("quarantine_reason")):
        assert not reason or reason.rstrip(".") in told["reason"]
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
    assert group_retry(group_id=group.id, job_ids=[second.id]).job_ids == [second.id]


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
            partial(group_retry, group_id=group.id), partial(backend_delete, backend_id="gpu-1"), refused=Conflict
        )
        codes = [one.code if isinstance(one, Conflict) else "done" for one in outcomes]
        assert codes in (["done", "backend_in_use"], ["backend_unavailable", "done"])
        cancellation.group_cancel(group_id=group.id)
        Backend.objects.filter(pk="gpu-1").delete()


def replay(group: JobGroup) -> list[str]:
    found = submission.group_replay(submitter="", key="k", digest="d")
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
