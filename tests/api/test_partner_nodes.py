"""Partner nodes in the API: which backends may get the key, and what is refused before a render."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from backends import inventory
from jobgroups.domain.clock import now
from jobgroups.models import AuditEntry, Exclusion, JobGroup, Runner
from tests.api.conftest import Api, Made, error_of, wrong_fields
from tests.harness.graphs import partner, picture
from tests.harness.simulator_thread import SimulatorThread

KEY = "comfyui-0123456789abcdef0123456789abcdef"
FORBIDDEN = "Not confirmed for partner nodes: allow them on this backend."
OLD = "ComfyUI 0.3.67 shows the key of partner nodes to its other users: update it to 0.3.68."
UNKNOWN = (
    "ComfyUI of unknown version shows the key of partner nodes to its other users: update it to "
    "0.3.68."
)
NO_KEY = "Partner nodes need an API key of Comfy.org: set DIRECTOR_COMFY_ORG_API_KEY."
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def has_key(settings: Settings, monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    monkeypatch.setattr(inventory, "_ANSWERS", inventory._Answers())
    # On a busy machine the simulators take longer than 2 s to describe their classes.
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 60.0)
    settings.DIRECTOR_COMFY_ORG_API_KEY = KEY


@pytest.fixture
def sims() -> Iterator[SimulatorThread]:
    with SimulatorThread(count=2, version="0.33.0") as found:
        yield found


@pytest.fixture
def gpus(sims: SimulatorThread, make_backend: Made) -> list[str]:
    """Register gpu-1, which is confirmed for partner nodes, and gpu-2, which is not."""
    rows = [
        make_backend(
            f"gpu-{number}",
            url=url,
            version="0.33.0",
            partner_nodes_allowed=number == 1,
            tags=["partner-nodes"],
        )
        for number, url in enumerate(sims.urls, start=1)
    ]
    return [row.id for row in rows]


def submission(graph: dict[str, Any], count: int | None, *backend_ids: str) -> dict[str, Any]:
    return {
        "workflow_json": graph,
        "backend_ids": list(backend_ids),
        **({"count": count} if count else {}),
    }


@pytest.mark.parametrize("count", [None, 2])
def test_only_confirmed_backends_are_selected_for_partner_nodes(
    api: Api, gpus: list[str], count: int | None
) -> None:
    answer = api.post("/api/job-group", submission(partner(), count, *gpus))
    assert answer.status_code == 201
    assert answer.json()["skipped_backends"] == [{"backend_id": "gpu-2", "reason": FORBIDDEN}]
    assert JobGroup.objects.get().uses_partner_nodes
    # Other workflows go everywhere.
    answer = api.post("/api/job-group", submission(picture(), count, *gpus))
    assert answer.json()["skipped_backends"] == []
    assert JobGroup.objects.exclude(uses_partner_nodes=True).get().uses_partner_nodes is False


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize(
    ("key", "fields", "reason"),
    [
        (KEY, {"partner_nodes_allowed": False}, FORBIDDEN),
        (KEY, {"version": "0.3.67"}, OLD),
        (KEY, {"version": ""}, UNKNOWN),
        ("", {}, NO_KEY),
    ],
)
def test_submission_that_no_backend_may_pay_for_is_refused(
    api: Api,
    sims: SimulatorThread,
    make_backend: Made,
    settings: Settings,
    key: str,
    fields: dict[str, Any],
    reason: str,
    count: int | None,
) -> None:
    settings.DIRECTOR_COMFY_ORG_API_KEY = key
    make_backend(
        "gpu-1", url=sims.url, **{"version": "0.33.0", "partner_nodes_allowed": True, **fields}
    )
    refused = error_of(
        api.post("/api/job-group", submission(partner(), count, "gpu-1")), 400, "no_online_backends"
    )
    assert refused["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    assert not JobGroup.objects.exists()
    checked = api.post("/api/workflows/check", {"workflow_json": partner()}).json()["backends"]
    assert [(one["can_run"], one["reasons"][0]["message"]) for one in checked] == [(False, reason)]
    assert api.post("/api/workflows/check", {"workflow_json": picture()}).json()["can_run"] == 1
    # The confirmation of a backend is shown with the reason why it has no effect.
    shown = api.get("/api/backends/gpu-1").json()
    assert (reason in shown["limitations"]) is shown["partner_nodes_allowed"]


def test_no_tag_stands_for_the_confirmation(api: Api, gpus: list[str]) -> None:
    body = submission(picture(), 1, "gpu-2") | {"required_capabilities": ["partner-nodes"]}
    refused = error_of(api.post("/api/job-group", body), 400, "no_online_backends")
    assert [one["reason"] for one in refused["skipped_backends"]] == [FORBIDDEN]


def test_workflow_of_a_silent_backend_is_left_to_the_runner(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    assert api.post("/api/job-group", submission(partner(), None, "gpu-1")).status_code == 201
    assert JobGroup.objects.get().uses_partner_nodes is None


def test_confirmation_is_changed_and_lifts_exclusions(api: Api, make_backend: Made) -> None:
    path = f"/api/backends/{make_backend('gpu-1').id}"
    assert api.get(path).json()["partner_nodes_allowed"] is False
    Exclusion.objects.create(
        backend_id="gpu-1", workflow_digest="a", kind="missing", since=now(), last_at=now()
    )
    assert api.patch(path, {"partner_nodes_allowed": True}).json()["partner_nodes_allowed"] is True
    assert not Exclusion.objects.exists()
    assert api.patch(path, {"name": "Attic"}).json()["partner_nodes_allowed"] is True
    assert (
        api.patch(path, {"partner_nodes_allowed": False}).json()["partner_nodes_allowed"] is False
    )
    assert list(wrong_fields(api.patch(path, {"partner_nodes_allowed": "yes"}))) == [
        "partner_nodes_allowed"
    ]


def test_another_address_is_not_confirmed(api: Api, make_backend: Made) -> None:
    path = f"/api/backends/{make_backend('gpu-1', partner_nodes_allowed=True).id}"
    moved = api.patch(path, {"url": "http://gpu.invalid:9001"}).json()
    assert moved["partner_nodes_allowed"] is False
    moved = api.patch(
        path, {"url": "http://gpu.invalid:9002", "partner_nodes_allowed": True}
    ).json()
    assert moved["partner_nodes_allowed"] is True


def test_confirmation_of_extensions_is_changed_recorded_and_ends_with_the_address(
    api: Api, make_backend: Made
) -> None:
    path = f"/api/backends/{make_backend('gpu-1').id}"
    assert api.get(path).json()["extensions_allowed"] is False
    assert api.patch(path, {"extensions_allowed": True}).json()["extensions_allowed"] is True
    details = json.loads(AuditEntry.objects.latest("id").details_json)
    assert details == {"fields": ["extensions_allowed"], "extensions_allowed": True}
    assert list(wrong_fields(api.patch(path, {"extensions_allowed": 1}))) == ["extensions_allowed"]
    moved = api.patch(path, {"url": "http://gpu.invalid:9001"}).json()
    assert moved["extensions_allowed"] is False
