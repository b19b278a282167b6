"""POST /api/job-group: what is stored and shown, checks, idempotency. test_requests.py has the wrong fields."""

from __future__ import annotations

import datetime as dt
import json
import re
import runpy
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.models import ChildJob, JobEvent, JobGroup, Runner
from jobgroups.queries import groups
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
from tests.harness.processes import ROOT
from tests.harness.races import race

PATH = "/api/job-group"
BODY: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["gpu-1", "gpu-2"]}
pytestmark = pytest.mark.django_db

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_submission_stores_group_jobs_and_event_1(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2", "gpu-1", base_seed=42, seed_strategy="golden_ratio")
    assert re.fullmatch(r"jg_[0-9a-f]{12}", made["job_group_id"])
    assert MOMENT.fullmatch(made["created_at"])
    group = JobGroup.objects.get(pk=made["job_group_id"])
    stored = list(ChildJob.objects.filter(group=group).values_list("id", "backend_id", "seed"))
    shown = [(one["job_id"], one["backend_id"], one["seed"]) for one in made["child_jobs"]]
    assert stored == shown
    assert [one[2] for one in shown] == [42, 67, 109]
    assert all(re.fullmatch(r"j_[0-9a-f]{12}", one[0]) for one in shown)
    assert list(JobEvent.objects.values_list("seq", "type")) == [(1, "group_created")]


def test_skipped_backends_are_listed_and_get_no_seed(api: Api, farm: list[str], make_backend: Made) -> None:
    make_backend("off", enabled=False)
    made = api.submit("nobody", "gpu-1", "off", "nobody", "gpu-2", seed_strategy="sequential", base_seed=5)
    assert [(one["backend_id"], one["seed"]) for one in made["child_jobs"]] == [("gpu-1", 5), ("gpu-2", 6)]
    assert made["skipped_backends"] == [
        {"backend_id": "nobody", "reason": "Unknown: no backend has this id."},
        {"backend_id": "off", "reason": "Disabled."},
        {"backend_id": "nobody", "reason": "Unknown: no backend has this id."},
    ]
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["skipped_backends"] == made["skipped_backends"]


def test_submission_without_a_backend_stores_nothing(api: Api, runner: Runner) -> None:
    body = error_of(api.post(PATH, BODY), 400, "no_online_backends")
    assert body["detail"] == "No valid online backends available"
    assert [one["backend_id"] for one in body["skipped_backends"]] == ["gpu-1", "gpu-2"]
    assert JobGroup.objects.count() == 0


def test_odd_backend_id_is_unknown(api: Api, farm: list[str]) -> None:
    odd = ["../etc", "a b", "ü", "'; DROP TABLE", "x" * 200]
    made = api.submit("gpu-1", *odd)
    assert [one["backend_id"] for one in made["skipped_backends"]] == odd


# --- the runner -----------------------------------------------------------------------------------


def test_submission_without_a_runner_stores_nothing(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    body = error_of(api.post(PATH, BODY), 503, "runner_absent")
    assert body["detail"] == "ParallelJobManager not initialized"
    assert JobGroup.objects.count() == 0


def test_runner_is_checked_before_the_backends(api: Api) -> None:
    error_of(api.post(PATH, {**BODY, "backend_ids": ["nobody"]}), 503, "runner_absent")


def test_runner_counts_for_ten_seconds_after_a_heartbeat(api: Api, runner: Runner, make_backend: Made) -> None:
    make_backend("gpu-1")
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=10))
    error_of(api.post(PATH, BODY), 503, "runner_absent")
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=9))
    assert api.post(PATH, BODY).status_code == 201


def test_setting_accepts_a_group_without_a_runner_as_pending(api: Api, make_backend: Made, settings: Settings) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    make_backend("gpu-1")
    made = api.submit("gpu-1")
    assert made["status"] == "pending"
    assert api.get(f"/api/job-groups/{made['job_group_id']}").json()["status"] == "pending"


def test_only_post_needs_a_runner(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    Runner.objects.all().delete()
    assert api.get(f"/api/job-groups/{group}").status_code == 200
    assert api.get("/api/job-groups").status_code == 200
    assert api.delete(f"/api/job-groups/{group}").status_code == 200
    assert api.get("/api/backends").status_code == 200


# --- idempotency ----------------------------------------------------------------------------------


def test_repeated_key_returns_the_same_group(api: Api, farm: list[str]) -> None:
    first = api.post(PATH, BODY, idempotency_key="take-1")
    # The order of keys makes no other body.
    again = api.post(PATH, dict(reversed(BODY.items())), idempotency_key="take-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert JobGroup.objects.count() == 1


def test_replay_returns_the_first_response(api: Api, farm: list[str]) -> None:
    first = api.post(PATH, BODY, idempotency_key="take-1").json()
    api.delete(f"/api/job-groups/{first['job_group_id']}")
    Runner.objects.all().delete()
    assert api.post(PATH, BODY, idempotency_key="take-1").json() == first


def test_other_body_with_a_known_key_is_a_conflict(api: Api, farm: list[str]) -> None:
    api.post(PATH, BODY, idempotency_key="take-1")
    other = {**BODY, "base_seed": 7}
    error_of(api.post(PATH, other, idempotency_key="take-1"), 409, "idempotency_conflict")
    assert JobGroup.objects.count() == 1


def test_key_is_remembered_for_a_day(api: Api, farm: list[str]) -> None:
    """A program that was away overnight sends its request again: that must not render it twice."""
    first = api.post(PATH, BODY, idempotency_key="take-1").json()
    JobGroup.objects.update(created_at=now() - dt.timedelta(hours=23, minutes=59))
    again = api.post(PATH, BODY, idempotency_key="take-1")
    assert again.json()["job_group_id"] == first["job_group_id"]
    assert JobGroup.objects.count() == 1


def test_key_can_be_used_again_after_a_day(api: Api, farm: list[str]) -> None:
    first = api.post(PATH, BODY, idempotency_key="take-1").json()
    JobGroup.objects.update(created_at=now() - dt.timedelta(hours=24))
    later = api.post(PATH, BODY, idempotency_key="take-1")
    assert later.json()["job_group_id"] != first["job_group_id"]
    assert "Idempotency-Replayed" not in later.headers


def test_each_submitter_has_keys_of_their_own(api: Api, farm: list[str]) -> None:
    def submit(**fields: Any) -> Any:
        return api.post(PATH, {**BODY, **fields}, idempotency_key="take-3")

    ann, bob = submit(submitter="ann"), submit(submitter="bob")
    assert ann.json()["job_group_id"] != bob.json()["job_group_id"]
    assert submit(submitter="ann").json() == ann.json()
    assert submit(submitter="ann", base_seed=1).status_code == 409


def test_refused_submission_does_not_use_its_key(api: Api, farm: list[str]) -> None:
    api.post(PATH, {**BODY, "backend_ids": ["nobody"]}, idempotency_key="take-1")
    assert api.post(PATH, BODY, idempotency_key="take-1").status_code == 201


@pytest.mark.django_db(transaction=True)
def test_same_key_of_eight_concurrent_clients_makes_one_group(farm: list[str]) -> None:
    answers = race(*[lambda: Api().post(PATH, BODY, idempotency_key="take-1")] * 8)
    assert [one.status_code for one in answers] == [201] * 8
    assert len({one.json()["job_group_id"] for one in answers}) == 1
    assert sum("Idempotency-Replayed" not in one.headers for one in answers) == 1
    assert JobGroup.objects.count() == 1


# --- fields ----------------------------------------------------------------------------------------


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
        'The parameter "seed" is ignored: every job has a seed of its own; address one node to fix its seed.',
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
        ({"retry_on": ["timeout", "cuda_fatal"]}, (1, False, ["cuda_fatal", "timeout"], "accept", None)),
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
    ann, anna, anonymous = (api.submit("gpu-1", submitter=name)["job_group_id"] for name in ("ann", "anna", None))
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
