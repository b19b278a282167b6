"""Seeds beforehand, and ComfyUIs looked at before they are registered."""

from __future__ import annotations

from typing import Any

import pytest

from backends.models import Backend
from backends.simulator import SimulatorThread
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.bad_servers import bad_server, dead_port
from tests.api.conftest import Api, Made, error_of, wrong_fields


def test_seeds_are_those_of_a_submission(db: None, api: Api, farm: list[str]) -> None:
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


@pytest.mark.django_db
def test_probe_of_a_comfyui_registers_nothing(api: Api) -> None:
    with SimulatorThread(vram_gb=24) as sims:
        said = api.post("/api/backends/test", {"url": sims.url}).json()
        known = api.post("/api/backends", {"url": sims.url, "backend_id": "mine"})
        again = api.post("/api/backends/test", {"url": sims.url}).json()
    assert said["ok"] is True
    assert said["reason"] is None
    assert said["comfyui_version"] == "0.3.64"
    assert said["devices"]
    assert said["backend_id"] is None
    assert said["url"].startswith("http://localhost:")
    assert known.status_code == 201
    assert again["backend_id"] == "mine"
    assert Backend.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("wrong", ["html", "nonsense", "redirect", "401", "hang up"])
def test_probe_returns_what_is_wrong(api: Api, wrong: str) -> None:
    with bad_server(wrong) as url:
        said = api.post("/api/backends/test", {"url": url}).json()
    assert said["ok"] is False
    assert said["reason"].endswith(".")
    assert said["comfyui_version"] is None


@pytest.mark.django_db
def test_probe_returns_that_nothing_listens(api: Api) -> None:
    with dead_port() as url:
        said = api.post("/api/backends/test", {"url": url}).json()
    assert (said["ok"], said["reason"][:13]) == (False, "No connection")


@pytest.mark.django_db
def test_malformed_address_is_refused(api: Api) -> None:
    assert set(wrong_fields(api.post("/api/backends/test", {}))) == {"url"}
    assert set(wrong_fields(api.get("/api/seeds?n=1"))) == {"n"}
    assert set(wrong_fields(api.post("/api/backends/test", {"url": "ftp://x"}))) == {"url"}
    body = {"url": "localhost:1", "headers": {"A b": "c"}}
    assert set(wrong_fields(api.post("/api/backends/test", body))) == {"headers"}


@pytest.mark.django_db
def test_local_comfyuis_are_found_and_not_registered(api: Api, settings: Any) -> None:
    with SimulatorThread(count=2) as sims, dead_port() as dead:
        ports = sorted(int(url.rsplit(":", 1)[1]) for url in sims.urls)
        api.post("/api/backends", {"url": f"localhost:{ports[1]}", "backend_id": "mine"})
        settings.DIRECTOR_DISCOVER_PORTS = [*ports, int(dead.rsplit(":", 1)[1])]
        found = api.post("/api/backends/find", None).json()["found"]
    assert [one["url"] for one in found] == [f"http://localhost:{port}" for port in ports]
    assert [one["backend_id"] for one in found] == [None, "mine"]
    assert Backend.objects.count() == 1


def test_backend_ids_test_and_find_are_allowed(make_backend: Made, api: Api) -> None:
    for name in ("test", "find"):
        make_backend(name)
        assert api.get(f"/api/backends/{name}").json()["backend_id"] == name
        assert api.patch(f"/api/backends/{name}", {"name": "N"}).json()["name"] == "N"
        assert api.delete(f"/api/backends/{name}").status_code == 204
    error_of(api.post("/api/backends/other", {}), 405, "method_not_allowed")
