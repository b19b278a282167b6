"""``/metrics``: who gets it, and what it reads of the database."""

import contextlib
import datetime as dt
import socket
from typing import Any

import httpx
import pytest
from django.db import OperationalError
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from director.security import sign_in
from director.server import metrics as server
from director.web import metrics
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState
from jobgroups.models import Capture, ChildJob
from tests.api.conftest import Api, play, play_to_the_end
from tests.harness.servers import free_port
from tests.harness.waits import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_KEPT_SECONDS", -1.0)


def _gauges(answer: Any) -> dict[tuple[str, ...], float]:
    assert answer.status_code == 200, answer.content
    families = text_string_to_metric_families(answer.content.decode())
    samples = [
        one for family in families for one in family.samples if one.name.startswith("director_")
    ]
    return {
        (one.name.removeprefix("director_"), *one.labels.values()): one.value for one in samples
    }


def test_gauges_show_queue_prompts_and_states(api: Api, farm: list[str]) -> None:
    api.submit("gpu-1", "gpu-1", "gpu-2")
    api.submit("*", count=2)
    play("gpu-1")
    ChildJob.objects.filter(backend="gpu-2").update(queued_at=now() - dt.timedelta(hours=1))
    api.post("/api/backends/gpu-3/pause", None)
    found = _gauges(api.get("/metrics"))
    assert (found["queued_jobs", "pool"], found["queued_jobs", "bound"]) == (2, 2)
    assert 3_600 <= found["oldest_queued_seconds", "bound"] < 3_700
    assert 0 <= found["oldest_queued_seconds", "pool"] < 100
    assert found["backend_prompts", "gpu-1", "running"] == 1
    assert found["backend_queued_jobs", "gpu-1"] == found["backend_queued_jobs", "gpu-2"] == 1
    assert found["backend_state", "gpu-3", "paused"] == found["backend_state", "gpu-1", "busy"] == 1
    assert (found["backends", "online"], found["backends", "offline"]) == (1, 0)
    assert (found["open_groups", "running"], found["runners",], found["database_up",]) == (2, 1, 1)


def test_queued_jobs_of_a_partly_completed_group_are_counted(api: Api, farm: list[str]) -> None:
    api.submit(*["gpu-1"] * 4)
    play_to_the_end("gpu-1")
    play_to_the_end("gpu-1", AttemptState.ERROR)
    found = _gauges(api.get("/metrics"))
    assert (found["queued_jobs", "bound"], found["backend_queued_jobs", "gpu-1"]) == (2, 2)
    assert 0 <= found["oldest_due_capture_seconds",] < 100
    Capture.objects.update(due_at=now() - dt.timedelta(hours=1))
    assert 3_600 <= _gauges(api.get("/metrics"))["oldest_due_capture_seconds",] < 3_700
    assert (found["open_groups", "partial_complete"], found["open_groups", "running"]) == (1, 0)


def test_metrics_need_the_token(api: Api, settings: Settings) -> None:
    settings.DIRECTOR_TOKEN = "a-token-of-sixteen"
    assert api.get("/metrics").json()["code"] == "sign_in_required"
    assert _gauges(api.get("/metrics", authorization="Bearer a-token-of-sixteen"))


def test_metrics_without_a_database_show_that(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError("no route to db.internal")

    monkeypatch.setattr(metrics, "farm_gauges", away)
    answer = api.get("/metrics")
    assert _gauges(answer)["database_up",] == 0
    assert b"queued_jobs" not in answer.content


# --- the address of a runner
# -------------------------------------------------------------------------------------


def _answer(address: str, token: str = "") -> int:
    """Return the status of the answer of a runner's address; 0: it closed the connection."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address, headers=headers, trust_env=False, timeout=30).status_code
    return 0


def test_address_of_a_runner_has_few_connections_and_counts_wrong_tokens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sign_in, "throttle", sign_in.Throttle())
    monkeypatch.setattr(server._Handler, "timeout", 60.0)
    settings.DIRECTOR_TOKEN = "a-token-of-sixteen"
    port = free_port()
    server.serve_metrics("127.0.0.1", port)
    address = f"http://127.0.0.1:{port}/metrics"
    assert [_answer(address, token) for token in ("", settings.DIRECTOR_TOKEN)] == [401, 200]
    with contextlib.ExitStack() as stack:
        for _ in range(server._MOST):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            silent.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        until(lambda: _answer(address, settings.DIRECTOR_TOKEN) == 0, within=20.0)
    until(lambda: _answer(address, settings.DIRECTOR_TOKEN) == 200)
    for number in range(sign_in.ALLOWED):
        assert _answer(address, f"wrong-{number}") == 401
    assert _answer(address, settings.DIRECTOR_TOKEN) == 401
    assert "Traceback" not in capfd.readouterr().err
