"""/api/health: each check, and what the whole is."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from typing import Any

import pytest
from django.db import OperationalError
from pytest_django import Settings

from backends.services import backend_observed
from director import __version__
from director.web import health
from jobgroups.domain.clock import now
from jobgroups.models import Runner
from jobgroups.services import runners
from tests.api.bad_servers import bad_server
from tests.api.conftest import Api, Made

# The database is asked by a thread of its own, which sees what was committed.
pytestmark = pytest.mark.django_db(transaction=True)


def _health(api: Api, status: int) -> dict[str, Any]:
    answer = api.get("/api/health")
    assert answer.status_code == status, answer.content
    body: dict[str, Any] = answer.json()
    assert list(body["checks"]) == ["database", "channel_layer", "runner", "backends"]
    for check in body["checks"].values():
        assert set(check) == {"status", "detail"}
    return body


def _states(body: dict[str, Any]) -> list[str]:
    return [body["status"], *(check["status"] for check in body["checks"].values())]


def test_health_is_ok_with_a_runner_and_online_backends(api: Api, farm: list[str]) -> None:
    body = _health(api, 200)
    assert body["version"] == __version__
    assert _states(body) == ["ok"] * 5
    assert api.get("/api/health/").json()["status"] == "ok"


def test_health_is_down_without_a_runner(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    assert _states(_health(api, 503)) == ["down", "ok", "ok", "down", "ok"]


def test_health_is_down_without_a_recent_heartbeat(api: Api, farm: list[str]) -> None:
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    body = _health(api, 503)
    assert body["checks"]["runner"]["status"] == "down"
    assert "No heartbeat since 20" in body["checks"]["runner"]["detail"]


def test_health_is_down_after_the_runner_deregistered(api: Api, farm: list[str]) -> None:
    runners.runner_stopped(name="runner-1", instance="abc")
    assert _health(api, 503)["checks"]["runner"]["detail"] == (
        "No runner is registered; `serve` or `runner` starts one."
    )


def test_health_is_degraded_where_groups_are_accepted_without_a_runner(
    api: Api, make_backend: Made, settings: Settings
) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    make_backend("gpu-1")
    assert _states(_health(api, 200)) == ["degraded", "ok", "ok", "degraded", "ok"]


def test_health_is_degraded_after_a_restart_of_the_runner(api: Api, farm: list[str]) -> None:
    runners.runner_failed(name="runner-1", error="RuntimeError: the secret is 42")
    body = _health(api, 200)
    assert _states(body) == ["degraded", "ok", "ok", "degraded", "ok"]
    assert "started again after a defect" in body["checks"]["runner"]["detail"]
    assert "secret" not in str(body)
    Runner.objects.update(last_error_at=now() - dt.timedelta(minutes=11))
    assert _health(api, 200)["status"] == "ok"


def test_offline_backend_is_named(api: Api, farm: list[str]) -> None:
    backend_observed(backend_id="gpu-2", reachable=False, reason="refused")
    body = _health(api, 200)
    assert _states(body) == ["degraded", "ok", "ok", "ok", "degraded"]
    assert body["checks"]["backends"]["detail"] == "1 of 3 does not answer: gpu-2."


def test_quarantined_backend_is_named(api: Api, farm: list[str]) -> None:
    api.post("/api/backends/gpu-3/quarantine", None)
    body = _health(api, 200)
    assert _states(body) == ["degraded", "ok", "ok", "ok", "degraded"]
    assert body["checks"]["backends"]["detail"] == "1 of 3 is quarantined: gpu-3."


def test_paused_backend_counts_neither_as_online_nor_as_offline(api: Api, farm: list[str]) -> None:
    api.post("/api/backends/gpu-1/pause", None)
    backend_observed(backend_id="gpu-1", reachable=False, reason="refused")
    body = _health(api, 200)
    assert _states(body) == ["ok"] * 5
    assert body["checks"]["backends"]["detail"] == "1 of 3 is paused: gpu-1."
    api.post("/api/backends/gpu-2/drain", None)
    backend_observed(backend_id="gpu-3", reachable=False, reason="refused")
    body = _health(api, 200)
    assert body["checks"]["backends"] == {
        "status": "degraded",
        "detail": "1 of 3 does not answer: gpu-3. 1 of 3 is paused: gpu-1."
        " 1 of 3 is being drained: gpu-2.",
    }


def test_health_is_degraded_when_all_backends_are_paused(api: Api, farm: list[str]) -> None:
    for name in farm:
        api.post(f"/api/backends/{name}/pause", None)
    assert _health(api, 200)["checks"]["backends"] == {
        "status": "degraded",
        "detail": "3 of 3 are paused: gpu-1, gpu-2, gpu-3.",
    }


def test_health_is_degraded_without_enabled_backends(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    assert _states(_health(api, 200)) == ["degraded", "ok", "ok", "ok", "degraded"]
    make_backend("off", enabled=False)
    assert _health(api, 200)["checks"]["backends"]["status"] == "degraded"


# --- the database ---------------------------------------------------------------------------------


def test_database_error_is_down_and_hides_the_other_checks(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise OperationalError("no route to db.internal")

    monkeypatch.setattr(health, "_read", away)
    body = _health(api, 503)
    assert _states(body) == ["down", "down", "ok", "down", "down"]
    assert "db.internal" not in str(body)
    assert "db.internal" in caplog.text


def test_silent_database_is_down_after_the_timeout(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.1)
    monkeypatch.setattr(health, "_read", lambda: go_on.wait(30))
    try:
        assert _health(api, 503)["checks"]["database"]["status"] == "down"
        assert _health(api, 503)["checks"]["database"]["status"] == "down"
    finally:
        go_on.set()


# --- Redis ----------------------------------------------------------------------------------------


def test_unreachable_or_silent_redis_degrades(
    api: Api, farm: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REDIS_SECONDS", 0.2)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings.DIRECTOR_REDIS_URL = f"redis://127.0.0.1:{held.getsockname()[1]}/0"
        assert _states(_health(api, 200)) == ["degraded", "ok", "degraded", "ok", "ok"]
    with bad_server("nothing") as url:
        settings.DIRECTOR_REDIS_URL = url.replace("http:", "redis:")
        assert _health(api, 200)["checks"]["channel_layer"]["status"] == "degraded"


@pytest.mark.redis
def test_health_is_ok_when_a_message_comes_back_through_redis(
    api: Api, farm: list[str], settings: Settings
) -> None:
    settings.DIRECTOR_REDIS_URL = "redis://127.0.0.1:6379/0"
    body = _health(api, 200)
    assert body["checks"]["channel_layer"]["detail"] == "A message came back through Redis."
