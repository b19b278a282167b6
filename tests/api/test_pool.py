"""POST /api/job-group with ``count``: candidates, what is refused, and what is answered."""

import time
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend
from director.cli.failures import failure_lines
from director.client.decode import parser
from jobgroups.api.requests import payloads
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.backends import Failures
from jobgroups.models import ChildJob, JobGroup, Runner, Variant
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
from tests.api.test_requests import submission_errors

PATH = "/api/job-group"
BODY: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["*"], "count": 2}
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("candidates", "count", "message"),
    [
        (
            ["gpu-1", "gpu-2", "gpu-1"],
            3,
            "gpu-1 is there twice; with count, name each candidate once.",
        ),
        (["tag:a", "tag:a"], 3, "tag:a is there twice; with count, name each candidate once."),
        (["*", "*"], 3, "* is there twice; with count, name each candidate once."),
        (["*", "gpu-1"], 3, "* is every backend; leave the other entries out."),
        (["tag:a", "*"], 3, "* is every backend; leave the other entries out."),
        (["tag:"], 3, "tag: needs the name of a tag behind it, as in tag:4090."),
        (["*"], None, "* needs count, jobs or sweep."),
        (["gpu-1", "tag:4090"], None, "tag:4090 needs count, jobs or sweep."),
    ],
)
def test_wrong_candidates_are_refused(
    candidates: list[str], count: int | None, message: str
) -> None:
    assert submission_errors(backend_ids=candidates, count=count) == {"backend_ids": message}


@pytest.mark.parametrize("where", [False, "any"])
def test_retry_elsewhere_is_refused_unless_it_is_the_candidates(where: Any) -> None:
    message = 'Must be true or "group" with count, or left out: the candidates are the limit.'
    wrong = submission_errors(count=2, retry_elsewhere=where, base_seed=-1)
    assert wrong["retry_elsewhere"] == message
    assert list(wrong) == ["base_seed", "retry_elsewhere"]
    for allowed in (True, "group", None):
        payloads.submission({**BODY, "retry_elsewhere": allowed}, None)


@pytest.mark.django_db(transaction=True)
def test_jobs_of_the_pool_have_no_backend_yet(api: Api, farm: list[str]) -> None:
    made = api.submit("*", count=3, seed_strategy="sequential", base_seed=5)
    assert [(job["backend_id"], job["seed"]) for job in made["child_jobs"]] == [
        (None, 5),
        (None, 6),
        (None, 7),
    ]
    assert made["skipped_backends"] == []
    path = f"/api/job-groups/{made['job_group_id']}"
    status = api.get(path).json()
    assert {job["backend_id"] for job in status["child_jobs"]} == {None}
    assert (status["placement"], status["total_count"]) == ("pool", 3)
    assert (status["max_attempts"], status["retry_elsewhere"]) == (2, "group")
    job = api.get(f"{path}/jobs/{status['child_jobs'][0]['job_id']}").json()
    assert job["backend_id"] is None
    [row] = api.get("/api/job-groups").json()["results"]
    assert row["placement"] == "pool"
    assert api.delete(path).json()["interrupted"] == 3
    [*_, cancelled, end] = api.get(f"{path}/events").json()["events"]
    assert cancelled["backend_id"] is None
    assert {result["backend_id"] for result in end["results"]} == {None}


@pytest.mark.django_db(transaction=True)
def test_bound_group_says_so(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    assert api.get(f"/api/job-groups/{made['job_group_id']}").json()["placement"] == "bound"


@pytest.mark.parametrize(("named", "setting", "shown"), [(1, 5, 1), (None, 1, 2), (None, 5, 5)])
def test_attempts_of_the_pool_are_at_least_two_by_default(
    api: Api, farm: list[str], settings: Settings, named: int | None, setting: int, shown: int
) -> None:
    settings.DIRECTOR_MAX_ATTEMPTS = setting
    made = api.submit("*", count=1, max_attempts=named)
    assert JobGroup.objects.get(pk=made["job_group_id"]).max_attempts == shown


def test_candidates_that_can_take_no_job_are_listed_and_stay(
    api: Api, farm: list[str], make_backend: Made
) -> None:
    make_backend("off", enabled=False)
    Backend.objects.filter(pk="gpu-2").update(tags=["4090"])
    made = api.submit("tag:4090", "tag:unknown", "off", "unknown", count=1)
    skipped = {one["backend_id"]: one["reason"] for one in made["skipped_backends"]}
    assert skipped == {
        "tag:unknown": "No backend has this tag.",
        "off": "Disabled.",
        "unknown": "Unknown: no backend has this id.",
    }
    assert Variant.objects.get().candidates == ["tag:4090", "tag:unknown", "off", "unknown"]
    everything = api.submit("*", count=1, required_capabilities=["4090"])
    assert {one["backend_id"] for one in everything["skipped_backends"]} == {"gpu-1", "gpu-3"}


@pytest.mark.parametrize(
    ("candidates", "reasons"),
    [
        (["tag:unknown"], {"tag:unknown": "No backend has this tag."}),
        (["unknown"], {"unknown": "Unknown: no backend has this id."}),
        (["off", "tag:red"], {"off": "Disabled.", "red": "Lacks 24gb."}),
        (["*"], {"red": "Lacks 24gb."}),
    ],
)
def test_submission_that_no_candidate_can_take_is_refused_with_all_reasons(
    api: Api, runner: Runner, make_backend: Made, candidates: list[str], reasons: dict[str, str]
) -> None:
    make_backend("off", enabled=False)
    make_backend("red", tags=["red"])
    body = {**BODY, "backend_ids": candidates, "required_capabilities": ["24gb"]}
    refused = error_of(api.post(PATH, body), 400, "no_online_backends")
    shown = {one["backend_id"]: one["reason"] for one in refused["skipped_backends"]}
    assert shown == reasons
    assert not JobGroup.objects.exists()


def test_pool_without_any_backend_is_refused(api: Api, runner: Runner) -> None:
    assert error_of(api.post(PATH, BODY), 400, "no_online_backends")["skipped_backends"] == []


def test_failure_of_a_job_that_no_candidate_took_is_reported_without_a_backend(
    api: Api, farm: list[str]
) -> None:
    made = api.submit("*", count=2)
    failed = {"status": "failed", "failure_class": "unreachable", "error_message": "No candidate."}
    ChildJob.objects.update(**failed, error_type="ConnectionError", completed_at=now())
    found = parser(Failures)(api.get("/api/failures").json())
    [row] = found.results
    assert (row.backend_id, row.failed_jobs, row.failure_class) == (None, 2, "unreachable")
    assert row.example is not None
    assert (row.example.job_group_id, row.example.attempt) == (made["job_group_id"], None)
    assert failure_lines(found)[2].split()[:3] == ["unreachable", "-", "2"]


def test_replay_answers_without_backends_also_when_jobs_have_one(api: Api, farm: list[str]) -> None:
    first = api.post(PATH, BODY, idempotency_key="take-1").json()
    ChildJob.objects.update(backend_id="gpu-1", status="cancelled", completed_at=now())
    again = api.post(PATH, BODY, idempotency_key="take-1")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first
    assert {job["backend_id"] for job in first["child_jobs"]} == {None}
    other = {**BODY, "count": 3}
    error_of(api.post(PATH, other, idempotency_key="take-1"), 409, "idempotency_conflict")


def test_10000_jobs_are_answered_within_two_seconds(api: Api, farm: list[str]) -> None:
    # CPU time, since other test processes share the cores, and three times of what an idle machine
    # takes.
    began = time.process_time()
    made = api.submit("*", count=10_000)
    assert time.process_time() - began < 6.0
    assert made["child_jobs"] == []
    assert ChildJob.objects.values("seed").distinct().count() == 10_000
    wrong = wrong_fields(api.post(PATH, {**BODY, "count": 10_001}))
    assert wrong == {"count": "Must be an integer from 1 to 10000."}
