"""The fields of POST /api/job-group: what is stored and shown of them. test_requests.py has what is refused."""

from __future__ import annotations

import json
import runpy
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from jobgroups.models import ChildJob, JobGroup
from jobgroups.queries import groups
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
from tests.served import ROOT

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db


def _status(api: Api, *backend_ids: str, **fields: Any) -> dict[str, Any]:
    """Submit a group and return its status."""
    made = api.submit(*backend_ids or ["gpu-1"], **fields)
    status: dict[str, Any] = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    return status


def test_every_wrong_field_is_answered_before_runner_and_backends_are_checked(api: Api) -> None:
    """There is neither a runner nor a backend here."""
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "parameters": {"steps": "x"}}
    answer = api.post(PATH, {**body, "base_seed": -1}, idempotency_key="")
    assert list(wrong_fields(answer)) == ["base_seed", "Idempotency-Key", "parameters.steps"]
    assert not JobGroup.objects.exists()


def test_1001_backends_are_too_many_and_1000_are_not(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"] * 1001}
    assert list(wrong_fields(api.post(PATH, body), "too_many_children")) == ["backend_ids"]
    assert JobGroup.objects.count() == 0
    assert len(api.submit(*["gpu-1"] * 1000)["child_jobs"]) == 1000
    assert ChildJob.objects.values("seed").distinct().count() == 1000


@pytest.mark.parametrize("value", [0, MAX_SEED])
def test_first_job_has_the_base_seed(api: Api, farm: list[str], value: int) -> None:
    made = api.submit("gpu-1", "gpu-2", base_seed=value)
    assert made["child_jobs"][0]["seed"] == value


def test_ignored_parameters_and_fields_are_named_in_warnings(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", parameters={"3.": 1, "seed": 7}, panel=3)
    assert made["warnings"] == [
        "The field panel is not known and was ignored.",
        'The parameter "3." is ignored: it matches no input of the workflow.',
        'The parameter "seed" is ignored: every job has a seed of its own;'
        " address one node to fix its seed.",
    ]
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["warnings"] == made["warnings"]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, (1, False, None, "accept", None)),
        ({"retry_elsewhere": False}, (1, False, None, "accept", None)),
        ({"retry_elsewhere": True}, (1, "group", None, "accept", None)),
        ({"retry_elsewhere": "any", "max_attempts": 10}, (10, "any", None, "accept", None)),
        (
            {"retry_on": ["timeout", "cuda_fatal"]},
            (1, False, ["cuda_fatal", "timeout"], "accept", None),
        ),
        ({"partial_outputs": "fail"}, (1, False, None, "fail", None)),
        ({"submitter": "  Ann O'Hara ⛰ "}, (1, False, None, "accept", "Ann O'Hara ⛰")),
    ],
    ids=repr,
)
def test_status_shows_the_policy_and_the_submitter(
    api: Api, farm: list[str], fields: dict[str, Any], shown: Any
) -> None:
    status = _status(api, **fields)
    names = ("max_attempts", "retry_elsewhere", "retry_on", "partial_outputs", "submitter")
    assert tuple(status[name] for name in names) == shown
    assert (status["warnings"], status["timeout_seconds"]) == ([], 300)
    assert status["child_jobs"][0]["failure_class"] is None
    _, frame = groups.group_stream_start(status["job_group_id"], None)
    assert json.loads(frame or "")["submitter"] == status["submitter"]
    assert api.get("/api/job-groups").json()["results"][0]["submitter"] == status["submitter"]


def test_groups_are_listed_by_the_exact_submitter(api: Api, farm: list[str]) -> None:
    ann, anna, anonymous = (
        api.submit("gpu-1", submitter=name)["job_group_id"] for name in ("ann", "anna", None)
    )
    wanted = {"ann": [ann], "%20anna%20": [anna], "Ann": [], "": [anonymous, anna, ann]}
    for name, ids in wanted.items():
        rows = api.get(f"/api/job-groups?submitter={name}").json()["results"]
        assert [row["job_group_id"] for row in rows] == ids


def test_example_of_the_reference_is_accepted(api: Api, runner: Any, make_backend: Made) -> None:
    ids = ["localhost_8188", "192.168.100.6_8188", "192.168.100.7_8188"]
    for one in ids:
        make_backend(one)
    body = {
        "workflow_json": {
            "3": {
                "class_type": "KSampler",
                "inputs": {
                    "seed": 42,
                    "steps": 20,
                    "cfg": 7.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "positive": "A cinematic cityscape at night",
                    "negative": "blurry, low quality",
                    "latent_image": {"filename": "batch_0"},
                },
            }
        },
        "parameters": {"steps": 20, "cfg_scale": 7.0},
        "backend_ids": ids,
        "seed_strategy": "random",
        "base_seed": 42,
        "metadata": {"panel_id": 3, "scene": "shot_001"},
        "timeout_seconds": 300,
    }
    answer = api.post(PATH, body)
    assert answer.status_code == 201
    made = answer.json()
    assert [child["backend_id"] for child in made["child_jobs"]] == ids
    assert made["child_jobs"][0]["seed"] == 42
    assert {child["status"] for child in made["child_jobs"]} == {"queued"}
    assert (made["status"], made["warnings"], made["skipped_backends"]) == ("running", [], [])


def test_only_post_is_allowed(api: Api) -> None:
    answer = api.get(PATH)
    assert error_of(answer, 405, "method_not_allowed")["detail"] == "This path takes POST."
    assert answer.headers["Allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DIRECTOR_MAX_ATTEMPTS", "11", "DIRECTOR_MAX_ATTEMPTS is 11"),
        ("DIRECTOR_RETRY_ELSEWHERE", "yes", "use one of 0, group, any"),
        ("DIRECTOR_RETRY_BACKOFF_SECONDS", "soon", "it must be a number"),
    ],
)
def test_wrong_setting_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=message):
        runpy.run_path(str(ROOT / "director" / "settings.py"))
