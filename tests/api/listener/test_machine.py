"""What the ComfyUI listener says of the farm as one machine."""

from typing import Any

import pytest
from django.test import Client

from backends import services
from jobgroups.domain.clock import now
from tests.api.conftest import LATER

pytestmark = [pytest.mark.django_db, pytest.mark.urls("jobgroups.api.listener.urls")]

GIB = 2**30


def machine(backend_id: str, version: str, **device: Any) -> None:
    row = services.backend_create(url=f"http://{backend_id}.invalid:8188", backend_id=backend_id)
    services.backend_observed(
        backend_id=row.id,
        reachable=True,
        version=version,
        devices=[device],
        reason="",
        seen_at=now() + LATER,
    )


@pytest.mark.parametrize("path", ["/system_stats", "/api/system_stats"])
def test_system_stats_have_every_device_and_the_oldest_version(client: Client, path: str) -> None:
    machine("small", "0.33.0", name="cpu", vram_total=16 * GIB, vram_free=8 * GIB)
    machine("large", "0.3.64", name="cuda:0 NVIDIA L40S", vram_total=48 * GIB, vram_free=GIB)
    machine("odd", "nightly", name="mps", vram_total=24 * GIB, vram_free=GIB)
    stats = client.get(path).json()
    assert stats["system"]["comfyui_version"] == "0.3.64"
    shown = [(device["name"], device["type"], device["vram_total"]) for device in stats["devices"]]
    assert shown == [
        ("cuda:0 NVIDIA L40S", "cuda", 48 * GIB),
        ("mps", "mps", 24 * GIB),
        ("cpu", "cpu", 16 * GIB),
    ]


def test_system_stats_without_a_machine_have_a_device_without_memory(client: Client) -> None:
    stats = client.get("/system_stats").json()
    assert stats["system"]["comfyui_version"] is None
    assert [(one["type"], one["vram_total"]) for one in stats["devices"]] == [("cpu", 0)]


def test_features_name_only_what_is_served(client: Client) -> None:
    features = client.get("/features").json()
    assert features.pop("max_upload_size") > 2**20
    assert features == {
        "supports_preview_metadata": True,
        "assets": False,
        "node_replacements": False,
    }


def test_free_changes_nothing(client: Client) -> None:
    body = {"unload_models": True, "free_memory": True}
    answer = client.post("/free", body, content_type="application/json")
    assert (answer.status_code, answer.content) == (200, b"")
