from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.clock import iso
from jobgroups.models import Runner
from tests.api.conftest import Api, Made, error_of, wrong_fields
from tests.harness.factories import WORKFLOW

PATH = "/api/backends/gpu-1"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def gpu(runner: Runner, make_backend: Made) -> None:
    make_backend("gpu-1")


def test_pause_is_shown_with_reason_time_and_user(api: Api, notified: list[str]) -> None:
    said = {"reason": " the fan is loud ", "by": "anna"}
    answer = api.post(f"{PATH}/pause", said)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["status"], shown["status_by"]) == ("paused", "anna")
    assert shown["status_reason"] == shown["changed_reason"] == "the fan is loud"
    assert shown["status_since"] == shown["changed_at"]
    assert (shown["hold"], shown["evict"], shown["enabled"]) == ("pause", False, True)
    assert shown == api.get(PATH).json()
    assert notified
    assert api.post(f"{PATH}/pause", {}).json() == shown


def test_resume_ends_a_pause(api: Api) -> None:
    api.post(f"{PATH}/pause", {"now": True})
    shown = api.post(f"{PATH}/resume", {"by": "ben"}).json()
    assert (shown["status"], shown["hold"], shown["evict"]) == ("online", None, False)
    assert shown["changed_by"] == "ben"
    assert api.post(f"{PATH}/resume", {}).json() == shown


def test_quarantine_lasts_for_minutes_or_until_a_release(api: Api) -> None:
    shown = api.post(f"{PATH}/quarantine", {"reason": "it smokes", "by": "anna"}).json()
    assert (shown["status"], shown["status_reason"]) == ("quarantined", "it smokes")
    aside, since = shown["quarantine"], shown["status_since"]
    assert aside == {"since": since, "until": None, "reason": "it smokes", "by": "anna"}
    shorter = api.post(f"{PATH}/quarantine", {"minutes": 5}).json()["quarantine"]
    assert shorter["since"] == since == iso(Backend.objects.get().quarantined_at)
    assert shorter["until"] > since
    freed = api.post(f"{PATH}/release", {}).json()
    assert (freed["status"], freed["quarantine"], freed["on_probation"]) == ("online", None, True)
    assert freed["status_reason"].startswith("On probation")
    assert api.post(f"{PATH}/release", {}).status_code == 200


@pytest.mark.parametrize("what", ["pause", "drain", "resume", "quarantine", "release"])
def test_request_needs_no_body_and_a_known_backend(api: Api, what: str) -> None:
    before = api.get(PATH).json()
    assert list(wrong_fields(api.post(f"{PATH}/{what}", {"until": "noon"}))) == ["until"]
    assert api.post(f"{PATH}/{what}", b"{").status_code == 400
    assert api.get(PATH).json() == before
    assert api.post(f"{PATH}/{what}/", None).status_code == 200
    error_of(api.post(f"/api/backends/x/{what}", {}), 404, "backend_not_found")
    error_of(api.get(f"{PATH}/{what}"), 405, "method_not_allowed")


def test_disabled_backend_is_not_held(api: Api) -> None:
    disabled = api.patch(PATH, {"enabled": False}).json()
    for what in ("pause", "drain", "resume"):
        assert api.post(f"{PATH}/{what}", {"by": "anna"}).json() == disabled


def test_enabling_ends_every_hold(api: Api) -> None:
    api.post(f"{PATH}/pause", {"now": True, "by": "anna", "reason": "lunch"})
    api.patch(PATH, {"enabled": False})
    shown = api.patch(PATH, {"enabled": True}).json()
    assert (shown["status"], shown["hold"], shown["evict"]) == ("online", None, False)
    assert (shown["changed_by"], shown["changed_reason"]) == (None, None)


def test_new_address_ends_a_quarantine(api: Api) -> None:
    api.post(f"{PATH}/quarantine", {})
    moved = api.patch(PATH, {"url": "http://127.0.0.1:9"}).json()
    assert (moved["quarantine"], moved["on_probation"]) == (None, False)


def submit(api: Api) -> Any:
    return api.post("/api/job-group", {"workflow_json": WORKFLOW, "backend_ids": ["gpu-1"]})


@pytest.mark.django_db(transaction=True)
def test_paused_backend_gets_jobs_that_wait(api: Api) -> None:
    api.post(f"{PATH}/pause", {"by": "anna"})
    answer = submit(api)
    assert answer.status_code == 201
    status = api.get(f"/api/job-groups/{answer.json()['job_group_id']}").json()
    reason = status["child_jobs"][0]["waiting_reason"]
    assert reason.startswith("gpu-1 is paused by anna since ")


def test_draining_or_quarantined_backend_is_skipped_with_its_reason(api: Api) -> None:
    anna = {"by": "anna", "reason": "new card"}
    for what, said, reason in (
        ("drain", {}, "Being drained."),
        ("drain", anna, "Being drained by anna: new card"),
        ("quarantine", anna, "Quarantined by anna: new card"),
    ):
        api.post(f"{PATH}/{what}", said)
        body = error_of(submit(api), 400, "no_online_backends")
        assert body["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
        api.post(f"{PATH}/resume", {})


@pytest.mark.django_db(transaction=True)
def test_queue_positions_need_as_many_queries_for_a_thousand_jobs(
    api: Api, django_assert_max_num_queries: Any
) -> None:
    body = {"workflow_json": WORKFLOW, "backend_ids": ["gpu-1"] * 1000}
    group = api.post("/api/job-group", body).json()["job_group_id"]
    with django_assert_max_num_queries(
        14
    ):  # six of them read the line again, for the new group's estimate
        children = api.get(f"/api/job-groups/{group}").json()["child_jobs"]
    assert children[0]["waiting_reason"] == "1st in line for gpu-1."
    assert children[999]["waiting_reason"] == "1000th in line for gpu-1."
