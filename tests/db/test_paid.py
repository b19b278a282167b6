"""Jobs with partner nodes: what may have been paid is not sent again without a word of the group or a user."""

from collections.abc import Callable

import pytest
from pytest_django import Settings

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, ErrorType, RetryScope
from jobgroups.models import ChildJob, JobGroup
from jobgroups.services import attempts, expiry, outages, retries
from jobgroups.services.claims import Claim
from jobgroups.services.outcomes import AttemptResult
from jobgroups.services.recalls import prompt_recall
from tests.harness import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_backoff")]


@pytest.fixture(autouse=True)
def has_key(settings: Settings) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = "comfyui-0123456789abcdef"


End = Callable[[Claim, FencingToken], object]


def _failed(claimed: Claim, fence: FencingToken) -> None:
    end = AttemptResult(
        state=AttemptState.ERROR,
        outputs={},
        error_message="Payment Required",
        error_type=ErrorType.COMFYUI,
        failure=FailureClass.NODE_ERROR,
    )
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)


def _lacked_a_file(claimed: Claim, fence: FencingToken) -> None:
    missing = FailureClass.NODE_OR_MODEL_MISSING
    end = AttemptResult(state=AttemptState.ERROR, outputs={}, error_message="no model", failure=missing)
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)


def _interrupted_by_other(claimed: Claim, fence: FencingToken) -> None:
    end = AttemptResult(state=AttemptState.INTERRUPTED, outputs={})
    attempts.attempt_interrupted_by_other(attempt_id=claimed.attempt_id, fence=fence, end=end)


def _lost(claimed: Claim, fence: FencingToken) -> None:
    attempts.attempt_lost(attempt_id=claimed.attempt_id, fence=fence, reason="it restarted")


def _unreachable(claimed: Claim, fence: FencingToken) -> None:
    Backend.objects.filter(pk=fence.backend_id).update(unreachable_since=now())
    assert not outages.attempts_move(fence=fence, reason="It does not answer.")
    expiry.children_fail_unavailable(fence=fence, away_s=600, reason="it does not answer")


def _not_sent(claimed: Claim, fence: FencingToken) -> None:
    attempts.attempt_not_sent(attempt_id=claimed.attempt_id, fence=fence)


def _refused(claimed: Claim, fence: FencingToken) -> None:
    details = {"refused_by": "director"}
    missing = FailureClass.NODE_OR_MODEL_MISSING
    attempts.attempt_refused(
        attempt_id=claimed.attempt_id, fence=fence, message="no key", details=details, kind=missing
    )


EXECUTED: list[tuple[End, Callable[[Claim, FencingToken], object] | None]] = [
    (_failed, factories.start),
    (_lacked_a_file, factories.start),
    (_interrupted_by_other, factories.start),
    (_lost, factories.start),
    (_lost, lambda claimed, fence: attempts.attempt_accepted(attempt_id=claimed.attempt_id, fence=fence)),
    (_unreachable, lambda claimed, fence: attempts.attempt_accepted(attempt_id=claimed.attempt_id, fence=fence)),
]


def _claimed(*, in_pool: bool, **fields: object) -> tuple[JobGroup, Claim, FencingToken]:
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
    end: End, before: Callable[[Claim, FencingToken], object], in_pool: bool
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
@pytest.mark.parametrize("end", [_not_sent, factories.abandon])
def test_paid_job_that_never_ran_waits_again(end: End, in_pool: bool) -> None:
    _, claimed, fence = _claimed(in_pool=in_pool)
    end(claimed, fence)
    assert ChildJob.objects.get().status == "queued"


def test_refused_paid_job_of_the_pool_waits_for_another_backend() -> None:
    _, claimed, fence = _claimed(in_pool=True)
    _refused(claimed, fence)
    assert ChildJob.objects.get().status == "queued"


@pytest.mark.parametrize(("named", "status"), [("node_error", "queued"), ("backend_lost", "failed")])
def test_paid_job_is_retried_only_after_a_failure_that_retry_on_names(named: str, status: str) -> None:
    _, claimed, fence = _claimed(in_pool=False, retry_on=[named])
    factories.start(claimed, fence)
    _failed(claimed, fence)
    assert ChildJob.objects.get().status == status


def test_paid_prompt_is_not_recalled() -> None:
    _, claimed, fence = _claimed(in_pool=True)
    attempts.attempt_accepted(attempt_id=claimed.attempt_id, fence=fence)
    assert not prompt_recall(attempt_id=claimed.attempt_id)
    JobGroup.objects.update(uses_partner_nodes=False)
    assert prompt_recall(attempt_id=claimed.attempt_id)
