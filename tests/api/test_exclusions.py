"""Exclusions are listed, lifted, and respected by a submission to the pool."""

from typing import Any

import pytest

from jobgroups.domain.clock import now
from jobgroups.models import Exclusion, JobGroup
from tests.api.conftest import GRAPH, Api, error_of

PATH = "/api/backends/gpu-1/exclusions"
LACKS = "Value not in list: ckpt_name"
pytestmark = pytest.mark.django_db


def exclude(backend_id: str, digest: str = "d", **fields: Any) -> Exclusion:
    moment = now()
    fields = {"kind": "missing", "reason": LACKS, "since": moment, "last_at": moment, **fields}
    return Exclusion.objects.create(backend_id=backend_id, workflow_digest=digest, **fields)


def test_exclusions_are_listed_and_lifted(api: Api, farm: list[str], notified: list[str]) -> None:
    first, second = exclude("gpu-1"), exclude("gpu-1", kind="out_of_memory", count=2)
    exclude("gpu-1", "other", kind="out_of_memory", count=1)
    exclude("gpu-2")
    listed = api.get(PATH).json()["exclusions"]
    assert [one["exclusion_id"] for one in listed] == [first.id, second.id]
    assert listed[0]["reason"] == LACKS
    assert (listed[0]["kind"], listed[0]["group_id"], listed[0]["count"]) == ("missing", None, 1)
    assert listed[0]["since"] == listed[0]["last_at"] < listed[0]["until"]
    assert api.delete(f"{PATH}/{first.id}").status_code == 204
    assert notified
    for gone in (first.id, "x", "9" * 30):
        error_of(api.delete(f"{PATH}/{gone}"), 404, "exclusion_not_found")
    assert [one["exclusion_id"] for one in api.get(PATH).json()["exclusions"]] == [second.id]
    assert api.delete(PATH).status_code == 204
    assert api.get(PATH).json() == {"exclusions": []}
    assert Exclusion.objects.get().backend_id == "gpu-2"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_backend_has_no_exclusions(api: Api, method: str) -> None:
    error_of(api.ask(method, "/api/backends/none/exclusions"), 404, "backend_not_found")


def test_a_submission_skips_excluded_candidates_and_needs_one_that_is_left(api: Api, farm: list[str]) -> None:
    digest = JobGroup.objects.get(pk=api.submit("gpu-1")["job_group_id"]).workflow_digest
    exclude("gpu-1", digest)
    made = api.submit("gpu-1", "gpu-2", count=2)
    reason = f"Cannot run this workflow: {LACKS}."
    assert made["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "count": 2}
    refused = error_of(api.post("/api/job-group", body), 400, "no_online_backends")
    assert refused["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    assert not api.submit("gpu-1")["skipped_backends"], "a person named it, without the pool"
