"""The ComfyUI listener of a real ``serve`` over simulated machines, as programs of ComfyUI use it."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.comfyui.probe import attempt_all
from tests.harness.graphs import text_to_image
from tests.harness.processes import Served, refused
from tests.harness.servers import free_port
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import NO_TLS


class Listener:
    """A ``serve`` with the listener, and requests to it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.url = served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._ask("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._ask("POST", path, **options)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = f"{self.url}{path}"
        return httpx.request(method, url, trust_env=False, verify=NO_TLS, timeout=30.0, **options)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with SimulatorThread(name="gpu-1", seconds=0.2) as machine:
        arguments = ("--port", "0", "--comfyui-port", "0")
        served = Served(tmp_path_factory.mktemp("listener"), [machine.url], arguments=arguments)
        try:
            served.wait_ready()
            served.wait_online()
            yield Listener(served)
        finally:
            served.close()


def test_a_prompt_is_a_group_that_keeps_its_id_and_runs_once(listener: Listener) -> None:
    prompt_id = str(uuid.uuid4())
    body = {"prompt": text_to_image(seed=5), "prompt_id": prompt_id, "client_id": "krita"}
    # Scripts send JSON without a media type.
    answer = listener.post("/prompt", content=httpx.Request("POST", "http://a", json=body).content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["prompt_id"] == prompt_id
    assert answer.json()["node_errors"] == {}
    again = listener.post("/api/prompt", json=body)
    assert again.json() == answer.json()
    other = listener.post("/prompt", json={**body, "client_id": "another"})
    assert (other.status_code, other.json()["error"]["type"]) == (400, "prompt_id_conflict")
    (group,) = listener.served.ask("GET", "/api/job-groups").json()["results"]
    ended = listener.served.wait_ended(group["job_group_id"])
    assert ended["status"] == "completed"
    assert listener.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}}


def test_a_listener_becomes_no_backend(listener: Listener) -> None:
    served, url = listener.served, listener.url
    stats = listener.get("/system_stats").json()
    assert stats["system"]["director_version"]
    assert stats["devices"][0]["vram_total"] > 0
    sentence = "A Director answers at this address, not a ComfyUI."
    tested = served.ask("POST", "/api/backends/test", json={"url": url}).json()
    assert not tested["ok"]
    assert tested["reason"].startswith(sentence)
    added = served.ask("POST", "/api/backends", json={"url": url})
    (row,) = served.ask("GET", "/api/backends").json()["backends"]
    changed = served.ask("PATCH", f"/api/backends/{row['backend_id']}", json={"url": url})
    for answer in (added, changed):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "url")
        assert answer.json()["errors"][0]["message"].startswith(sentence)
    assert served.ask("GET", "/api/backends").json()["backends"][0]["url"] == row["url"]
    # Discovery adopts what answers with ``SystemStats``.
    found = asyncio.run(attempt_all([url], timeout=5.0))
    assert str(found[url]).startswith(sentence)


def check_refused(folder: Path, url: str) -> None:
    words = ("serve", "--port", "0", "--processes", "1")
    printed = refused(folder, *words, DIRECTOR_BACKENDS=f"localhost:9,{url}")
    assert "DIRECTOR_BACKENDS: url: Address 2: A Director answers at this address" in printed


def test_a_start_with_the_listener_of_another_director_as_backend_is_refused(
    listener: Listener, tmp_path: Path
) -> None:
    check_refused(tmp_path, listener.url)


def test_a_start_with_a_listener_that_needs_a_token_as_backend_is_refused(tmp_path: Path) -> None:
    arguments = ("--port", "0", "--comfyui-port", "0")
    token = {"DIRECTOR_TOKEN": "a-token-of-24-characters"}
    other = Served(tmp_path / "other", arguments=arguments, environment=token)
    try:
        check_refused(tmp_path, Listener(other).url)
    finally:
        other.close()


def test_a_start_with_its_own_listener_as_backend_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    words = ("serve", "--port", "0", "--comfyui-port", port, "--processes", "1")
    printed = refused(tmp_path, *words, DIRECTOR_BACKENDS=f"http://127.0.0.1:{port}")
    assert "It is the ComfyUI listener of this Director" in printed


def test_a_file_of_the_editor_may_be_larger_than_a_body_of_the_api(listener: Listener) -> None:
    for size, status in ((20 * 2**20, 200), (20 * 2**20 + 1, 413), (100 * 2**20, 413)):
        answer = listener.post("/api/userdata/workflows%2Flarge.json", content=b" " * size)
        assert answer.status_code == status, answer.text
