"""The ComfyUI listener of a real ``serve`` over simulated machines, as programs of ComfyUI use it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.graphs import text_to_image
from tests.harness.processes import Served
from tests.harness.simulator_thread import SimulatorThread


class Listener:
    """A ``serve`` with the listener, and requests to it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.url = served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=30.0, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", trust_env=False, timeout=30.0, **options)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with SimulatorThread(name="gpu-1", seconds=0.2) as machine:
        arguments = ("--port", "0", "--comfyui-port", "0")
        served = Served(tmp_path, [machine.url], arguments=arguments)
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
