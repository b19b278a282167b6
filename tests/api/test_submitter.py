"""Who submits a group: said, kept, shown, and listed by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobgroups.models import JobGroup
from jobgroups.queries import groups
from tests.api.conftest import GRAPH, Api, wrong_fields

pytestmark = pytest.mark.django_db


def _listed(api: Api, query: str) -> list[str]:
    answer = api.get(f"/api/job-groups{query}")
    assert answer.status_code == 200, answer.content
    return [row["job_group_id"] for row in answer.json()["results"]]


def test_a_submitter_is_shown_wherever_the_group_is(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", submitter="  Ann O'Hara ⛰ ")["job_group_id"]
    assert api.get(f"/api/job-groups/{made}").json()["submitter"] == "Ann O'Hara ⛰"
    assert api.get("/api/job-groups").json()["results"][0]["submitter"] == "Ann O'Hara ⛰"
    _, frame = groups.group_stream_start(made, None)
    assert json.loads(frame or "")["submitter"] == "Ann O'Hara ⛰"


@pytest.mark.parametrize("fields", [{}, {"submitter": None}])
def test_nobody_needs_to_say_who_submits(api: Api, farm: list[str], fields: dict[str, Any]) -> None:
    made = api.submit("gpu-1", **fields)
    assert made["warnings"] == []
    assert api.get(f"/api/job-groups/{made['job_group_id']}").json()["submitter"] is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        3,
        True,
        ["ann"],
        {},
        "x" * 151,
        "a\nb",
        "a\tb",
        "a\x1bb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
    ],
    ids=repr,
)
def test_a_submitter_that_is_no_line_of_text_is_refused(
    api: Api, farm: list[str], value: Any
) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "submitter": value}
    assert list(wrong_fields(api.post("/api/job-group", body))) == ["submitter"]
    assert not JobGroup.objects.exists()


def test_150_characters_are_taken_blanks_around_them_aside(api: Api, farm: list[str]) -> None:
    api.submit("gpu-1", submitter=f" {'ü' * 150} ")
    assert JobGroup.objects.get().submitter == "ü" * 150


def test_groups_are_listed_by_the_very_name(api: Api, farm: list[str]) -> None:
    ann = api.submit("gpu-1", submitter="ann")["job_group_id"]
    anna = api.submit("gpu-1", submitter="anna")["job_group_id"]
    nobody = api.submit("gpu-1")["job_group_id"]
    assert _listed(api, "?submitter=ann") == [ann]
    assert _listed(api, "?submitter=%20anna%20") == [anna]
    assert _listed(api, "?submitter=Ann") == []
    assert _listed(api, "?submitter=") == [nobody, anna, ann]


def test_each_submitter_has_keys_of_their_own(api: Api, farm: list[str]) -> None:
    def submit(**fields: Any) -> Any:
        body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], **fields}
        return api.post("/api/job-group", body, idempotency_key="take-3")

    ann, bob = submit(submitter="ann"), submit(submitter="bob")
    assert ann.json()["job_group_id"] != bob.json()["job_group_id"]
    again = submit(submitter="ann")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == ann.json()
    assert submit(submitter="ann", base_seed=1).status_code == 409
