import asyncio
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from backends.services import backend_observed
from director import __version__
from director.asgi import application
from director.web import health, probes
from jobgroups.domain.clock import now
from jobgroups.models import Capture, FilesProcess, Runner
from jobgroups.queries.metrics import farm_gauges
from jobgroups.queries.outputs import oldest_due_capture
from jobgroups.services import runners, stored_files
from jobgroups.services.files_processes import files_end, files_heartbeat
from tests.api.bad_servers import bad_server, dead_port
from tests.api.conftest import Api, Made, asgi_answer, play_to_the_end

# The database is asked by a thread of its own, which sees what was committed.
pytestmark = pytest.mark.django_db(transaction=True)


def _health(api: Api, status: int) -> dict[str, Any]:
    answer = api.get("/api/health")
    assert answer.status_code == status, answer.content
    body: dict[str, Any] = answer.json()
    names = ["database", "channel_layer", "runner", "backends", "captures", "storage", "processes"]
    assert list(body["checks"]) == names
    for check in body["checks"].values():
        assert set(check) == {"status", "detail"}
    return body


def _states(body: dict[str, Any]) -> list[str]:
    return [body["status"], *(check["status"] for check in body["checks"].values())]


def test_health_is_ok_with_a_runner_and_online_backends(api: Api, farm: list[str]) -> None:
    body = _health(api, 200)
    assert body["version"] == __version__
    assert _states(body) == ["ok"] * 8
    assert api.get("/api/health/").json()["status"] == "ok"


OK, WORSE, DOWN = "ok", "degraded", "down"


def test_backends_that_take_no_jobs_are_named(api: Api, farm: list[str]) -> None:
    for backend_id, hold in (("gpu-1", "pause"), ("gpu-2", "drain")):
        api.post(f"/api/backends/{backend_id}/{hold}", None)
    for backend_id in ("gpu-1", "gpu-3"):
        backend_observed(backend_id=backend_id, reachable=False, reason="refused")
    body = _health(api, 200)
    assert _states(body) == [WORSE, OK, OK, OK, WORSE, OK, OK, OK]
    away, held = "1 of 3 does not answer: gpu-3.", "1 of 3 is paused: gpu-1."
    drained = "1 of 3 is being drained: gpu-2."
    assert body["checks"]["backends"]["detail"] == f"{away} {held} {drained}"


def test_backends_are_degraded_when_all_are_paused() -> None:
    runner, backends = Runner(heartbeat_at=now()), dict.fromkeys(["gpu-1", "gpu-2"], "paused")
    check = health.backends_check(health.HealthReport([runner], now(), backends))
    assert (check.status, check.detail) == (WORSE, "2 of 2 are paused: gpu-1, gpu-2.")


def test_health_is_degraded_without_enabled_backends(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    assert _states(_health(api, 200)) == [WORSE, OK, OK, OK, WORSE, OK, OK, OK]
    make_backend("off", enabled=False)
    assert _health(api, 200)["checks"]["backends"]["status"] == WORSE


@pytest.mark.parametrize("accepted", [False, True])
def test_health_is_down_without_a_runner(
    api: Api, make_backend: Made, settings: Settings, accepted: bool
) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = accepted
    make_backend("gpu-1")
    status = WORSE if accepted else DOWN
    assert _states(_health(api, 200 if accepted else 503)) == [
        status,
        OK,
        OK,
        status,
        WORSE,
        OK,
        OK,
        OK,
    ]


def test_health_is_down_without_a_recent_heartbeat(api: Api, farm: list[str]) -> None:
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    checks = _health(api, 503)["checks"]
    check = checks["runner"]
    assert (check["status"], "No heartbeat since 20" in check["detail"]) == (DOWN, True)
    # They may answer all the same.
    assert "no runner probes them" in checks["backends"]["detail"]


def test_health_is_down_while_the_database_refuses_writes(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "is_read_only", lambda: True)
    body = _health(api, 503)
    assert _states(body) == [DOWN, DOWN, OK, DOWN, DOWN, DOWN, OK, OK]
    assert "refuses writes: nothing is stored" in body["checks"]["database"]["detail"]
    assert "DIRECTOR_DATABASE_URL to the primary" in body["checks"]["database"]["detail"]
    # What was stored last proves nothing.
    assert "Unknown" in body["checks"]["runner"]["detail"]
    assert not health.is_ready()


def test_health_is_degraded_after_a_restart_of_the_runner(api: Api, farm: list[str]) -> None:
    runners.runner_failed(name="runner-1", error="RuntimeError: the secret is 42")
    body = _health(api, 200)
    assert _states(body) == ["degraded", "ok", "ok", "degraded", "ok", "ok", "ok", "ok"]
    assert "restarted after an unexpected error" in body["checks"]["runner"]["detail"]
    assert "secret" not in str(body)
    Runner.objects.update(last_error_at=now() - dt.timedelta(minutes=11))
    assert _health(api, 200)["status"] == "ok"


def test_health_is_degraded_while_the_disk_is_almost_full(
    api: Api, farm: list[str], settings: Settings
) -> None:
    settings.DIRECTOR_MIN_FREE_BYTES = 2**60
    check = _health(api, 200)["checks"]["storage"]
    assert (check["status"], "outputs are not copied" in check["detail"]) == (WORSE, True)
    refused = api.ask("POST", "/api/assets", b"", content_type="multipart/form-data; boundary=x")
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
    assert "DIRECTOR_MIN_FREE_BYTES" in refused.json()["detail"]


def test_health_is_degraded_while_an_output_is_not_copied_for_long(
    api: Api, farm: list[str]
) -> None:
    api.submit("gpu-1")
    play_to_the_end("gpu-1")
    capture = Capture.objects.get()
    for minutes, status in ((9, OK), (11, WORSE), (-1, OK)):
        Capture.objects.update(due_at=now() - dt.timedelta(minutes=minutes))
        assert _health(api, 200)["checks"]["captures"]["status"] == status
    assert oldest_due_capture() is None  # a pause before the next try
    Capture.objects.update(tries=3)
    detail = _health(api, 200)["checks"]["captures"]["detail"]
    assert detail == "1 output could not be copied and is tried again."
    Capture.objects.update(due_at=capture.due_at)
    seconds, backend_id = oldest_due_capture() or (-1.0, "")
    assert (0 <= seconds < 100, backend_id) == (True, "gpu-1")


def test_health_and_metrics_show_the_processes_of_files(
    api: Api, farm: list[str], files_folder: Path, settings: Settings
) -> None:
    for instance in ("a", "b"):
        files_heartbeat(instance=instance, version=settings.DIRECTOR_VERSION)
    captures = _health(api, 200)["checks"]["captures"]
    assert captures == {
        "status": OK,
        "detail": "No output waits to be copied. Alive processes of `files`: 2.",
    }
    assert farm_gauges()["files_processes"] == {(): 2}
    FilesProcess.objects.filter(pk="a").update(started_at=now() - dt.timedelta(minutes=2))
    storage = _health(api, 503)["checks"]["storage"]
    assert (storage["status"], FilesProcess.objects.get(pk="a").name in storage["detail"]) == (
        DOWN,
        True,
    )
    FilesProcess.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    captures = _health(api, 200)["checks"]["captures"]
    assert (captures["status"], captures["detail"].endswith("; the runners copy outputs.")) == (
        WORSE,
        True,
    )
    assert farm_gauges()["files_processes"] == {(): 0}
    for instance in ("a", "b"):
        files_end(instance=instance)
    assert _health(api, 200)["status"] == OK


def test_health_is_degraded_while_nothing_that_copies_outputs_is_alive(
    api: Api, farm: list[str], settings: Settings
) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    api.submit("gpu-1")
    play_to_the_end("gpu-1")
    Runner.objects.update(stopped_at=now())
    captures = _health(api, 200)["checks"]["captures"]
    assert (
        captures["status"],
        "Neither a runner nor a process of `files` is alive" in captures["detail"],
    ) == (WORSE, True)


def test_health_is_down_while_a_runner_uses_another_storage(
    api: Api, farm: list[str], files_folder: Path, settings: Settings
) -> None:
    Runner.objects.update(
        started_at=now() - dt.timedelta(minutes=2), version=settings.DIRECTOR_VERSION
    )
    runner = Runner.objects.get()
    stored_files.marker_write(runner=runner.name, instance="of an earlier start")
    check = _health(api, 503)["checks"]["storage"]
    assert (check["status"], runner.name in check["detail"]) == (DOWN, True)
    stored_files.marker_write(runner=runner.name, instance=runner.instance)
    assert _health(api, 200)["status"] == OK


def test_database_error_is_down_and_hides_the_other_checks(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise OperationalError("no route to db.internal")

    monkeypatch.setattr(health, "_read", away)
    body = _health(api, 503)
    assert _states(body) == ["down", "down", "ok", "down", "down", "down", "ok", "ok"]
    assert "db.internal" not in str(body)
    assert "db.internal" in caplog.text


@pytest.fixture
def silent_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    go_on = threading.Event()
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.1)
    monkeypatch.setattr(health, "_read", lambda: go_on.wait(30))
    yield
    go_on.set()


def test_silent_database_is_down_after_the_timeout(api: Api, silent_database: None) -> None:
    for _ in range(2):
        assert _health(api, 503)["checks"]["database"]["status"] == "down"


def test_unreachable_or_silent_redis_degrades(
    api: Api, farm: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REDIS_SECONDS", 0.2)
    with dead_port() as url:
        settings.DIRECTOR_REDIS_URL = url.replace("http:", "redis:")
        assert _states(_health(api, 200)) == [
            "degraded",
            "ok",
            "degraded",
            "ok",
            "ok",
            "ok",
            "ok",
            "ok",
        ]
    with bad_server("nothing") as url:
        settings.DIRECTOR_REDIS_URL = url.replace("http:", "redis:")
        assert _health(api, 200)["checks"]["channel_layer"]["status"] == "degraded"


@pytest.mark.redis
def test_health_is_ok_when_a_message_comes_back_through_redis(
    api: Api, farm: list[str], settings: Settings
) -> None:
    settings.DIRECTOR_REDIS_URL = "redis://127.0.0.1:6379/0"
    body = _health(api, 200)
    assert body["checks"]["channel_layer"]["detail"] == "A message was received through Redis."


READY, UNAVAILABLE = (200, b'{"status":"ok"}'), (503, b'{"status":"unavailable"}')


def _probed(path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bytes]:
    """Return status and body for a client without the token, at an address that is no allowed host."""
    monkeypatch.setattr(probes, "_ready", health.SharedCheck(health.is_ready))
    monkeypatch.setattr(health, "_has_tables", threading.Event())
    status, _, body = asyncio.run(
        asgi_answer(application, "GET", path, None, {"host": "10.0.0.7:9820"})
    )
    return status, body


def test_probes_need_no_token_and_show_no_details(
    runner: Runner, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DIRECTOR_TOKEN = "a-token-of-sixteen"
    assert [_probed(path, monkeypatch) for path in ("/healthz", "/readyz")] == [READY, READY]
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    assert [_probed(path, monkeypatch) for path in ("/healthz", "/readyz")] == [READY, UNAVAILABLE]


def test_process_is_not_ready_without_the_tables_of_its_version(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = MigrationRecorder.Migration.objects.filter(app="jobgroups").order_by("name").last()
    assert newest is not None
    newest.delete()
    try:
        assert _probed("/readyz", monkeypatch) == UNAVAILABLE
    finally:
        newest.save(force_insert=True)
    assert _probed("/readyz", monkeypatch) == READY


def test_process_is_not_ready_while_the_database_is_silent(
    runner: Runner, silent_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [_probed(path, monkeypatch) for path in ("/healthz", "/readyz")] == [READY, UNAVAILABLE]
