"""Retrying over HTTP: what is answered, and every refusal in the API's shape."""

from __future__ import annotations

from typing import Any

import pytest

from jobgroups.domain.states import AttemptState
from jobgroups.models import JobGroup
from jobgroups.services import runners
from tests.api.conftest import Api, error_of, wrong_fields
from tests.harness import factories

pytestmark = pytest.mark.django_db


def _end(backend_id: str, state: AttemptState) -> None:
    """Play the runner: the backend's oldest child ends like this."""
    fence = factories.lease(backend_id)
    claim = factories.claim(fence)
    factories.start(claim, fence)
    factories.finish(claim, fence, state)


@pytest.fixture
def ended(api: Api, farm: list[str]) -> dict[str, Any]:
    """A group of three that has ended: its second and third failed."""
    made = api.submit(*farm)
    for backend_id, state in zip(farm, (AttemptState.SUCCESS, AttemptState.ERROR, AttemptState.ERROR), strict=True):
        _end(backend_id, state)
    return made


def _path(made: dict[str, Any], job: int | None = None) -> str:
    group = f"/api/job-groups/{made['job_group_id']}"
    return f"{group}/retry" if job is None else f"{group}/jobs/{_job(made, job)}/retry"


def _job(made: dict[str, Any], index: int) -> str:
    return str(made["child_jobs"][index]["job_id"])


def test_retry_of_a_group_queues_all_failed_jobs(api: Api, ended: dict[str, Any]) -> None:
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
def test_retry_needs_no_body(api: Api, ended: dict[str, Any], slash: str) -> None:
    # As ``curl -X POST`` does: no body, and no type of it.
    path, host = _path(ended) + slash, {"host": "localhost:9820"}
    answer = api.client.generic("POST", path, b"", "", headers=host)
    assert answer.status_code == 200, answer.content
    assert len(answer.json()["job_ids"]) == 2


def test_retry_queues_only_the_named_jobs(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended), {"job_ids": [_job(ended, 2)], "run": 1})
    assert answer.json()["job_ids"] == [_job(ended, 2)]


def test_retry_of_one_job_by_its_path(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended, 1), {})
    assert (answer.status_code, answer.json()["job_ids"]) == (200, [_job(ended, 1)])
    detail = api.get(f"/api/job-groups/{ended['job_group_id']}/jobs/{_job(ended, 1)}").json()
    assert (detail["status"], detail["attempt_count"]) == ("queued", 1)
    _end("gpu-2", AttemptState.SUCCESS)
    detail = api.get(f"/api/job-groups/{ended['job_group_id']}/jobs/{_job(ended, 1)}").json()
    assert [(one["number"], one["run"]) for one in detail["attempts"]] == [(1, 1), (2, 2)]


def test_retry_needs_no_runner(api: Api, ended: dict[str, Any]) -> None:
    runners.runner_deregister(name="runner-1", instance="abc")
    assert api.post(_path(ended), {}).status_code == 200
    status = api.get(f"/api/job-groups/{ended['job_group_id']}").json()
    assert "No runner" in status["child_jobs"][1]["waiting_reason"]


def test_replay_is_unchanged_after_a_retry(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": {"1": {"class_type": "A", "inputs": {}}}, "backend_ids": ["gpu-1"]}
    first = api.post("/api/job-group", body, Idempotency_Key="k")
    _end("gpu-1", AttemptState.ERROR)
    api.post(_path(first.json()), {})
    again = api.post("/api/job-group", body, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()


# --- refused --------------------------------------------------------------------------------------


def test_retry_of_a_running_group_is_refused_with_what_to_do(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    _end("gpu-1", AttemptState.ERROR)
    body = error_of(api.post(_path(made), {}), 409, "group_not_finished")
    assert "1 job is not final" in body["detail"]
    assert "cancel" in body["detail"]
    # One job that failed need not wait for the others; one that waits has not failed.
    body = error_of(api.post(_path(made, 1), {}), 409, "job_not_failed")
    assert "is queued" in body["detail"]
    assert api.post(_path(made, 0), {}).json()["run"] == 1


def test_second_retry_of_a_run_is_refused(api: Api, ended: dict[str, Any]) -> None:
    assert api.post(_path(ended), {"run": 1}).status_code == 200
    error_of(api.post(_path(ended), {}), 409, "group_not_finished")
    body = error_of(api.post(_path(ended), {"run": 1}), 409, "run_passed")
    assert "in run 2 now: it was retried meanwhile" in body["detail"]
    body = error_of(api.post(_path(ended), {"run": 3}), 409, "run_passed")
    assert "in run 2; it has no run 3" in body["detail"]
    assert JobGroup.objects.get().run == 2


def test_retry_of_completed_jobs_is_refused(api: Api, ended: dict[str, Any]) -> None:
    body = error_of(api.post(_path(ended, 0), {}), 409, "job_completed")
    assert body["job_ids"] == [_job(ended, 0)]
    done = api.submit("gpu-1")
    _end("gpu-1", AttemptState.SUCCESS)
    error_of(api.post(_path(done), {}), 409, "nothing_to_retry")


def test_retry_of_an_unknown_group_or_job_is_not_found(api: Api, ended: dict[str, Any]) -> None:
    error_of(api.post("/api/job-groups/jg_000000000000/retry", {}), 404, "group_not_found")
    error_of(api.post("/api/job-groups/a%00b/retry", {}), 404, "group_not_found")
    error_of(api.post(_path(ended), {"job_ids": ["j_000000000000"]}), 404, "job_not_found")
    path = f"/api/job-groups/{ended['job_group_id']}/jobs/j_000000000000/retry"
    error_of(api.post(path, {}), 404, "job_not_found")
    error_of(api.get(_path(ended)), 405, "method_not_allowed")


def test_request_with_an_unknown_field_is_refused(api: Api, ended: dict[str, Any]) -> None:
    assert list(wrong_fields(api.post(_path(ended), {"jobs": ["j_1"]}))) == ["jobs"]
    one_job = api.post(_path(ended, 1), {"job_ids": [_job(ended, 2)]})
    assert list(wrong_fields(one_job)) == ["job_ids"]
    assert list(wrong_fields(api.post(_move(ended, 1), {}))) == ["backend_id"]
    error_of(api.ask("POST", _path(ended), b"retry"), 400, "invalid_json")
    assert JobGroup.objects.get().run == 1


# --- where ----------------------------------------------------------------------------------------


def test_retry_at_a_named_backend(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended, 1), {"backend_id": "gpu-1", "by": "anna"})
    assert answer.json()["moved"] == {_job(ended, 1): "gpu-1"}
    events = api.get(f"/api/job-groups/{ended['job_group_id']}/events").json()["events"]
    assert events[-1]["requested_by"] == "anna"


def test_retry_at_another_backend(api: Api, ended: dict[str, Any]) -> None:
    moved = api.post(_path(ended), {"where": "other"}).json()["moved"]
    assert set(moved) == {_job(ended, 1), _job(ended, 2)}
    assert moved[_job(ended, 1)] != "gpu-2"
    assert moved[_job(ended, 2)] != "gpu-3"


def test_retry_is_refused_where_no_other_backend_works(api: Api, ended: dict[str, Any]) -> None:
    for one in ("gpu-1", "gpu-3"):
        api.post(f"/api/backends/{one}/pause", {})
    body = error_of(api.post(_path(ended, 1), {"where": "other"}), 409, "no_other_backend")
    assert body["job_ids"] == [_job(ended, 1)]
    assert "where" in body["detail"]
    assert JobGroup.objects.get().run == 1


@pytest.mark.parametrize("name", ["gpu-9", "gpu 1", "../gpu-1", "gpu-1 "])
def test_retry_at_an_unregistered_backend_is_not_found(api: Api, ended: dict[str, Any], name: str) -> None:
    error_of(api.post(_path(ended), {"backend_id": name}), 404, "backend_not_found")
    assert JobGroup.objects.get().run == 1


def test_retry_at_a_disabled_backend_is_refused(api: Api, ended: dict[str, Any]) -> None:
    api.ask("PATCH", "/api/backends/gpu-1", b'{"enabled": false}')
    body = error_of(api.post(_path(ended), {"backend_id": "gpu-1"}), 409, "backend_unavailable")
    assert body["unavailable_backends"][0]["backend_id"] == "gpu-1"


# --- moves ----------------------------------------------------------------------------------------


def _move(made: dict[str, Any], job: int) -> str:
    return f"/api/job-groups/{made['job_group_id']}/jobs/{_job(made, job)}/move"


def test_queued_job_is_moved(api: Api, farm: list[str]) -> None:
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


def test_job_that_has_ended_is_not_moved(api: Api, ended: dict[str, Any]) -> None:
    body = error_of(api.post(_move(ended, 1), {"backend_id": "gpu-1"}), 409, "job_not_waiting")
    assert "retry" in body["detail"]


def test_move_of_an_unknown_job_or_to_an_unknown_backend_is_not_found(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    error_of(api.post(_move(made, 0), {"backend_id": "gpu-9"}), 404, "backend_not_found")
    path = f"/api/job-groups/{made['job_group_id']}/jobs/j_000000000000/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "job_not_found")
    path = f"/api/job-groups/jg_000000000000/jobs/{_job(made, 0)}/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "group_not_found")
    error_of(api.get(_move(made, 0)), 405, "method_not_allowed")
