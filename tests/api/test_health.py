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


OK, WORSE, DOWN = "ok", "degraded", "down"


def _offline(backend_id: str) -> None:
    backend_observed(backend_id=backend_id, reachable=False, reason="refused")


@pytest.mark.parametrize(
    ("held", "offline", "status", "detail"),
    [
        ({}, ["gpu-2"], WORSE, "1 of 3 does not answer: gpu-2."),
        ({"gpu-3": "quarantine"}, [], WORSE, "1 of 3 is quarantined: gpu-3."),
        ({"gpu-1": "pause"}, ["gpu-1"], OK, "1 of 3 is paused: gpu-1."),
        (
            {"gpu-1": "pause", "gpu-2": "drain"},
            ["gpu-1", "gpu-3"],
            WORSE,
            "1 of 3 does not answer: gpu-3. 1 of 3 is paused: gpu-1. 1 of 3 is being drained: gpu-2.",
        ),
        (dict.fromkeys(["gpu-1", "gpu-2", "gpu-3"], "pause"), [], WORSE, "3 of 3 are paused: gpu-1, gpu-2, gpu-3."),
    ],
)
def test_backends_that_take_no_jobs_are_named(
    api: Api, farm: list[str], held: dict[str, str], offline: list[str], status: str, detail: str
) -> None:
    for backend_id, hold in held.items():
        api.post(f"/api/backends/{backend_id}/{hold}", None)
    for backend_id in offline:
        _offline(backend_id)
    body = _health(api, 200)
    assert _states(body) == [status, OK, OK, OK, status]
    assert body["checks"]["backends"]["detail"] == detail


def test_health_is_degraded_without_enabled_backends(api: Api, runner: Runner, make_backend: Made) -> None:
    assert _states(_health(api, 200)) == [WORSE, OK, OK, OK, WORSE]
    make_backend("off", enabled=False)
    assert _health(api, 200)["checks"]["backends"]["status"] == WORSE


@pytest.mark.parametrize("accepted", [False, True])
def test_health_is_down_without_a_runner(api: Api, make_backend: Made, settings: Settings, accepted: bool) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = accepted
    make_backend("gpu-1")
    status = WORSE if accepted else DOWN
    assert _states(_health(api, 200 if accepted else 503)) == [status, OK, OK, status, OK]


def test_health_is_down_without_a_recent_heartbeat(api: Api, farm: list[str]) -> None:
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    check = _health(api, 503)["checks"]["runner"]
    assert check["status"] == DOWN
    assert "No heartbeat since 20" in check["detail"]
    Runner.objects.all().delete()
    assert _health(api, 503)["checks"]["runner"]["detail"] == (
        "No runner is registered; start one with `serve` or `runner`."
    )


def test_health_is_degraded_after_a_restart_of_the_runner(api: Api, farm: list[str]) -> None:
    runners.runner_failed(name="runner-1", error="RuntimeError: the secret is 42")
    body = _health(api, 200)
    assert _states(body) == ["degraded", "ok", "ok", "degraded", "ok"]
    assert "restarted after an unexpected error" in body["checks"]["runner"]["detail"]
    assert "secret" not in str(body)
    Runner.objects.update(last_error_at=now() - dt.timedelta(minutes=11))
    assert _health(api, 200)["status"] == "ok"


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


def test_silent_database_is_down_after_the_timeout(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_health_is_ok_when_a_message_comes_back_through_redis(api: Api, farm: list[str], settings: Settings) -> None:
    settings.DIRECTOR_REDIS_URL = "redis://127.0.0.1:6379/0"
    body = _health(api, 200)
    assert body["checks"]["channel_layer"]["detail"] == "A message was received through Redis."
