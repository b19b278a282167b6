import datetime as dt
import json
import re
from typing import Any

import pytest
from django.db import OperationalError, connection
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.models import ChildJob, JobEvent, JobGroup, Runner
from jobgroups.queries import groups, leases
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
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


@pytest.mark.django_db(transaction=True)
def test_skipped_backends_are_listed_and_get_no_seed(
    api: Api, farm: list[str], make_backend: Made
) -> None:
    make_backend("off", enabled=False)
    odd = ["../etc", "ü", "x" * 200]
    made = api.submit("gpu-1", "off", *odd, "gpu-2", seed_strategy="sequential", base_seed=5)
    jobs = [(one["backend_id"], one["seed"]) for one in made["child_jobs"]]
    assert jobs == [("gpu-1", 5), ("gpu-2", 6)]
    assert made["skipped_backends"] == [
        {"backend_id": "off", "reason": "Disabled."},
        *({"backend_id": one, "reason": "Unknown: no backend has this id."} for one in odd),
    ]
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["skipped_backends"] == made["skipped_backends"]


def test_submission_without_a_backend_stores_nothing(api: Api, runner: Runner) -> None:
    body = error_of(api.post(PATH, BODY), 400, "no_online_backends")
    assert body["detail"] == "No valid online backends available"
    assert [one["backend_id"] for one in body["skipped_backends"]] == ["gpu-1", "gpu-2"]
    assert JobGroup.objects.count() == 0


def test_submission_without_a_runner_stores_nothing(api: Api) -> None:
    body = error_of(api.post(PATH, {**BODY, "backend_ids": ["nobody"]}), 503, "runner_absent")
    assert body["detail"] == "ParallelJobManager not initialized"
    assert JobGroup.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_submission_names_what_keeps_a_runner_from_its_heartbeat(api: Api, farm: list[str]) -> None:
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=60))

    def refused(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE"):
            raise OperationalError("database or disk is full")
        return execute(sql, *rest)

    with connection.execute_wrapper(refused):
        body = error_of(api.post(PATH, BODY), 503, "database_unavailable")
    assert body["detail"].startswith("The disk with the data folder is full; nothing was stored.")
    error_of(api.post(PATH, BODY), 503, "runner_absent")


def test_runner_counts_for_ten_seconds_after_a_heartbeat(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = now()
    monkeypatch.setattr(leases, "database_now", lambda: moment)
    for age, status in ((10, 503), (9, 201)):
        Runner.objects.update(heartbeat_at=moment - dt.timedelta(seconds=age))
        assert api.post(PATH, BODY).status_code == status


@pytest.mark.django_db(transaction=True)
def test_setting_accepts_a_group_without_a_runner_as_pending(
    api: Api, make_backend: Made, settings: Settings
) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    make_backend("gpu-1")
    made = api.submit("gpu-1")
    assert made["status"] == "pending"
    assert api.get(f"/api/job-groups/{made['job_group_id']}").json()["status"] == "pending"


# The cancellation is written by another thread.
@pytest.mark.django_db(transaction=True)
def test_repeated_key_returns_the_first_response(api: Api, farm: list[str]) -> None:
    first = api.post(PATH, BODY, idempotency_key="take-1")
    api.delete(f"/api/job-groups/{first.json()['job_group_id']}")
    Runner.objects.all().delete()
    # The order of keys makes no other body.
    again = api.post(PATH, dict(reversed(BODY.items())), idempotency_key="take-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = api.post(PATH, {**BODY, "base_seed": 7}, idempotency_key="take-1")
    error_of(other, 409, "idempotency_conflict")
    assert JobGroup.objects.count() == 1


def test_key_is_remembered_for_a_day(api: Api, farm: list[str]) -> None:
    """A program that was away overnight sends its request again: that must not render it twice."""
    first = api.post(PATH, BODY, idempotency_key="take-1").json()
    JobGroup.objects.update(created_at=now() - dt.timedelta(hours=23, minutes=59))
    again = api.post(PATH, BODY, idempotency_key="take-1")
    assert again.json()["job_group_id"] == first["job_group_id"]
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


@pytest.mark.django_db(transaction=True)
def test_ignored_parameters_and_fields_are_named_in_warnings(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", parameters={"3.": 1, "seed": 7}, panel=3)
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert made["warnings"] == status["warnings"]
    named = zip(
        ("field panel", 'parameter "3."', 'parameter "seed"'), made["warnings"], strict=True
    )
    assert all(name in warning for name, warning in named)


@pytest.mark.django_db(transaction=True)
def test_status_shows_the_policy_and_the_submitter(api: Api, farm: list[str]) -> None:
    plain = {"max_attempts": 1, "retry_elsewhere": False, "retry_on": None, "submitter": None}
    plain |= {"partial_outputs": "accept", "stop_when": None, "stopped_at": None, "webhook": None}
    chosen = {"max_attempts": 10, "retry_elsewhere": "group", "submitter": "Ann O'Hara ⛰"}
    chosen |= {
        "retry_on": ["cuda_fatal", "timeout"],
        "partial_outputs": "fail",
        "stop_when": {"completed": 4},
    }
    chosen["webhook"] = {"url": "https://a.example/", "events": ["child_failed", "group_complete"]}
    given = {"retry_elsewhere": True, "submitter": "  Ann O'Hara ⛰ "}
    for fields, shown in (({}, plain), ({**chosen, **given}, chosen)):
        group = api.submit("gpu-1", **fields)["job_group_id"]
        status = api.get(f"/api/job-groups/{group}").json()
        assert {name: status[name] for name in shown} == shown
        assert (status["warnings"], status["timeout_seconds"]) == ([], 300)
        _, frame = groups.group_stream_start(group, None)
        assert json.loads(frame or "")["submitter"] == shown["submitter"]
        assert api.get("/api/job-groups").json()["results"][0]["submitter"] == shown["submitter"]


@pytest.mark.django_db(transaction=True)
def test_stall_seconds_replace_the_default_timeout(api: Api, farm: list[str]) -> None:
    for fields, shown in (
        ({}, (300, None)),
        ({"stall_seconds": 600}, (None, 600)),
        ({"stall_seconds": 600, "timeout_seconds": 3600}, (3600, 600)),
    ):
        status = api.get(f"/api/job-groups/{api.submit('gpu-1', **fields)['job_group_id']}").json()
        assert (status["timeout_seconds"], status["stall_seconds"]) == shown


@pytest.mark.django_db(transaction=True)
def test_status_shows_when_the_days_of_a_group_are_over(
    api: Api, farm: list[str], settings: Settings
) -> None:
    ids = [api.submit("gpu-1", **fields)["job_group_id"] for fields in ({}, {"retention_days": 7})]
    ended = {"status": "completed", "completed_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
    steps = ((30, {}, [None, None]), (0, ended, [None, "08"]), (30, {}, ["31", "08"]))
    for seq, (days, fields, ends) in enumerate(steps, start=2):
        settings.DIRECTOR_RETENTION_DAYS = days
        JobGroup.objects.update(seq=seq, **fields)
        rows = [api.get(f"/api/job-groups/{group_id}").json() for group_id in ids]
        assert [row["retention_days"] for row in rows] == [None, 7]
        assert [row["expires_at"] and row["expires_at"][8:10] for row in rows] == ends


def test_groups_are_listed_by_the_exact_submitter(api: Api, farm: list[str]) -> None:
    ann, anna, anonymous = (
        api.submit("gpu-1", submitter=name)["job_group_id"] for name in ("ann", "anna", None)
    )
    wanted = {"ann": [ann], "%20anna%20": [anna], "Ann": [], "": [anonymous, anna, ann]}
    for name, ids in wanted.items():
        rows = api.get(f"/api/job-groups?submitter={name}").json()["results"]
        assert [row["job_group_id"] for row in rows] == ids


def test_seeds_are_those_of_a_submission(api: Api, farm: list[str]) -> None:
    fields = {"seed_strategy": "golden_ratio", "base_seed": 42}
    dealt = [one["seed"] for one in api.submit(*farm, **fields)["child_jobs"]]
    answer = api.get("/api/seeds?strategy=golden_ratio&base_seed=42&count=3")
    assert answer.json() == {"strategy": "golden_ratio", "base_seed": 42, "seeds": dealt}


def test_absent_base_seed_is_random(api: Api) -> None:
    first, second = (api.get("/api/seeds").json() for _ in range(2))
    assert first["strategy"] == "random"
    assert first["seeds"] == [first["base_seed"]]
    assert 0 <= first["base_seed"] <= MAX_SEED
    assert first != second
    assert set(wrong_fields(api.get("/api/seeds?n=1"))) == {"n"}
