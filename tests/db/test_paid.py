"""Jobs with partner nodes: what may have been paid is not sent again without a word of the group or
a user.
"""

from collections.abc import Callable
from functools import partial

import pytest
from pytest_django import Settings

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import RetryScope
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, expiry, outages, retries
from jobgroups.services.moves import prompt_recall
from tests.harness import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_backoff")]


@pytest.fixture(autouse=True)
def has_key(settings: Settings) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = "comfyui-0123456789abcdef"


End = Callable[[Attempt, FencingToken], object]


def _unreachable(claimed: Attempt, fence: FencingToken) -> None:
    Backend.objects.filter(pk=fence.backend_id).update(unreachable_since=now())
    assert not outages.attempts_move(fence=fence, reason="It does not answer.")
    expiry.children_fail_unavailable(fence=fence, away_s=600, reason="it does not answer")


def _accepted(claimed: Attempt, fence: FencingToken) -> None:
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence)


_LACKS = FailureClass.NODE_OR_MODEL_MISSING
EXECUTED: list[tuple[End, End]] = [
    (factories.fail, factories.start),
    (partial(factories.fail, failure=_LACKS), factories.start),
    (factories.interrupted_by_other, factories.start),
    (factories.lose, factories.start),
    (factories.lose, _accepted),
    (_unreachable, _accepted),
]


def _claimed(*, in_pool: bool, **fields: object) -> tuple[JobGroup, Attempt, FencingToken]:
    fence, _ = factories.farm(2, partner_nodes_allowed=True, comfyui_version="0.33.0")
    fields = {"uses_partner_nodes": True, "max_attempts": 3, **fields}
    if in_pool:
        group = factories.submit_to_pool(1, **fields)
        return group, factories.claim_from_pool(fence, group), fence
    group = factories.submit(retry_elsewhere=RetryScope.ANY, **fields)
    return group, factories.claim(fence), fence


@pytest.mark.parametrize("in_pool", [True, False])
@pytest.mark.parametrize(("end", "before"), EXECUTED)
def test_job_that_may_have_been_paid_fails_instead_of_a_retry(
    end: End, before: End, in_pool: bool
) -> None:
    group, claimed, fence = _claimed(in_pool=in_pool)
    before(claimed, fence)
    end(claimed, fence)
    child = ChildJob.objects.get()
    assert (child.status, child.attempts.count()) == ("failed", 1)
    assert child.error_message
    # A user may have it rendered again.
    retries.group_retry(group_id=group.pk)
    assert ChildJob.objects.get().status == "queued"


@pytest.mark.parametrize("in_pool", [True, False])
@pytest.mark.parametrize("end", [factories.not_sent, factories.abandon])
def test_paid_job_that_never_ran_waits_again(end: End, in_pool: bool) -> None:
    _, claimed, fence = _claimed(in_pool=in_pool)
    end(claimed, fence)
    assert ChildJob.objects.get().status == "queued"


def test_refused_paid_job_of_the_pool_waits_for_another_backend() -> None:
    _, claimed, fence = _claimed(in_pool=True)
    details = {"refused_by": "director"}
    attempts.attempt_refused(
        attempt_id=claimed.pk, fence=fence, message="no key", details=details, kind=_LACKS
    )
    assert ChildJob.objects.get().status == "queued"


@pytest.mark.parametrize(
    ("named", "status"), [("node_error", "queued"), ("backend_lost", "failed")]
)
def test_paid_job_is_retried_only_after_a_failure_that_retry_on_names(
    named: str, status: str
) -> None:
    _, claimed, fence = _claimed(in_pool=False, retry_on=[named])
    factories.start(claimed, fence)
    factories.fail(claimed, fence)
    assert ChildJob.objects.get().status == status


def test_paid_prompt_is_not_recalled() -> None:
    _, claimed, fence = _claimed(in_pool=True)
    _accepted(claimed, fence)
    assert not prompt_recall(attempt_id=claimed.pk)
    JobGroup.objects.update(uses_partner_nodes=False)
    assert prompt_recall(attempt_id=claimed.pk)
