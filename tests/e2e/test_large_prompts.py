"""Prompts of many megabytes at the ComfyUI listener: admitted to 100 MiB, one at a time on a
machine.
"""

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
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


@pytest.fixture(scope="module")
def machine() -> Iterator[SimulatorThread]:
    with SimulatorThread(name="gpu-1", version="0.33.0", seconds=0.2) as machine:
        yield machine


@pytest.fixture(scope="module")
def listener(
    tmp_path_factory: pytest.TempPathFactory, machine: SimulatorThread
) -> Iterator[Listener]:
    folder = tmp_path_factory.mktemp("listener")
    served = Served(folder, [machine.url], arguments=("--port", "0", "--comfyui-port", "0"))
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


def ask(listener: Listener, megabytes: int) -> socket.socket:
    """Send the head of a prompt and its first byte."""
    address = urlsplit(listener.url)
    length = megabytes * MIB
    head = f"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{{"
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=20)
    connection.sendall(head.encode())
    return connection


def refusal(connection: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def test_prompt_of_101_mib_is_refused(listener: Listener) -> None:
    with ask(listener, 101) as connection:
        answer = refusal(connection)
        assert (answer.status, json.load(answer)["error"]["type"]) == (413, "payload_too_large")


@pytest.mark.slow
def test_prompt_of_99_mib_is_rendered(listener: Listener) -> None:
    accepted = listener.post("/prompt", content=body(99))
    assert accepted.status_code == 200, accepted.text
    assert ended(listener, accepted.json()["prompt_id"]) == "success"


def test_machine_has_one_large_prompt_at_a_time(
    listener: Listener, machine: SimulatorThread
) -> None:
    async def entries() -> list[Entry]:
        return list(machine[0].audit_log.entries)

    before = len(machine.call(entries()))
    of_backend = f"/api/backends/localhost_{machine[0].port}"
    listener.served.ask("POST", f"{of_backend}/pause", json={}).raise_for_status()
    ids = []
    for seed in (2, 3, 4):
        answer = listener.post("/prompt", content=body(9 if seed < 4 else 0, seed))
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["prompt_id"])
    listener.served.ask("POST", f"{of_backend}/resume", json={}).raise_for_status()
    assert [ended(listener, prompt_id) for prompt_id in ids] == ["success"] * 3
    order = [
        entry["kind"]
        for entry in machine.call(entries())[before:]
        if entry["kind"] in ("accepted", "ended")
    ]
    assert order[:4] == ["accepted", "ended", "accepted", "ended"]


def test_large_bodies_are_bounded_in_number(listener: Listener) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(ask(listener, 50)) for _ in range(4)]
        answer = refusal(stack.enter_context(ask(listener, 50)))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        # A small one has its place.
        assert listener.post("/prompt", content=body(0, seed=5)).status_code == 200
        waiting[0].close()

        def is_admitted() -> bool:
            connection = stack.enter_context(ask(listener, 50))
            connection.settimeout(2.0)
            try:
                return connection.recv(1) == b""
            except TimeoutError:
                return True

        until(is_admitted, within=30.0)
