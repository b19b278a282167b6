"""Where a group was submitted to, however often its children have moved since."""

from __future__ import annotations

import pytest

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, RetryScope
from jobgroups.models import ChildJob, JobGroup
from jobgroups.serializers import serialize_submission
from jobgroups.services import attempts, candidates, expiry, retries, submission
from jobgroups.services.assignment import Choice
from tests.harness import factories

pytestmark = pytest.mark.django_db


def machine(name: str) -> FencingToken:
    factories.backend(name, reachability=Reachability.ONLINE, last_seen_at=now())
    return factories.lease(name)


def fail(fence: FencingToken) -> None:
    """Have the next prompt there fail in a way that is met elsewhere only."""
    claimed = factories.claim(fence)
    factories.start(claimed, fence)
    end = factories.end(AttemptState.ERROR, failure=FailureClass.NODE_OR_MODEL_MISSING)
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)


def bound(group: JobGroup) -> list[str | None]:
    return [child.backend_id for child in group.children.order_by("position")]


def submitted(*names: str, elsewhere: RetryScope = RetryScope.ANY) -> JobGroup:
    return factories.submit(
        *names, max_attempts=3, retry_elsewhere=elsewhere, idempotency_key="k", idempotency_digest="d"
    )


def replay(group: JobGroup) -> list[str]:
    found = submission.group_replay(submitter="", key="k", digest="d")
    assert found is not None
    assert found.group.pk == group.pk
    answer = serialize_submission(found.group, found.children)
    return [child["backend_id"] for child in answer["child_jobs"]]


def test_replay_names_the_submitted_backends_after_a_retry_elsewhere() -> None:
    first, second = machine("gpu-1"), machine("gpu-2")
    machine("gpu-3")
    group = submitted("gpu-1", "gpu-2")
    fail(first)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    expiry.children_reassign(fence=second, reason="it is away.")
    assert bound(group) == ["gpu-3", "gpu-3"]
    before = list(ChildJob.objects.order_by("position").values())
    assert replay(group) == ["gpu-1", "gpu-2"]
    assert list(ChildJob.objects.order_by("position").values()) == before


def test_replay_names_the_submitted_backends_in_a_later_run() -> None:
    first = machine("gpu-1")
    group = submitted("gpu-1", elsewhere=RetryScope.NEVER)
    # Never sent: no attempt, and no event but the end, knows where it was.
    expiry.children_fail_unavailable(fence=first, away_s=600, reason="refused")
    second = machine("gpu-2")
    Backend.objects.filter(pk="gpu-1").update(reachability=Reachability.OFFLINE)
    retries.group_retry(group_id=group.id, choice=Choice(elsewhere=RetryScope.ANY))
    assert bound(group) == ["gpu-2"]
    assert replay(group) == ["gpu-1"]
    factories.finish(factories.claim(second), second)
    assert replay(group) == ["gpu-1"]


def test_retry_elsewhere_adds_no_backend_to_the_group() -> None:
    first, second = machine("gpu-1"), machine("gpu-2")
    machine("gpu-3")
    group = submitted("gpu-1", elsewhere=RetryScope.GROUP)
    expiry.children_fail_unavailable(fence=first, away_s=600, reason="refused")
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    retries.group_retry(group_id=group.id, choice=Choice(elsewhere=RetryScope.ANY))
    assert bound(group) == ["gpu-2"]
    Backend.objects.filter(pk="gpu-1").update(enabled=True)
    group = factories.fresh(group)
    found = candidates.candidate_backends(group, RetryScope.GROUP, besides=["gpu-2"])
    # The one it was submitted to, though nothing was ever sent there; not those it was let go to once.
    assert [one.backend_id for one in found] == ["gpu-1"]
    fail(second)
    assert bound(group) == ["gpu-1"]
