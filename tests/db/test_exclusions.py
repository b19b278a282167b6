"""Exclusions: learned from failures of jobs of the pool, and ended by time, by a person or by the
backend's return.
"""

import datetime as dt
from functools import partial
from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, PartialOutputs, RetryScope, StopReason
from jobgroups.errors import BackendNotFound, BackendUnavailable, ExclusionNotFound
from jobgroups.models import AbandonedPrompt, Attempt, Exclusion, JobGroup, Variant
from jobgroups.queries import work
from jobgroups.queries.exclusions import active_exclusions, exclusions_json
from jobgroups.queries.groups import group_snapshot
from jobgroups.queries.pool import pool_snapshot
from jobgroups.services import attempts, backends, exclusions, expiry, retries, runners
from jobgroups.services.assignment import Choice
from jobgroups.services.claims import ClaimResult
from jobgroups.workflow import build_template
from jobgroups.workflow.batch import sweep_of
from tests.db.test_pool import claim, fail
from tests.harness import factories
from tests.harness.factories import finish, online, start, submit_to_pool
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)

LACKS = "Value not in list: ckpt_name: 'a.safetensors' not in []"


def faulty(*inputs: str) -> dict[str, Any]:
    """Return ComfyUI's ``node_errors`` for inputs whose file is missing."""
    errors = [
        {
            "type": "value_not_in_list",
            "details": name,
            "extra_info": {"input_name": name, "received_value": "a.safetensors"},
        }
        for name in inputs
    ]
    return {"4": {"errors": errors, "dependent_outputs": ["9"], "class_type": "Loader"}}


def refuse(result: ClaimResult, fence: FencingToken, *inputs: str) -> None:
    assert result.claim is not None
    attempts.attempt_refused(
        attempt_id=result.claim.pk,
        fence=fence,
        message=LACKS,
        details={"status": 400, "node_errors": faulty(*inputs or ("ckpt_name",))},
        kind=FailureClass.NODE_OR_MODEL_MISSING,
    )


def excluded() -> list[tuple[str, str, int]]:
    return list(active_exclusions().values_list("backend_id", "kind", "count"))


def give_up(group: JobGroup) -> int:
    variant = Variant.objects.get(group=group)
    expiry.variants_mark(unplaced=[variant.id], placed=[])
    return expiry.pool_give_up(variant_id=variant.id, limit_s=0)


def test_a_refusal_excludes_the_backend_and_costs_the_job_nothing() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group, same = submit_to_pool(1, max_attempts=1), submit_to_pool(1)
    refuse(claim(first, group), first)
    assert excluded() == [("gpu-1", "missing", 1)]
    child = factories.only(group)
    assert (child.status, child.backend_id, child.attempt_count) == ("queued", None, 1)
    assert not Attempt.objects.get().is_counted
    assert claim(first, group).in_vain
    assert claim(first, same).in_vain, "another group with the same workflow"
    heads = {one.group_id: one.needs.excluded for one in pool_snapshot(()).variants}
    assert heads == {group.id: {"gpu-1"}, same.id: {"gpu-1"}}
    assert finish(factories.claim_from_pool(second, group), second)
    assert factories.fresh(group).status == "completed"


def test_a_backend_that_refuses_everything_makes_no_job_fail_while_another_fits() -> None:
    fences = [online(f"gpu-{number}") for number in range(1, 9)]
    online("sound")
    group = submit_to_pool(1, max_attempts=1)
    for fence in fences:
        refuse(claim(fence, group), fence)
    assert factories.only(group).status == "queued"
    assert give_up(group) == 0
    assert len(excluded()) == 8


def test_a_missing_picture_excludes_the_backend_from_this_group_alone() -> None:
    fence = online("gpu-1")
    group, same = submit_to_pool(1), submit_to_pool(1)
    refuse(claim(fence, group), fence, "image", "mask")
    assert Exclusion.objects.get().variant_id == Variant.objects.get(group=group).id
    assert exclusions_json("gpu-1", EVERYBODY)[0]["group_id"] == group.id
    assert claim(fence, group).in_vain
    assert claim(fence, same).claim is not None


@pytest.mark.parametrize(("varied", "is_own"), [("4.image", True), ("3.cfg", False)])
def test_a_missing_picture_is_of_the_job_alone_if_its_variation_names_it(
    varied: str, is_own: bool
) -> None:
    fence = online("gpu-1")
    graph = {**factories.WORKFLOW, "4": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    values = ["b.png", "c.png"] if is_own else [5, 7]
    batch = sweep_of(
        build_template(graph), {"axes": [{"input": varied, "values": values}]}, None, 5
    )
    group = submit_to_pool(2, workflow=graph, batch=batch)
    refuse(claim(fence, group), fence, "image")
    assert (Exclusion.objects.count(), Attempt.objects.get().is_counted) == (
        (0, True) if is_own else (1, False)
    )


@pytest.mark.parametrize(
    ("error", "everywhere"),
    [
        (["FileNotFoundError", "No such file: 'shot.png'"], False),
        (["FileNotFoundError", "Model in folder 'loras' with filename 'x' not found."], True),
        (["ModuleNotFoundError", "No module named 'insightface'"], True),
    ],
)
def test_an_error_that_does_not_name_a_model_excludes_the_group_alone(
    error: tuple[str, str], everywhere: bool
) -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1)
    claimed = factories.claim_from_pool(fence, group)
    start(claimed, fence)
    failed = factories.end(
        AttemptState.ERROR,
        failure=FailureClass.NODE_OR_MODEL_MISSING,
        error_message=error[1],
        error_details={"exception_type": error[0]},
    )
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=failed)
    assert (Exclusion.objects.get().variant_id == 0) is everywhere
    assert factories.only(group).status == "queued"


def test_a_part_that_is_refused_excludes_the_backend_too() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1, partial_outputs=PartialOutputs.FAIL)
    claimed = factories.claim_from_pool(fence, group)
    attempts.attempt_accepted(attempt_id=claimed.pk, fence=fence, node_errors=faulty("ckpt_name"))
    assert Attempt.objects.get().stop_reason == StopReason.PARTLY_REFUSED
    assert excluded() == [("gpu-1", "missing", 1)]
    assert finish(claimed, fence, AttemptState.INTERRUPTED)
    assert excluded() == [("gpu-1", "missing", 1)], "learned once"
    assert factories.only(group).status == "queued"
    assert not Attempt.objects.get().is_counted


def test_the_second_out_of_memory_excludes_and_both_are_counted() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(2, max_attempts=5)
    fail(claim(fence, group), fence, FailureClass.OUT_OF_MEMORY)
    assert excluded() == []
    fail(claim(fence, group), fence, FailureClass.OUT_OF_MEMORY)
    assert excluded() == [("gpu-1", "out_of_memory", 2)]
    assert all(one.is_counted for one in Attempt.objects.all())
    child = group.children.get(failure_class="out_of_memory")
    assert child.status == "failed", "no candidate is left"
    assert give_up(group) == 1
    left = group.children.exclude(pk=child.pk).get()
    assert left.failure_class == "out_of_memory"
    assert "gpu-1: Ran out of memory 2 times" in (left.error_message or "")


def test_retry_after_out_of_memory_everywhere_names_backends_and_what_helps() -> None:
    fences = [online("gpu-1", name="Attic"), online("gpu-2", name="Cellar")]
    online("gpu-3", name="Roof", enabled=False)
    group = submit_to_pool(2, max_attempts=5)
    for fence in fences * 2:
        fail(claim(fence, group), fence, FailureClass.OUT_OF_MEMORY)
    give_up(group)
    assert factories.fresh(group).status == "failed"
    with pytest.raises(BackendUnavailable) as refused:
        retries.group_retry(group_id=group.id)
    assert refused.value.detail == (
        "Attic, Cellar take no jobs: Ran out of memory 2 times with this workflow: It met out_of_memory. "
        "Roof takes no jobs: Disabled. Retry on a backend by its name, also on one that ran out of "
        "memory, or lift an exclusion on the page of its backend."
    )
    retries.group_retry(group_id=group.id, choice=Choice(backend_id="gpu-1"))
    assert claim(fences[0], group).claim is not None


def test_a_bound_job_excludes_nothing() -> None:
    fence = online("gpu-1")
    group = factories.submit("gpu-1")
    result = ClaimResult(factories.claim(fence))
    refuse(result, fence)
    assert not Exclusion.objects.exists()
    assert factories.only(group).status == "failed"
    assert Attempt.objects.get().is_counted


def test_nothing_is_claimed_after_an_exclusion_that_was_learned_at_the_same_moment() -> None:
    fence = online("gpu-1")
    for _ in range(5):
        group = submit_to_pool(3)
        first = claim(fence, group)
        race(partial(refuse, first, fence), partial(claim, fence, group))
        assert claim(fence, group).in_vain
        active = Attempt.objects.filter(ended_at__isnull=True)
        for attempt_id in active.values_list("id", flat=True):
            attempts.attempt_not_sent(attempt_id=attempt_id, fence=fence)
        exclusions.exclusions_lift(backend_id="gpu-1")


def test_two_refusals_at_once_are_one_exclusion() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(2)
    both = [claim(fence, group), claim(fence, group)]
    race(*(partial(refuse, one, fence) for one in both))
    assert excluded() == [("gpu-1", "missing", 2)]


@pytest.mark.parametrize(
    "end",
    [
        lambda _fence: exclusions.exclusions_lift(backend_id="gpu-1"),
        lambda _fence: exclusions.exclusions_lift(
            backend_id="gpu-1", exclusion_id=Exclusion.objects.get().pk
        ),
        lambda _fence: backends.backend_update(backend_id="gpu-1", url="http://other.test:8188"),
        lambda fence: [
            backends.backend_observed(fence=fence, reachable=reachable)
            for reachable in (False, True)
        ],
        lambda _fence: Exclusion.objects.update(
            last_at=Exclusion.objects.get().last_at - dt.timedelta(hours=1)
        ),
    ],
    ids=["all lifted", "one lifted", "other address", "return", "age"],
)
def test_an_exclusion_ends_and_the_same_job_is_taken_again(end: Any) -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1)
    refuse(claim(fence, group), fence)
    assert claim(fence, group).in_vain
    end(fence)
    assert excluded() == []
    assert claim(fence, group).claim is not None


def test_a_backend_that_answers_keeps_its_exclusions() -> None:
    fence = online("gpu-1")
    refuse(claim(fence, submit_to_pool(1)), fence)
    backends.backend_observed(fence=fence, reachable=True)
    backends.backend_update(backend_id="gpu-1", url="http://gpu-1.test:8188/", name="same")
    assert len(excluded()) == 1
    with pytest.raises(ExclusionNotFound):
        exclusions.exclusions_lift(backend_id="gpu-1", exclusion_id=0)
    with pytest.raises(BackendNotFound):
        exclusions.exclusions_lift(backend_id="none")
    backends.backend_delete(backend_id="gpu-1")
    assert not Exclusion.objects.exists()


def test_an_old_out_of_memory_does_not_count_with_a_new_one() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1, max_attempts=5)
    fail(claim(fence, group), fence, FailureClass.OUT_OF_MEMORY)
    old = Exclusion.objects.get().last_at - dt.timedelta(hours=24)
    Exclusion.objects.update(last_at=old)
    fail(claim(fence, group), fence, FailureClass.OUT_OF_MEMORY)
    assert Exclusion.objects.get().count == 1


def test_jobs_that_every_candidate_refuses_fail_with_all_reasons() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    online("off", enabled=False)
    runners.runner_register(name="runner", instance="i", version="1")
    group = submit_to_pool(1)
    refuse(claim(first, group), first)
    refuse(claim(second, group), second)
    waits = group_snapshot(group.id)["child_jobs"][0]["waiting_reason"]
    assert waits.startswith("No backend can take it now.")
    assert f"gpu-1, gpu-2: Cannot run this workflow: {LACKS}." in waits
    assert give_up(group) == 1
    child = factories.only(group)
    assert child.failure_class == "node_or_model_missing"
    assert child.error_message is not None
    for said in ("gpu-1: Cannot run", "gpu-2: Cannot run", "off: Disabled"):
        assert said in child.error_message
    with pytest.raises(BackendUnavailable, match="take no jobs: Cannot run this workflow"):
        retries.group_retry(group_id=group.id)
    exclusions.exclusions_lift(backend_id="gpu-1")
    retries.group_retry(group_id=group.id)
    assert claim(first, group).claim is not None


def test_jobs_wait_for_an_absent_candidate_as_unreachable() -> None:
    first = online("gpu-1")
    online("away", unreachable_since=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    group = submit_to_pool(1)
    refuse(claim(first, group), first)
    Backend.objects.filter(pk="gpu-1").update(enabled=False)
    assert give_up(group) == 1
    assert factories.only(group).failure_class == "unreachable"


ANSWERED = 'POST /prompt was answered with 500: "no such key".'


def answer_500(claimed: Attempt, fence: FencingToken, status: int = 500) -> str:
    """Have a prompt answered with a 500 and not found; return the state of its attempt."""
    details = {"status": status, "answer": "no such key", "unconfirmed": True, "raised": False}
    attempts.attempt_uncertain(
        attempt_id=claimed.pk, fence=fence, message=ANSWERED, details=details
    )
    digest = claimed.child.group.workflow_digest
    until = now() + dt.timedelta(days=1)
    if work.was_unconfirmed_before(claimed.pk, digest, status == 500):
        kind = FailureClass.WORKFLOW_REFUSED
        refused = {"message": ANSWERED, "details": details, "kind": kind, "remember_until": until}
        attempts.attempt_refused(attempt_id=claimed.pk, fence=fence, **refused)
    else:
        attempts.attempt_never_accepted(attempt_id=claimed.pk, fence=fence, remember_until=until)
    assert AbandonedPrompt.objects.filter(attempt=claimed).exists()
    return Attempt.objects.get(pk=claimed.pk).state


def test_second_500_of_a_workflow_excludes_the_backend_and_is_not_counted() -> None:
    first, second = online("gpu-1"), online("gpu-2")
    group, same = submit_to_pool(1, max_attempts=1), submit_to_pool(1, max_attempts=1)
    assert answer_500(factories.claim_from_pool(first, group), first) == "never_accepted"
    assert excluded() == []
    assert answer_500(factories.claim_from_pool(first, same), first) == "refused"
    assert excluded() == [("gpu-1", "missing", 1)]
    assert exclusions_json("gpu-1", EVERYBODY)[0]["reason"] == ANSWERED
    assert not Attempt.objects.filter(is_counted=True).exists()
    assert [factories.only(one).status for one in (group, same)] == ["queued"] * 2
    assert claim(first, group).in_vain
    assert finish(factories.claim_from_pool(second, same), second)


def test_jobs_fail_with_the_answer_when_500s_exclude_the_last_candidate() -> None:
    fences = [online("gpu-1"), online("gpu-2")]
    group = submit_to_pool(3, max_attempts=1)
    variants = set(Variant.objects.values_list("id", flat=True))
    for fence in fences:
        assert expiry.pool_fail_refused(variant_ids=variants) == 0
        for _ in "ab":
            answer_500(factories.claim_from_pool(fence, group), fence)
    # The job of the last 500 fails with it, the others with the next look.
    assert expiry.pool_fail_refused(variant_ids=variants) == 2
    for child in group.children.all():
        assert (child.status, child.failure_class, child.error_type) == (
            "failed", "workflow_refused", "ValidationError"
        )  # fmt: skip
        assert '500: "no such key"' in child.error_message


def test_jobs_wait_for_a_candidate_that_is_away_for_a_moment_after_500s() -> None:
    fence = online("gpu-1")
    online("gpu-2", unreachable_since=now())
    group = submit_to_pool(1, max_attempts=1)
    for _ in "ab":
        answer_500(factories.claim_from_pool(fence, group), fence)
    assert expiry.pool_fail_refused(variant_ids=Variant.objects.values_list("id", flat=True)) == 0
    assert factories.only(group).status == "queued"


def test_bound_job_fails_with_the_second_500_of_its_workflow() -> None:
    fence = online("gpu-1")
    online("gpu-2")
    group, same = (
        factories.submit("gpu-1", max_attempts=3, retry_elsewhere=RetryScope.ANY) for _ in "ab"
    )
    claimed = [factories.claim(fence) for _ in "ab"]
    assert [answer_500(one, fence) for one in claimed] == ["never_accepted", "refused"]
    assert [factories.only(one).failure_class for one in (group, same)] == ["", "workflow_refused"]


def test_500_is_forgotten_with_the_exclusions_of_its_backend_and_after_an_hour() -> None:
    fence = online("gpu-1")
    submit_to_pool(1)
    for _ in "ab":
        group = submit_to_pool(1)
        assert answer_500(factories.claim_from_pool(fence, group), fence) == "never_accepted"
        exclusions.forget("gpu-1")
    answer_500(factories.claim_from_pool(fence, submit_to_pool(1)), fence)
    Exclusion.objects.update(last_at=now() - dt.timedelta(hours=1, seconds=1))
    assert (
        answer_500(factories.claim_from_pool(fence, submit_to_pool(1)), fence) == "never_accepted"
    )


def test_other_answers_are_no_500s() -> None:
    fence = online("gpu-1")
    group = submit_to_pool(1)
    assert answer_500(factories.claim_from_pool(fence, group), fence, 404) == "never_accepted"
    assert answer_500(factories.claim_from_pool(fence, group), fence) == "never_accepted"
    assert excluded() == []
