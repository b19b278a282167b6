"""Where a retried child waits: at its own backend, at another one, or nowhere, which is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.errors import BackendUnavailable, Conflict
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import cancellation
from jobgroups.services.assignment import Choice
from jobgroups.services.backends import backend_delete
from jobgroups.services.retries import Retried, group_retry
from tests.harness import factories
from tests.harness.factories import begin
from tests.harness.races import race

pytestmark = pytest.mark.django_db

NEVER, GROUP, ANY = RetryScope.NEVER, RetryScope.GROUP, RetryScope.ANY
SHUT: dict[str, dict[str, Any]] = {
    "disabled": {"enabled": False, "changed_reason": "cleaning the fans"},
    "drained": {"hold": "drain"},
    "quarantined": {"quarantined_at": now(), "quarantine_reason": "3 failures in 10 min."},
}


def works(backend_id: str, **fields: Any) -> None:
    """Register a backend that answers."""
    factories.backend(backend_id, reachability="online", last_seen_at=now(), **fields)


def failed(*backend_ids: str, kind: FailureClass = FailureClass.NODE_ERROR, **fields: Any) -> JobGroup:
    """Submit a group whose children have all failed, each at its backend."""
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
    works("gpu-1")
    works("gpu-2")
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
    # Nobody said gpu-2's child must wait for it.
    second = group.children.get(position=1)
    assert group_retry(group_id=group.id, job_ids=[second.id]).job_ids == [second.id]


@pytest.mark.parametrize("shut", SHUT.values(), ids=SHUT.keys())
def test_retry_moves_from_an_unschedulable_backend_when_allowed(shut: dict[str, Any]) -> None:
    works("gpu-1")
    works("gpu-2")
    group = failed("gpu-1", "gpu-2")
    Backend.objects.filter(pk="gpu-1").update(**shut)
    done = retry(group, GROUP)
    assert places(group)[0] == "gpu-2"
    first = group.children.get(position=0)
    assert done.moved[first.id] == "gpu-2"
    assert factories.log(group)[-1]["backend_ids"][0] == "gpu-2"
    # For this choice alone: what the group says of its own retries stays.
    assert factories.fresh(group).retry_elsewhere == "never"


def test_retry_at_a_deleted_backend_is_refused(db: None) -> None:
    works("gpu-1")
    works("gpu-2")
    group = failed("gpu-1")
    Backend.objects.filter(pk="gpu-1").delete()
    with pytest.raises(BackendUnavailable, match="not registered any more"):
        retry(group)
    # gpu-2 is none of the group's backends.
    with pytest.raises(BackendUnavailable, match="No other backend"):
        retry(group, GROUP)
    assert retry(group, ANY).moved == {group.children.get().id: "gpu-2"}


def test_retry_keeps_the_backend_by_default() -> None:
    works("gpu-1")
    works("gpu-2")
    group = failed("gpu-1", "gpu-2", kind=FailureClass.CUDA_FATAL)
    assert retry(group).moved == {}
    assert places(group) == ["gpu-1", "gpu-2"]


def test_retry_moves_when_the_policy_of_the_group_allows_it() -> None:
    works("gpu-1")
    works("gpu-2")
    group = failed("gpu-1")
    JobGroup.objects.update(retry_elsewhere=ANY.value)
    assert list(retry(group).moved.values()) == ["gpu-2"]
    group = failed("gpu-1")
    JobGroup.objects.update(retry_elsewhere=ANY.value)
    assert retry(group, NEVER).moved == {}


def test_retry_prefers_backends_that_have_not_failed_the_job() -> None:
    works("gpu-1")
    works("gpu-2")
    works("gpu-3", enabled=False)
    group = failed("gpu-1")
    assert list(retry(group, ANY).moved.values()) == ["gpu-2"]
    fence = factories.lease("gpu-2")
    factories.finish(factories.claim(fence), fence, AttemptState.ERROR)
    Attempt.objects.update(failure_class=FailureClass.CUDA_FATAL.value)
    # In its last run it failed at gpu-2 alone.
    assert list(retry(group, ANY).moved.values()) == ["gpu-1"]


def test_retry_after_out_of_memory_prefers_the_largest_card() -> None:
    works("gpu-1", devices=[{"name": "a", "vram_total": 8 * 2**30}])
    works("gpu-2", devices=[{"name": "b", "vram_total": 12 * 2**30}])
    works("gpu-3", devices=[{"name": "c", "vram_total": 24 * 2**30}])
    group = failed("gpu-1", kind=FailureClass.OUT_OF_MEMORY)
    retry(group, ANY)
    assert places(group) == ["gpu-3"]


def test_retry_spreads_jobs_over_backends() -> None:
    for number in range(1, 5):
        works(f"gpu-{number}")
    group = failed(*["gpu-1"] * 9)
    retry(group, ANY)
    assert sorted(places(group)) == [f"gpu-{n}" for n in (2, 2, 2, 3, 3, 3, 4, 4, 4)]


def test_retry_respects_required_capabilities() -> None:
    works("gpu-1", tags=["flux"])
    works("gpu-2")
    works("gpu-3", tags=["flux"])
    group = failed("gpu-1", required_capabilities=["flux"])
    retry(group, ANY)
    assert places(group) == ["gpu-3"]


def test_retry_of_cancelled_jobs_keeps_their_backend() -> None:
    works("gpu-1")
    works("gpu-2")
    group = factories.submit("gpu-1", "gpu-1")
    cancellation.group_cancel(group_id=group.id)
    retry(group, ANY)
    assert places(group) == ["gpu-1", "gpu-1"]


@pytest.mark.parametrize("away", [{"reachability": "offline"}, {"hold": "pause"}])
def test_offline_or_paused_backend_keeps_jobs_that_may_not_move(away: dict[str, Any]) -> None:
    works("gpu-1")
    works("gpu-2")
    group = failed("gpu-1")
    Backend.objects.filter(pk="gpu-1").update(**away)
    assert retry(group).moved == {}
    cancellation.group_cancel(group_id=group.id)
    assert list(retry(group, ANY).moved.values()) == ["gpu-2"]


def test_retry_of_a_thousand_jobs_needs_constant_reads(django_assert_max_num_queries: Any) -> None:
    for number in range(1, 5):
        works(f"gpu-{number}")
    group = factories.submit(*["gpu-1"] * 1000)
    cancellation.group_cancel(group_id=group.id)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    with django_assert_max_num_queries(1000 + 40):  # one write for each child
        retry(group, ANY)
    assert "gpu-1" not in places(group)


@pytest.mark.django_db(transaction=True)
def test_concurrent_retry_and_backend_deletion_are_serialized() -> None:
    for _ in range(6):
        works("gpu-1")
        group = failed("gpu-1")
        outcomes = race(
            partial(group_retry, group_id=group.id), partial(backend_delete, backend_id="gpu-1"), refused=Conflict
        )
        codes = [one.code if isinstance(one, Conflict) else "done" for one in outcomes]
        assert codes in (["done", "backend_in_use"], ["backend_unavailable", "done"])
        cancellation.group_cancel(group_id=group.id)
        Backend.objects.filter(pk="gpu-1").delete()
