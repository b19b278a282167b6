from typing import Any

import pytest

from jobgroups.domain.states import AttemptState
from jobgroups.models import JobGroup
from jobgroups.services import runners
from tests.api.conftest import Api, error_of, play_to_the_end, wrong_fields

pytestmark = pytest.mark.django_db


@pytest.fixture
def ended(api: Api, farm: list[str]) -> dict[str, Any]:
    """A group of three that has ended: its second and third failed."""
    made = api.submit(*farm)
    for backend_id, state in zip(farm, ("success", "error", "error"), strict=True):
        play_to_the_end(backend_id, AttemptState(state))
    return made


def _path(made: dict[str, Any], job: int | None = None) -> str:
    group = f"/api/job-groups/{made['job_group_id']}"
    return f"{group}/retry" if job is None else f"{group}/jobs/{_job(made, job)}/retry"


def _job(made: dict[str, Any], index: int) -> str:
    return str(made["child_jobs"][index]["job_id"])


@pytest.mark.django_db(transaction=True)
def test_retry_of_a_group_queues_all_failed_jobs(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended), {})
    retried = {"job_group_id": ended["job_group_id"], "run": 2, "status": "running"}
    retried |= {"job_ids": [_job(ended, 1), _job(ended, 2)], "adopted_job_ids": [], "moved": {}}
    assert (answer.status_code, answer.json()) == (200, retried)
    status = api.get(f"/api/job-groups/{ended['job_group_id']}").json()
    assert (status["run"], status["status"], status["completed_at"]) == (2, "running", None)
    jobs = [(one["status"], one["attempts"]) for one in status["child_jobs"]]
    assert jobs == [("completed", 1), ("queued", 1), ("queued", 1)]


def test_retry_needs_no_body(api: Api, ended: dict[str, Any]) -> None:
    # As ``curl -X POST`` does: no body, and no type of it.
    answer = api.client.generic("POST", f"{_path(ended)}/", b"", "", headers={"host": "localhost"})
    assert (answer.status_code, len(answer.json()["job_ids"])) == (200, 2)


@pytest.mark.django_db(transaction=True)
def test_retry_needs_no_runner(api: Api, ended: dict[str, Any]) -> None:
    runners.runner_deregister(name="runner-1", instance="abc")
    assert api.post(_path(ended), {}).status_code == 200
    status = api.get(f"/api/job-groups/{ended['job_group_id']}").json()
    assert "No runner" in status["child_jobs"][1]["waiting_reason"]


def test_refused_retry_has_a_code_and_says_what_to_do(api: Api, ended: dict[str, Any]) -> None:
    runs = api.submit("gpu-1", "gpu-2")
    play_to_the_end("gpu-1", AttemptState.ERROR)
    body = error_of(api.post(_path(runs), {}), 409, "group_not_finished")
    assert "1 job is not final" in body["detail"]
    assert "cancel" in body["detail"]
    body = error_of(api.post(_path(runs, 1), {}), 409, "job_not_failed")
    assert "is queued" in body["detail"]
    # One job that failed need not wait for the others.
    assert api.post(_path(runs, 0), {}).json()["run"] == 1
    body = error_of(api.post(_path(ended, 0), {}), 409, "job_completed")
    assert body["job_ids"] == [_job(ended, 0)]
    body = error_of(api.post(_path(ended), {"run": 3}), 409, "run_passed")
    assert "in run 1; it has no run 3" in body["detail"]
    assert api.post(_path(ended), {"run": 1}).status_code == 200
    body = error_of(api.post(_path(ended), {"run": 1}), 409, "run_passed")
    assert "in run 2 now: it was retried meanwhile" in body["detail"]


def test_retry_of_an_unknown_group_or_job_is_not_found(api: Api, ended: dict[str, Any]) -> None:
    error_of(api.post("/api/job-groups/a%00b/retry", {}), 404, "group_not_found")
    error_of(api.post(_path(ended), {"job_ids": ["j_000000000000"]}), 404, "job_not_found")
    path = f"/api/job-groups/{ended['job_group_id']}/jobs/j_000000000000/retry"
    error_of(api.post(path, {}), 404, "job_not_found")
    one_job = api.post(_path(ended, 1), {"job_ids": [_job(ended, 2)]})
    assert list(wrong_fields(one_job)) == ["job_ids"]
    assert JobGroup.objects.get().run == 1


def test_retry_at_a_named_backend(api: Api, ended: dict[str, Any]) -> None:
    answer = api.post(_path(ended, 1), {"backend_id": "gpu-1", "by": "anna"})
    assert answer.json()["moved"] == {_job(ended, 1): "gpu-1"}
    events = api.get(f"/api/job-groups/{ended['job_group_id']}/events").json()["events"]
    assert events[-1]["requested_by"] == "anna"


def test_retry_is_refused_where_no_other_backend_works(api: Api, ended: dict[str, Any]) -> None:
    for one in ("gpu-1", "gpu-3"):
        api.post(f"/api/backends/{one}/pause", {})
    body = error_of(api.post(_path(ended, 1), {"where": "other"}), 409, "no_other_backend")
    assert body["job_ids"] == [_job(ended, 1)]
    assert "where" in body["detail"]
    assert JobGroup.objects.get().run == 1


def test_retry_at_an_unregistered_or_disabled_backend_is_refused(
    api: Api, ended: dict[str, Any]
) -> None:
    for name in ("gpu-9", "gpu 1", "../gpu-1", "gpu-1 "):
        error_of(api.post(_path(ended), {"backend_id": name}), 404, "backend_not_found")
        # The fields come first.
        error_of(
            api.post(_path(ended), {"backend_id": name, "max_attempts": 3}), 400, "invalid_request"
        )
    api.patch("/api/backends/gpu-1", {"enabled": False})
    body = error_of(api.post(_path(ended), {"backend_id": "gpu-1"}), 409, "backend_unavailable")
    assert body["unavailable_backends"][0]["backend_id"] == "gpu-1"
    assert body["detail"] == "gpu-1 takes no jobs: It is disabled. Name another backend."
    assert JobGroup.objects.get().run == 1


def _move(made: dict[str, Any], job: int) -> str:
    return f"/api/job-groups/{made['job_group_id']}/jobs/{_job(made, job)}/move"


@pytest.mark.django_db(transaction=True)
def test_queued_job_is_moved(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    answer = api.post(_move(made, 0), {"backend_id": "gpu-2", "by": "anna"})
    names = {"job_group_id": made["job_group_id"], "job_id": _job(made, 0), "backend_id": "gpu-2"}
    moved = {**names, "moved": True, "removing_from": None}
    assert (answer.status_code, answer.json()) == (200, moved)
    assert api.post(_move(made, 0), {"backend_id": "gpu-2"}).json()["moved"] is False
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["child_jobs"][0]["backend_id"] == "gpu-2"


def test_refused_move_has_a_code(api: Api, ended: dict[str, Any]) -> None:
    body = error_of(api.post(_move(ended, 1), {"backend_id": "gpu-1"}), 409, "job_not_waiting")
    assert "retry" in body["detail"]
    assert list(wrong_fields(api.post(_move(ended, 1), {}))) == ["backend_id"]
    api.post(_path(ended, 1), {})
    error_of(api.post(_move(ended, 1), {"backend_id": "gpu-9"}), 404, "backend_not_found")
    path = f"/api/job-groups/{ended['job_group_id']}/jobs/j_000000000000/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "job_not_found")
    path = f"/api/job-groups/jg_000000000000/jobs/{_job(ended, 1)}/move"
    error_of(api.post(path, {"backend_id": "gpu-2"}), 404, "group_not_found")
