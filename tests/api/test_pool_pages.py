"""What the server renders of jobs of the pool, without a browser."""

import re
from typing import Any

import pytest
from django.test import Client

from director.pages import new_group, text
from jobgroups import workflow
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState
from jobgroups.models import ChildJob
from jobgroups.services import attempts
from jobgroups.workflow.batch import jobs_of
from tests.harness import factories

pytestmark = pytest.mark.django_db


def shown(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def card(client: Client, child: ChildJob) -> str:
    return shown(client, f"/groups/{child.group_id}/parts/cards/{child.pk}")


def test_card_names_the_backend_from_the_start_of_a_job_until_it_is_queued_again(
    client: Client,
) -> None:
    fence = factories.online("gpu-1")
    group = factories.submit_to_pool(1)
    job = factories.only(group)
    assert "any backend" in card(client, job)
    claimed = factories.claim_from_pool(fence, group)
    assert "any backend" in card(client, job), "no event tells of a claim"
    factories.start(claimed, fence)
    running = card(client, job)
    assert "gpu-1" in running
    assert "any backend" not in running
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=factories.end(AttemptState.LOST))
    factories.online("gpu-2")
    again = card(client, factories.fresh(job))
    assert ("any backend" in again) == (factories.fresh(job).status == "queued")


def test_head_says_which_backend_completed_how_many_jobs(client: Client) -> None:
    group = factories.submit_to_pool(20)
    for position in range(20):
        at = f"gpu-{position}" if position < 14 else "gpu-3"
        ChildJob.objects.filter(group=group, position=position).update(
            status="completed", backend_id=at, completed_at=now(), outputs_json="{}", progress=100
        )
    factories.backend("gpu-3", name="Big <one>")
    head = shown(client, f"/groups/{group.id}/parts/head")
    assert "7 × Big &lt;one&gt;, 1 × gpu-0, 1 × gpu-1 and 11 others" in head
    bound = factories.submit("gpu-3")
    assert "×" not in shown(client, f"/groups/{bound.id}/parts/head").replace("768 × 512", "")


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (["*"], "any backend"),
        (["gpu-1", "tag:big one"], "any of: backends with the tag big one, gpu-1"),
    ],
)
def test_candidates_are_named(client: Client, candidates: list[str], said: str) -> None:
    assert text.candidates_text(candidates) == said
    skipped = [{"backend_id": "gpu-9", "reason": "Offline"}]
    group = factories.submit_to_pool(2, *candidates, skipped_backends=skipped)
    page = shown(client, f"/groups/{group.id}")
    assert f"Runs on {said}" in page
    assert "1 backend could take no jobs at the submission" in page


def test_form_repeats_a_group_of_the_pool() -> None:
    group = factories.submit_to_pool(3, "gpu-1", "tag:4090")
    source = new_group.from_group(group.id, "")
    assert source is not None
    assert (source["count"], source["candidates"]) == (3, ["gpu-1", "tag:4090"])
    seed = group.children.order_by("position")[1].seed
    one = new_group.from_group(group.id, str(seed))
    assert one is not None
    assert (one["count"], one["candidates"], one["base_seed"]) == (1, ["gpu-1", "tag:4090"], seed)
    factories.backend()
    bound = new_group.from_group(factories.submit("gpu-1", "gpu-1").id, "")
    assert bound is not None
    assert (bound["candidates"], bound["backend_ids"]) == (None, ["gpu-1", "gpu-1"])


@pytest.mark.parametrize(
    ("parameters", "variation"),
    [
        ({"3.cfg": 5}, {"cfg": 7}),
        ({"cfg": 5}, {"3": {"cfg": 7}}),
        ({}, {"cfg_scale": 6, "3.cfg": 7}),
    ],
)
def test_form_repeats_a_job_with_its_own_inputs(
    parameters: dict[str, Any], variation: dict[str, Any]
) -> None:
    template = workflow.build_template(factories.WORKFLOW, parameters)
    batch = jobs_of(
        template, [{"seed": 5}, {"seed": 5, "parameters": variation}], "random", 1, 1000
    )
    group = factories.submit_to_pool(2, batch=batch, parameters=parameters)
    job = group.children.order_by("position")[1]
    one = new_group.from_group(group.id, "", job.id)
    assert one is not None
    assert (one["count"], one["base_seed"], one["parameters"], one["sweep"]) == (
        1,
        5,
        {"3.cfg": 7},
        None,
    )


def test_lists_cope_with_jobs_that_no_backend_has(client: Client) -> None:
    fence = factories.online("gpu-1", tags=["big"])
    factories.online("gpu-2")
    for _ in range(3):
        done = factories.submit("gpu-1")
        factories.finish(factories.begin(fence), fence)
    group = factories.submit_to_pool(3, "tag:big")
    assert "3 queued" in shown(client, f"/parts/groups/{group.id}")
    assert "estimate" not in shown(client, "/")
    assert done.id in shown(client, "/?backend=gpu-1")
    page = shown(client, "/backends/gpu-1/parts/backend")
    assert "3 in the pool wait for any free backend" in page
    assert "in the pool" not in shown(client, "/backends/gpu-2/parts/backend")
    assert "3 queued" not in page, "these are bound to no backend"
    factories.start(factories.claim_from_pool(fence, group), fence)
    assert group.id in shown(client, "/?backend=gpu-1")
    assert "2 in the pool" in shown(client, "/backends/gpu-1/parts/backend")


def test_failures_without_a_backend_have_a_row(client: Client) -> None:
    group = factories.submit_to_pool(2, "tag:none")
    ChildJob.objects.filter(group=group).update(
        status="failed", failure_class="unreachable", error_message="Gone.", completed_at=now()
    )
    page = shown(client, "/failures")
    assert "no backend" in page
    assert "(removed)" not in page
    query = "window=1d&failure_class=unreachable&backend_id="
    found = client.get(f"/api/failures/jobs?{query}").json()
    assert [len(one["job_ids"]) for one in found["groups"]] == [2]
    assert "no backend" in card(client, group.children.all()[0])


def test_reading_one_card_of_many_jobs_takes_few_queries(
    client: Client, django_assert_max_num_queries: object
) -> None:
    factories.online("gpu-1")
    groups = [factories.submit_to_pool(150), factories.submit(*["gpu-1"] * 150)]
    for group in groups:
        with django_assert_max_num_queries(25):  # type: ignore[operator]
            card(client, group.children.all()[0])
        with django_assert_max_num_queries(35):  # type: ignore[operator]
            assert "Page 2 of 2" in shown(client, f"/groups/{group.id}?page=2")
