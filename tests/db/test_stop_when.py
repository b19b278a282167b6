"""Groups of many jobs: batches of variants, and stop conditions."""

import json
from collections import Counter
from functools import partial
from typing import Any

import pytest

from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.schedule import Choice
from jobgroups.domain.states import AttemptState
from jobgroups.errors import NothingToRetry
from jobgroups.models import Attempt, ChildJob, JobGroup, Notice
from jobgroups.queries.groups import group_snapshot
from jobgroups.queries.pool import pool_snapshot
from jobgroups.queries.provenance import job_provenance
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.serializers import serialize_group
from jobgroups.services import cancellation, moves, retries
from jobgroups.workflow import build_template
from jobgroups.workflow.batch import sweep_of
from tests.db.stream_client import assert_law, connect
from tests.harness import factories
from tests.harness.factories import online
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def statuses(group: JobGroup) -> Counter[str]:
    return Counter(child.stopped_by or child.status for child in group.children.all())


def test_rest_is_stopped_on_every_backend_and_the_group_is_completed(settings: Any) -> None:
    settings.DIRECTOR_NOTIFY = ["json://localhost"]
    fences = factories.farm(3)
    group = factories.submit_to_pool(6, stop_when={"completed": 2})
    client = connect(group)
    begun = [factories.claim_from_pool(fence, group) for fence in fences]
    for fence, claimed in zip(fences, begun, strict=True):
        factories.start(claimed, fence)
    factories.finish(begun[0], fences[0])
    assert factories.fresh(group).stopped_at is None
    factories.finish(begun[1], fences[1])
    stored = factories.fresh(group)
    assert (stored.status, stored.completed_count, stored.cancelled_count) == ("completed", 2, 4)
    assert statuses(group) == {"completed": 2, "stop_when": 4}
    attempt = Attempt.objects.get(pk=begun[2].pk)
    assert (attempt.stop_reason, attempt.ended_at) == ("cancel", None)
    events = factories.log(group)
    assert [one["type"] for one in events[-6:]] == [
        "child_completed",
        *["child_cancelled"] * 4,
        "group_complete",
    ]
    assert {one["stopped_by"] for one in events if one["type"] == "child_cancelled"} == {
        "stop_when"
    }
    assert events[-1]["stopped_at"] == serialize_group(stored)["stopped_at"] is not None
    assert_law(client)
    assert Notice.objects.get().title.endswith(": 2 of 6 done, 4 not needed")


@pytest.mark.usefixtures("no_backoff")
def test_failures_count_once_they_are_final(fence: FencingToken) -> None:
    group = factories.submit(*["gpu-1"] * 4, stop_when={"failed": 2}, max_attempts=2)
    for _ in range(3):
        factories.fail(factories.claim(fence), fence, FailureClass.OUT_OF_MEMORY)
    assert factories.fresh(group).failed_count == 1
    factories.time_out(factories.begin(fence), fence)
    assert statuses(group) == {"failed": 1, "timeout": 1, "stop_when": 2}
    assert factories.fresh(group).status == "failed"


def test_late_success_of_a_stopped_job_stays_with_its_attempt(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", stop_when={"completed": 1})
    first, second = factories.begin(fence), factories.begin(fence)
    factories.finish(first, fence)
    factories.finish(second, fence)
    assert statuses(group) == {"completed": 1, "stop_when": 1}
    assert Attempt.objects.get(pk=second.pk).state == AttemptState.SUCCESS


def test_retry_does_not_stop_again_and_leaves_out_what_was_stopped(fence: FencingToken) -> None:
    group = factories.submit(*["gpu-1"] * 6, stop_when={"completed": 1, "failed": 2})
    client = connect(group)
    factories.fail(factories.claim(fence), fence)
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "partial_complete"
    stopped_at = factories.fresh(group).stopped_at
    stopped = [
        child.id for child in group.children.filter(stopped_by="stop_when").order_by("position")
    ]
    assert len(retries.group_retry(group_id=group.id).job_ids) == 1
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).status == "completed"
    with pytest.raises(NothingToRetry):
        retries.group_retry(group_id=group.id)
    retries.group_retry(group_id=group.id, job_ids=stopped[:3])
    assert statuses(group) == {"completed": 2, "queued": 3, "stop_when": 1}
    for _ in range(2):
        factories.fail(factories.claim(fence), fence)
    assert statuses(group) == {"completed": 2, "failed": 2, "queued": 1, "stop_when": 1}
    factories.finish(factories.claim(fence), fence)
    stored = factories.fresh(group)
    assert (stored.status, stored.stopped_at, stored.run) == ("partial_complete", stopped_at, 3)
    assert_law(client)


def test_condition_that_ended_nothing_does_not_end_a_retry(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", stop_when={"completed": 1})
    factories.fail(factories.claim(fence), fence)
    factories.finish(factories.claim(fence), fence)
    assert factories.fresh(group).stopped_at is None
    retries.group_retry(group_id=group.id)
    assert not factories.idle(fence)


def test_cancelled_run_is_cancelled_beside_stopped_jobs(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", "gpu-1", stop_when={"failed": 1})
    factories.fail(factories.claim(fence), fence)
    assert factories.fresh(group).status == "failed"
    retries.group_retry(group_id=group.id)
    cancellation.group_cancel(group_id=group.id)
    assert factories.fresh(group).status == "cancelled"
    assert len(retries.group_retry(group_id=group.id).job_ids) == 1


def test_concurrent_claim_is_stopped_or_finds_nothing() -> None:
    """Claims lock no group: one that was committed first has a pending stop."""
    fences = factories.farm(3)
    for _ in range(8):
        group = factories.submit_to_pool(4, stop_when={"completed": 1})
        first = factories.claim_from_pool(fences[0], group)
        factories.start(first, fences[0])
        claim = partial(
            factories.claim_alone, client_id="c", depth=20, choice=factories.pool_choice(group)
        )
        race(
            partial(factories.finish, first, fences[0]),
            *(partial(claim, fence=fence) for fence in fences[1:]),
        )
        assert statuses(group) == {"completed": 1, "stop_when": 3}
        active = Attempt.objects.filter(child__group=group, ended_at__isnull=True)
        assert {row.stop_reason for row in active} <= {"cancel"}


GRAPH: dict[str, Any] = {
    **factories.WORKFLOW,
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
}


def submit(**axes: Any) -> JobGroup:
    """Submit a product of ``cfg`` and ``ckpt_name``."""
    axes = {"cfg": [5, 7], "ckpt_name": ["a.safetensors", "b.safetensors"], **axes}
    given = {"axes": [{"input": name, "values": values} for name, values in axes.items() if values]}
    batch = sweep_of(build_template(GRAPH), given, None, 5)
    return factories.submit_to_pool(len(batch.jobs), workflow=GRAPH, batch=batch, base_seed=5)


def choices(group: JobGroup) -> list[Choice]:
    """Return what a backend may choose, in the order of the queue."""
    return [
        factories.choice_of(one)
        for one in pool_snapshot(()).variants
        if one.group_id == group.id and one.unsent
    ]


def unsent(group: JobGroup) -> list[int]:
    return [one.unsent for one in pool_snapshot(()).variants if one.group_id == group.id]


def test_jobs_of_a_batch_are_stored_with_their_variant_and_variation() -> None:
    group = submit(cfg=None)
    rows = group.children.order_by("position").values_list(
        "seed", "variation_json", "variant__number"
    )
    assert list(rows) == [
        (5, '{"ckpt_name":"a.safetensors"}', 0),
        (5, '{"ckpt_name":"b.safetensors"}', 1),
    ]
    assert len(set(group.variants.values_list("workflow_digest", "models_digest"))) == 2
    found = group_snapshot(group.id)
    assert found["sweep"]["axes"] == [
        {"input": "ckpt_name", "values": ["a.safetensors", "b.safetensors"]}
    ]
    assert [one["variation"] for one in found["child_jobs"]] == [
        json.loads(text) for _, text, _ in rows
    ]


def test_unsent_jobs_are_counted_for_each_variant_through_claims_ends_moves_and_retries() -> None:
    fence, other = online("gpu-1"), online("gpu-2")
    group = submit(cfg=None, **{"3.steps": [1, 2, 3]})
    assert unsent(group) == [1] * 6
    first = factories.claim_alone(
        fence=fence, client_id="c", depth=2, choice=choices(group)[2]
    ).claim
    assert first is not None
    assert unsent(group) == [1, 1, 0, 1, 1, 1]
    factories.start(first, fence)
    factories.finish(first, fence)
    assert unsent(group) == [1, 1, 0, 1, 1, 1]
    moved = group.children.get(position=4)
    moves.child_move(group_id=group.id, job_id=moved.id, backend_id="gpu-2")
    assert unsent(group) == [1, 1, 0, 1, 0, 1]
    bound = factories.claim_alone(fence=other, client_id="c", depth=2).claim
    assert bound is not None
    assert bound.child.variant == group.variants.get(number=4)
    cancellation.group_cancel(group_id=group.id)
    factories.removed(bound, other)
    assert unsent(group) == []
    retries.group_retry(group_id=group.id)
    assert unsent(group) == [1, 1, 0, 1, 1, 1]
    assert len(set(group.variants.values_list("queued_at"))) == 1


def test_claim_sends_the_workflow_of_the_job_and_a_resumed_attempt_has_it_too() -> None:
    fence = online("gpu-1")
    group = submit(ckpt_name=None, **{"4.ckpt_name": ["a.safetensors"], "cfg": None, "3.cfg": [9]})
    claimed = factories.claim_alone(
        fence=fence, client_id="c", depth=2, choice=choices(group)[0]
    ).claim
    assert claimed is not None
    spec = AttemptSpec.from_claim(claimed)
    assert spec.workflow["3"]["inputs"] == {"seed": 5, "steps": 20, "cfg": 9}
    assert spec.workflow["4"]["inputs"] == {"ckpt_name": "a.safetensors"}
    attempt = (
        ChildJob.objects.select_related("current_attempt__child__group")
        .get(pk=claimed.child_id)
        .current_attempt
    )
    assert attempt is not None
    resumed = AttemptSpec.from_row(attempt)
    assert (resumed.workflow, resumed.workflow_digest) == (spec.workflow, spec.workflow_digest)
    assert spec.workflow_digest == group.variants.get().workflow_digest != group.workflow_digest
    found = job_provenance(group.id, claimed.child_id)
    assert (found["workflow"], found["variation"]) == (
        spec.workflow,
        {"4.ckpt_name": "a.safetensors", "3.cfg": 9},
    )
