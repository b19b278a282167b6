"""Prompts of many megabytes at the ComfyUI listener: admitted to 100 MiB, one at a time on a
machine.
"""

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends.simulator.audit_log import Entry
from tests.e2e.test_comfyui_listener import Listener
from tests.harness.graphs import text_to_image
from tests.harness.processes import Served
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

pytestmark = pytest.mark.timeout(600)
MIB = 2**20


@pytest.fixture
def machine() -> Iterator[SimulatorThread]:
    with SimulatorThread(name="gpu-1", version="0.33.0", seconds=0.2) as machine:
        yield machine


@pytest.fixture
def listener(tmp_path: Path, machine: SimulatorThread) -> Iterator[Listener]:
    served = Served(tmp_path, [machine.url], arguments=("--port", "0", "--comfyui-port", "0"))
    try:
        served.wait_ready()
        served.wait_online()
        yield Listener(served)
    finally:
        served.close()


def body(megabytes: float, seed: int = 1) -> bytes:
    """Return a prompt with a mask as a text."""
    graph = text_to_image(seed)
    graph["3"]["inputs"]["mask"] = "A" * int(megabytes * MIB)
    fields = {"prompt": graph, "prompt_id": str(uuid.UUID(int=seed))}
    return json.dumps(fields).encode()


def ended(listener: Listener, prompt_id: str) -> Any:
    entry = until(lambda: listener.get(f"/history/{prompt_id}").json().get(prompt_id), within=180.0)
    return entry["status"]["status_str"]


def test_prompt_of_99_mib_is_rendered_and_one_of_101_is_refused(listener: Listener) -> None:
    refused = listener.post("/prompt", content=body(101))
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    accepted = listener.post("/prompt", content=body(99))
    assert accepted.status_code == 200, accepted.text
    assert ended(listener, accepted.json()["prompt_id"]) == "success"


def test_machine_has_one_large_prompt_at_a_time(
    listener: Listener, machine: SimulatorThread
) -> None:
    of_backend = f"/api/backends/localhost_{machine[0].port}"
    listener.served.ask("POST", f"{of_backend}/pause", json={}).raise_for_status()
    ids = []
    for seed in (1, 2, 3):
        answer = listener.post("/prompt", content=body(9 if seed < 3 else 0, seed))
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["prompt_id"])
    listener.served.ask("POST", f"{of_backend}/resume", json={}).raise_for_status()
    assert [ended(listener, prompt_id) for prompt_id in ids] == ["success"] * 3

    async def entries() -> list[Entry]:
        return list(machine[0].audit_log.entries)

    order = [
        entry["kind"] for entry in machine.call(entries()) if entry["kind"] in ("accepted", "ended")
    ]
    assert order[:4] == ["accepted", "ended", "accepted", "ended"]


def test_large_bodies_are_bounded_in_number(listener: Listener) -> None:
    address = urlsplit(listener.url)
    head = (
        f"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {50 * MIB}\r\n\r\n{{"
    ).encode()

    def ask() -> socket.socket:
        one = socket.create_connection((address.hostname or "", address.port or 0), timeout=20)
        one.sendall(head)
        return one

    def refusal(one: socket.socket) -> http.client.HTTPResponse:
        answer = http.client.HTTPResponse(one)
        answer.begin()
        return answer

    with ExitStack() as stack:
        waiting = [stack.enter_context(ask()) for _ in range(4)]
        answer = refusal(stack.enter_context(ask()))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        # A small one has its place.
        assert listener.post("/prompt", content=body(0)).status_code == 200
        waiting[0].close()

        def is_admitted() -> bool:
            one = stack.enter_context(ask())
            one.settimeout(2.0)
            try:
                return one.recv(1) == b""
            except TimeoutError:
                return True

        until(is_admitted, within=30.0)
