"""Pausing, draining, setting aside and releasing backends over HTTP, and what submissions make of it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.models import Backend
from jobgroups.domain.clock import iso, now
from jobgroups.events.hub import Hub
from jobgroups.models import JobGroup, Runner
from tests.api.conftest import Api, Made, error_of, wrong_fields
from tests.farm import WORKFLOW

PATH = "/api/backends/gpu-1"
ALL = ["pause", "drain", "resume", "quarantine", "release"]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each ring for the runners; nothing listens in these tests."""
    rings: list[str] = []
    monkeypatch.setattr(
        Hub, "notify_runners", lambda _hub, work_only=False: work_only or rings.append("wake")
    )
    return rings


@pytest.fixture(autouse=True)
def gpu(make_backend: Made) -> None:
    make_backend("gpu-1")


def test_a_pause_is_shown_with_why_since_when_and_by_whom(api: Api, rung: list[str]) -> None:
    said = {"reason": " the fan is loud ", "by": "anna"}
    answer = api.post(f"{PATH}/pause", said)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["status"], shown["status_by"]) == ("paused", "anna")
    assert shown["status_reason"] == shown["changed_reason"] == "the fan is loud"
    assert shown["status_since"] == shown["changed_at"]
    assert (shown["hold"], shown["evict"], shown["enabled"]) == ("pause", False, True)
    assert shown == api.get(PATH).json()
    assert rung, "the runner is told"
    assert api.post(f"{PATH}/pause", {}).json() == shown


def test_a_resume_ends_it(api: Api) -> None:
    api.post(f"{PATH}/pause", {"now": True})
    shown = api.post(f"{PATH}/resume", {"by": "ben"}).json()
    assert (shown["status"], shown["hold"], shown["evict"]) == ("online", None, False)
    assert shown["changed_by"] == "ben"
    assert api.post(f"{PATH}/resume", {}).json() == shown


def test_a_drain_is_no_pause(api: Api) -> None:
    shown = api.post(f"{PATH}/drain", {"now": True}).json()
    assert (shown["status"], shown["hold"], shown["evict"]) == ("draining", "drain", True)


def test_a_quarantine_lasts_for_minutes_or_until_a_release(api: Api) -> None:
    shown = api.post(f"{PATH}/quarantine", {"reason": "it smokes", "by": "anna"}).json()
    assert (shown["status"], shown["status_reason"]) == ("quarantined", "it smokes")
    aside = shown["quarantine"]
    assert aside == {
        "since": shown["status_since"],
        "until": None,
        "reason": "it smokes",
        "by": "anna",
    }
    shorter = api.post(f"{PATH}/quarantine", {"minutes": 5}).json()["quarantine"]
    assert shorter["since"] == aside["since"]
    assert shorter["until"] > aside["since"]
    freed = api.post(f"{PATH}/release", {}).json()
    assert (freed["status"], freed["quarantine"], freed["on_probation"]) == ("online", None, True)
    assert freed["status_reason"].startswith("On probation")
    assert api.post(f"{PATH}/release", {}).status_code == 200


@pytest.mark.parametrize("what", ALL)
def test_none_of_them_needs_a_body(api: Api, what: str) -> None:
    assert api.post(f"{PATH}/{what}", None).status_code == 200
    assert api.post(f"{PATH}/{what}/", None).status_code == 200


@pytest.mark.parametrize("what", ALL)
def test_an_unknown_backend_is_not_found(api: Api, what: str) -> None:
    error_of(api.post(f"/api/backends/x/{what}", {}), 404, "backend_not_found")
    error_of(api.post(f"/api/backends/a%00b/{what}", {}), 404, "backend_not_found")
    error_of(api.get(f"{PATH}/{what}"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("what", "said", "field"),
    [
        ("pause", {"now": "yes"}, "now"),
        ("pause", {"now": 1}, "now"),
        ("pause", {"reason": ""}, "reason"),
        ("pause", {"reason": "  "}, "reason"),
        ("pause", {"reason": "x" * 501}, "reason"),
        ("pause", {"reason": "a\nb"}, "reason"),
        ("pause", {"reason": 8}, "reason"),
        ("pause", {"by": ["anna"]}, "by"),
        ("pause", {"by": "x" * 151}, "by"),
        ("pause", {"minutes": 5}, "minutes"),
        ("pause", {"until": "tomorrow"}, "until"),
        ("drain", {"now": None, "force": True}, "force"),
        ("resume", {"now": True}, "now"),
        ("resume", {"by": 1}, "by"),
        ("quarantine", {"minutes": 0}, "minutes"),
        ("quarantine", {"minutes": 10_081}, "minutes"),
        ("quarantine", {"minutes": "5"}, "minutes"),
        ("quarantine", {"minutes": 1.5}, "minutes"),
        ("quarantine", {"now": True}, "now"),
        ("release", {"reason": "x"}, "reason"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(
    api: Api, what: str, said: dict[str, Any], field: str
) -> None:
    before = api.get(PATH).json()
    assert list(wrong_fields(api.post(f"{PATH}/{what}", said))) == [field]
    assert api.get(PATH).json() == before


@pytest.mark.parametrize("body", ["[]", '"now"', "{", "null"])
def test_a_body_that_is_no_object_is_refused(api: Api, body: str) -> None:
    answer = api.post(f"{PATH}/pause", body.encode())
    assert answer.status_code == 400
    assert Backend.objects.get().hold == ""


# --- enabling, disabling --------------------------------------------------------------------------


def test_a_disabled_backend_stays_as_it_is(api: Api) -> None:
    disabled = api.patch(PATH, {"enabled": False}).json()
    assert (disabled["status"], disabled["status_since"]) == ("disabled", disabled["changed_at"])
    for what in ("pause", "drain", "resume"):
        assert api.post(f"{PATH}/{what}", {"by": "anna"}).json() == disabled


def test_enabling_ends_every_hold(api: Api) -> None:
    api.post(f"{PATH}/pause", {"now": True, "by": "anna", "reason": "lunch"})
    api.patch(PATH, {"enabled": False})
    shown = api.patch(PATH, {"enabled": True}).json()
    assert (shown["status"], shown["hold"], shown["evict"]) == ("online", None, False)
    assert (shown["changed_by"], shown["changed_reason"]) == (None, None)


def test_another_address_is_another_machine(api: Api) -> None:
    api.post(f"{PATH}/quarantine", {})
    moved = api.patch(PATH, {"url": "http://127.0.0.1:9"}).json()
    assert (moved["quarantine"], moved["on_probation"]) == (None, False)


# --- submissions ----------------------------------------------------------------------------------


def submit(api: Api) -> Any:
    moment = now()
    Runner.objects.update_or_create(
        name="r", defaults={"pid": 1, "started_at": moment, "heartbeat_at": moment}
    )
    return api.post("/api/job-group", {"workflow_json": WORKFLOW, "backend_ids": ["gpu-1"]})


def test_a_paused_backend_is_given_children_that_wait(api: Api) -> None:
    api.post(f"{PATH}/pause", {"by": "anna"})
    answer = submit(api)
    assert answer.status_code == 201
    status = api.get(f"/api/job-groups/{answer.json()['job_group_id']}").json()
    reason = status["child_jobs"][0]["waiting_reason"]
    assert reason.startswith("gpu-1 is paused by anna since ")


@pytest.mark.parametrize(
    ("what", "said", "reason"),
    [
        ("drain", {}, "Being drained."),
        ("drain", {"by": "anna", "reason": "new card"}, "Being drained by anna: new card"),
        ("quarantine", {"by": "anna", "reason": "it smokes"}, "Quarantined by anna: it smokes"),
    ],
)
def test_one_that_empties_or_is_set_aside_is_skipped_with_its_reason(
    api: Api, what: str, said: dict[str, str], reason: str
) -> None:
    api.post(f"{PATH}/{what}", said)
    body = error_of(submit(api), 400, "no_online_backends")
    assert body["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    assert not JobGroup.objects.exists()


def test_what_waits_is_told_its_place_in_the_line(api: Api, make_backend: Made) -> None:
    first, second = submit(api).json(), submit(api).json()
    group = api.get(f"/api/job-groups/{second['job_group_id']}").json()
    assert group["child_jobs"][0]["waiting_reason"] == "2nd in line for gpu-1."
    job = second["child_jobs"][0]["job_id"]
    detail = api.get(f"/api/job-groups/{second['job_group_id']}/jobs/{job}").json()
    assert detail["waiting_reason"] == "2nd in line for gpu-1."
    api.delete(f"/api/job-groups/{first['job_group_id']}")
    detail = api.get(f"/api/job-groups/{second['job_group_id']}/jobs/{job}").json()
    assert detail["waiting_reason"] == "1st in line for gpu-1."


def test_the_place_costs_the_same_for_a_thousand_children(
    api: Api, django_assert_max_num_queries: Any
) -> None:
    moment = now()
    Runner.objects.create(name="r", pid=1, started_at=moment, heartbeat_at=moment)
    body = {"workflow_json": WORKFLOW, "backend_ids": ["gpu-1"] * 1000}
    group = api.post("/api/job-group", body).json()["job_group_id"]
    with django_assert_max_num_queries(12):
        children = api.get(f"/api/job-groups/{group}").json()["child_jobs"]
    assert children[0]["waiting_reason"] == "1st in line for gpu-1."
    assert children[999]["waiting_reason"] == "1000th in line for gpu-1."


def test_times_are_the_apis(api: Api) -> None:
    shown = api.post(f"{PATH}/quarantine", {"minutes": 5}).json()
    row = Backend.objects.get()
    assert row.quarantined_at is not None
    assert shown["quarantine"]["since"] == iso(row.quarantined_at)
