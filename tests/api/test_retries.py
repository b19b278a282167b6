"""Retrying over HTTP: what is answered, and every refusal in the API's shape."""

from __future__ import annotations

from typing import Any

import pytest

from jobgroups.models import JobGroup
from jobgroups.services import attempts, claims, runners
from jobgroups.services.attempts import End
from jobgroups.states import AttemptState, ErrorType
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
    error_of(api.post(_path(made, 0), {}), 409, "group_not_finished")


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
