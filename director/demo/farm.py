"""The demo's farm: starts three simulated ComfyUIs and a Director, injects faults, reads audit logs."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from director.client import AsyncDirector
from director.demo.audit_log import Entry
from director.demo.processes import Processes, ProcessFailed
from director.server import listen

BACKENDS: Final = 3
#: The Director's default port. Another Director may already use it.
_USUAL_PORT: Final = 9820
_DIRECTOR: Final = "Director"
_SIMULATORS_READY: Final = re.compile(r'^\{.*"urls".*\}')
_DIRECTOR_READY: Final = re.compile(r"Director is ready at (?P<url>http://\S+)")
_ANSWER_WITHIN_S: Final = 10.0
#: Fault: the next prompt fails with the error of a GPU that is out of memory.
OUT_OF_MEMORY: Final = {
    "name": "node_error",
    "type": "torch.OutOfMemoryError",
    "message": "CUDA out of memory",
    "step": 8,
}


@dataclass(frozen=True, slots=True)
class Farm:
    """Addresses of the running processes.

    Attributes:
        url: the Director's address.
        simulators: address of each simulated ComfyUI by its name. The name is also its backend id.
    """

    url: str
    simulators: Mapping[str, str]


async def start(processes: Processes, *, folder: Path, seconds: float) -> Farm:
    """Start the simulators, all in one process, and a Director without backends.

    Args:
        processes: ends both processes.
        folder: for the simulators' output.
        seconds: duration of a simulated prompt.

    Raises:
        ProcessFailed: a process did not start.
    """
    simulate = ["simulate", "--json", "--port", "0", "--count", str(BACKENDS), "--name", "gpu"]
    simulate += ["--seconds", str(seconds), "--output-dir", str(folder / "comfyui")]
    ready = await processes.start("Simulators", simulate, ready=_SIMULATORS_READY)
    addresses = json.loads(ready.group())
    return Farm(
        url=await _start_director(processes, _port()),
        simulators=dict(zip(addresses["names"], addresses["urls"], strict=True)),
    )


def _port() -> int:
    """Return the Director's default port, or 0 (any free port) if it is in use."""
    try:
        return listen.listen_addresses("localhost", _USUAL_PORT)[0].port
    except listen.CannotListen:
        return 0


async def _start_director(processes: Processes, port: int) -> str:
    serve = ["serve", "--port", str(port)]
    return (await processes.start(_DIRECTOR, serve, ready=_DIRECTOR_READY))["url"]


async def kill_director(processes: Processes) -> None:
    """Kill the Director without an orderly end (SIGKILL, except on Windows)."""
    await processes.kill(_DIRECTOR)


async def restart_director(processes: Processes, farm: Farm) -> None:
    """Start a Director at the same address and with the same data folder.

    Raises:
        ProcessFailed: the Director did not start.
    """
    await _start_director(processes, urlsplit(farm.url).port or _USUAL_PORT)


async def register(director: AsyncDirector, farm: Farm) -> None:
    """Register the simulators as backends through the API."""
    for name, url in farm.simulators.items():
        await director.add_backend(url, backend_id=name, name=f"Simulated {name}")


async def inject_fault(farm: Farm, backend_id: str, fault: Mapping[str, Any]) -> None:
    """Inject a fault into one simulator. It takes effect once.

    Raises:
        ProcessFailed: the simulator refused.
    """
    await asyncio.to_thread(_request, farm.simulators[backend_id], "/simulator/faults", fault)


async def slow_down(farm: Farm, seconds: float) -> None:
    """Make the next prompt of every simulator take ``seconds`` longer.

    Raises:
        ProcessFailed: a simulator refused.
    """
    for backend_id in farm.simulators:
        await inject_fault(farm, backend_id, {"name": "slow", "seconds": seconds})


async def read_audit_logs(farm: Farm) -> list[Entry]:
    """Return the audit log entries of all simulators.

    Raises:
        ProcessFailed: a simulator refused the request.
    """
    entries: list[Entry] = []
    for url in farm.simulators.values():
        entries += json.loads(await asyncio.to_thread(_request, url, "/simulator/audit-log"))
    return entries


def _request(url: str, path: str, body: Mapping[str, Any] | None = None) -> str:
    """Send GET, or POST if there is a body, to a simulator; return the response text."""
    # http.client uses no proxy. The typed client is for Directors only.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_ANSWER_WITHIN_S)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ProcessFailed(f"The simulator refused {path}: {answer.status} {text}")
    return text
