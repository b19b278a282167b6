"""Retrying over HTTP: what is answered, and every refusal in the API's shape."""

from __future__ import annotations

from typing import Any

import pytest

from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.models import JobGroup
from jobgroups.services import attempts, claims, runners
from jobgroups.services.attempts import End
from tests.api.conftest import Api, error_of, wrong_fields

pytestmark = pytest.mark.django_db


def _end(backend_id: str, state: AttemptState) -> None:
    """Play the runner: the backend's oldest child ends like this."""
    fence = runners.lease_take(backend_id=backend_id, runner="runner-1")
    assert fence is not None
    claim = claims.child_claim(fence=fence, client_id="c-1", depth=2)
    assert claim is not None
    attempts.attempt_started(attempt_id=claim.attempt_id, fence=fence)
    failed = state is not AttemptState.SUCCESS
    end = End(
        state=state,
        outputs={"images": []},
        error_message="bad value" if failed else None,
        error_type=ErrorType.COMFYUI if failed else None,
    )
    attempts.attempt_ended(attempt_id=claim.attempt_id, fence=fence, end=end)


@pytest.fixture
def ended(api: Api, farm: list[str]) -> dict[str, Any]:
    """A group of three that has ended: its second and third failed."""
    made = api.submit(*farm)
    for backend_id, state in zip(
        farm, (AttemptState.SUCCESS, AttemptState.ERROR, AttemptState.ERROR), strict=True
    ):
        _end(backend_id, state)
    return made


def _path(made: dict[str, Any], job: int | None = None) -> str:
    group = f"/api/job-groups/{made['job_group_id']}"
    return f"{group}/retry" if job is None else f"{group}/jobs/{_job(made, job)}/retry"


def _job(made: dict[str, Any], index: int) -> str:
    return str(made["child_jobs"][index]["job_id"])


def test_all_that_failed_waits_again(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended), {})
    assert answer.status_code == 200
    assert answer.json() == {
        "job_group_id": ended["job_group_id"],
        "run": 2,
        "status": "running",
        "job_ids": [_job(ended, 1), _job(ended, 2)],
        "adopted_job_ids": [],
        "moved": {},
    }
    status = api.get(f"/api/job-groups/{ended['job_group_id']}").json()
    assert (status["run"], status["status"], status["completed_at"]) == (2, "running", None)
    assert [one["status"] for one in status["child_jobs"]] == ["completed", "queued", "queued"]
    assert [one["attempts"] for one in status["child_jobs"]] == [1, 1, 1]


@pytest.mark.parametrize("slash", ["", "/"])
def test_nothing_needs_to_be_said(api: Api, ended: dict[str, Any], slash: str) -> None:
    # As ``curl -X POST`` does: no body, and no type of it.
    path, host = _path(ended) + slash, {"host": "localhost:9820"}
    answer = api.client.generic("POST", path, b"", "", headers=host)
    assert answer.status_code == 200, answer.content
    assert len(answer.json()["job_ids"]) == 2


def test_named_jobs_alone_wait_again(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended), {"job_ids": [_job(ended, 2)], "run": 1})
    assert answer.json()["job_ids"] == [_job(ended, 2)]


def test_one_job_by_its_path(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended, 1), {})
    assert (answer.status_code, answer.json()["job_ids"]) == (200, [_job(ended, 1)])
    detail = api.get(f"/api/job-groups/{ended['job_group_id']}/jobs/{_job(ended, 1)}").json()
    assert (detail["status"], detail["attempt_count"]) == ("queued", 1)
    _end("gpu-2", AttemptState.SUCCESS)
    detail = api.get(f"/api/job-groups/{ended['job_group_id']}/jobs/{_job(ended, 1)}").json()
    assert [(one["number"], one["run"]) for one in detail["attempts"]] == [(1, 1), (2, 2)]


def test_a_new_run_needs_no_runner(api: Api, ended: dict[str, Any]) -> None:
    runners.runner_stopped(name="runner-1", instance="abc")
    assert api.post(_path(ended), {}).status_code == 200
    status = api.get(f"/api/job-groups/{ended['job_group_id']}").json()
    assert "No runner" in status["child_jobs"][1]["waiting_reason"]


def test_the_submission_is_answered_as_before_after_a_retry(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": {"1": {"class_type": "A", "inputs": {}}}, "backend_ids": ["gpu-1"]}
    first = api.post("/api/job-group", body, Idempotency_Key="k")
    _end("gpu-1", AttemptState.ERROR)
    api.post(_path(first.json()), {})
    again = api.post("/api/job-group", body, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()


# --- refused --------------------------------------------------------------------------------------


def test_a_group_that_goes_on_is_refused_with_what_to_do(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    _end("gpu-1", AttemptState.ERROR)
    body = error_of(api.post(_path(made), {}), 409, "group_not_finished")
    assert "1 job is not final" in body["detail"]
    assert "cancel" in body["detail"]
    # One job that failed need not wait for the others; one that waits has not failed.
    body = error_of(api.post(_path(made, 1), {}), 409, "job_not_failed")
    assert "is queued" in body["detail"]
    assert api.post(_path(made, 0), {}).json()["run"] == 1


def test_a_second_click_is_refused(api: Api, ended: dict[str, Any]) -> None:
    assert api.post(_path(ended), {"run": 1}).status_code == 200
    error_of(api.post(_path(ended), {}), 409, "group_not_finished")
    body = error_of(api.post(_path(ended), {"run": 1}), 409, "run_passed")
    assert "in run 2 by now: it was retried since you looked" in body["detail"]
    body = error_of(api.post(_path(ended), {"run": 3}), 409, "run_passed")
    assert "in run 2; it has no run 3" in body["detail"]
    assert JobGroup.objects.get().run == 2


def test_what_is_done_is_refused(api: Api, ended: dict[str, Any]) -> None:
    body = error_of(api.post(_path(ended, 0), {}), 409, "job_completed")
    assert body["job_ids"] == [_job(ended, 0)]
    done = api.submit("gpu-1")
    _end("gpu-1", AttemptState.SUCCESS)
    error_of(api.post(_path(done), {}), 409, "nothing_to_retry")


def test_what_is_not_there_is_not_found(api: Api, ended: dict[str, Any]) -> None:
    error_of(api.post("/api/job-groups/jg_000000000000/retry", {}), 404, "group_not_found")
    error_of(api.post("/api/job-groups/a%00b/retry", {}), 404, "group_not_found")
    error_of(api.post(_path(ended), {"job_ids": ["j_000000000000"]}), 404, "job_not_found")
    path = f"/api/job-groups/{ended['job_group_id']}/jobs/j_000000000000/retry"
    error_of(api.post(path, {}), 404, "job_not_found")
    error_of(api.get(_path(ended)), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"job_ids": []}, "job_ids"),
        ({"job_ids": "j_1"}, "job_ids"),
        ({"job_ids": [1]}, "job_ids.0"),
        ({"job_ids": [""]}, "job_ids.0"),
        ({"job_ids": ["j" * 65]}, "job_ids.0"),
        ({"retry_elsewhere": 1}, "retry_elsewhere"),
        ({"retry_elsewhere": "elsewhere"}, "retry_elsewhere"),
        ({"retry_elsewhere": []}, "retry_elsewhere"),
        ({"run": 0}, "run"),
        ({"run": "1"}, "run"),
        ({"run": True}, "run"),
        ({"jobs": ["j_1"]}, "jobs"),
        ({"max_attempts": 3}, "max_attempts"),
        ({"where": "elsewhere"}, "where"),
        ({"where": True}, "where"),
        ({"where": ["other"]}, "where"),
        ({"backend_id": 3}, "backend_id"),
        ({"backend_id": ""}, "backend_id"),
        ({"backend_id": "b" * 65}, "backend_id"),
        ({"where": "other", "backend_id": "gpu-2"}, "backend_id"),
        ({"where": "same", "retry_elsewhere": "any"}, "retry_elsewhere"),
        ({"backend_id": "gpu-2", "retry_elsewhere": False}, "retry_elsewhere"),
        ({"by": "a\nb"}, "by"),
        ({"by": "a" * 151}, "by"),
        ({"by": 5}, "by"),
    ],
)
def test_a_body_that_says_something_else_is_refused(
    api: Api, ended: dict[str, Any], body: dict[str, Any], field: str
) -> None:
    assert list(wrong_fields(api.post(_path(ended), body))) == [field]
    assert JobGroup.objects.get().run == 1


def test_the_path_of_one_job_takes_no_list(api: Api, ended: dict[str, Any]) -> None:
    body = {"job_ids": [_job(ended, 2)]}
    assert list(wrong_fields(api.post(_path(ended, 1), body))) == ["job_ids"]


def test_a_body_that_is_no_json_is_refused(api: Api, ended: dict[str, Any]) -> None:
    error_of(api.ask("POST", _path(ended), b"retry"), 400, "invalid_json")
    error_of(api.ask("POST", _path(ended), b"[]"), 400, "invalid_request")
    answer = api.ask("POST", _path(ended), b"{}", content_type="text/plain")
    error_of(answer, 415, "unsupported_media_type")


# --- where ----------------------------------------------------------------------------------------


def test_a_named_backend_gets_the_job(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended, 1), {"backend_id": "gpu-1", "by": "anna"})
    assert answer.json()["moved"] == {_job(ended, 1): "gpu-1"}
    events = api.get(f"/api/job-groups/{ended['job_group_id']}/events").json()["events"]
    assert events[-1]["requested_by"] == "anna"


def test_another_backend_than_the_one_that_failed_it_gets_the_job(
    api: Api, ended: dict[str, Any]
) -> None:
    moved = api.post(_path(ended), {"where": "other"}).json()["moved"]
    assert set(moved) == {_job(ended, 1), _job(ended, 2)}
    assert moved[_job(ended, 1)] != "gpu-2"
    assert moved[_job(ended, 2)] != "gpu-3"


def test_no_other_backend_is_refused_with_what_to_do(api: Api, ended: dict[str, Any]) -> None:
    for one in ("gpu-1", "gpu-3"):
        api.post(f"/api/backends/{one}/pause", {})
    body = error_of(api.post(_path(ended, 1), {"where": "other"}), 409, "no_other_backend")
    assert body["job_ids"] == [_job(ended, 1)]
    assert "where" in body["detail"]
    assert JobGroup.objects.get().run == 1


@pytest.mark.parametrize("name", ["gpu-9", "gpu 1", "../gpu-1", "gpu-1 "])
def test_a_backend_that_is_not_registered_is_not_found(
    api: Api, ended: dict[str, Any], name: str
) -> None:
    error_of(api.post(_path(ended), {"backend_id": name}), 404, "backend_not_found")
    assert JobGroup.objects.get().run == 1


def test_a_named_backend_that_takes_nothing_is_refused(api: Api, ended: dict[str, Any]) -> None:
    api.ask("PATCH", "/api/backends/gpu-1", b'{"enabled": false}')
    body = error_of(api.post(_path(ended), {"backend_id": "gpu-1"}), 409, "backend_unavailable")
    assert body["unavailable_backends"][0]["backend_id"] == "gpu-1"


# --- moves ----------------------------------------------------------------------------------------


def _move(made: dict[str, Any], job: int) -> str:
    return f"/api/job-groups/{made['job_group_id']}/jobs/{_job(made, job)}/move"


def test_a_waiting_job_is_moved(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    answer = api.post(_move(made, 0), {"backend_id": "gpu-2", "by": "anna"})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "job_group_id": made["job_group_id"],
            "job_id": _job(made, 0),
            "backend_id": "gpu-2",
            "moved": True,
            "removing_from": None,
        },
    )
    assert api.post(_move(made, 0), {"backend_id": "gpu-2"}).json()["moved"] is False
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["child_jobs"][0]["backend_id"] == "gpu-2"


def test_a_job_that_has_ended_is_not_moved(api: Api, ended: dict[str, Any]) -> None:
    body = error_of(api.post(_move(ended, 1), {"backend_id": "gpu-1"}), 409, "job_not_waiting")
    assert "retry" in body["detail"]


def test_a_move_of_nothing_or_to_nowhere_is_not_found(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    error_of(api.post(_move(made, 0), {"backend_id": "gpu-9"}), 404, "backend_not_found")
    path = f"/api/job-groups/{made['job_group_id']}/jobs/j_000000000000/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "job_not_found")
    path = f"/api/job-groups/jg_000000000000/jobs/{_job(made, 0)}/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "group_not_found")
    error_of(api.get(_move(made, 0)), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "backend_id"),
        ({"backend_id": None}, "backend_id"),
        ({"backend_id": ["gpu-2"]}, "backend_id"),
        ({"backend_id": "gpu-2", "where": "other"}, "where"),
        ({"backend_id": "gpu-2", "by": ""}, "by"),
    ],
)
def test_a_move_that_says_something_else_is_refused(
    api: Api, farm: list[str], body: dict[str, Any], field: str
) -> None:
    made = api.submit("gpu-1")
    assert list(wrong_fields(api.post(_move(made, 0), body))) == [field]
