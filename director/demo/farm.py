"""The demo's farm: starts three simulated ComfyUIs and a Director, injects faults, reads audit logs."""

import asyncio
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from director.demo.processes import Processes, ProcessFailed
from director.server import listen

BACKENDS: Final = 3
_USUAL_PORT: Final = 9820  #: The Director's default port. Another Director may already use it.
DIRECTOR: Final = "Director"  #: Display name of the Director's process.
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
    """Address of the Director, and of each simulated ComfyUI by its name, which is also its backend id."""

    url: str
    simulators: Mapping[str, str]


async def start(processes: Processes, *, folder: Path, seconds: float) -> Farm:
    """Start the simulators, all in one process, and a Director without backends. Raises ProcessFailed.

    The simulators keep their output in ``folder``; a simulated prompt takes so many seconds.
    """
    simulate = ["simulate", "--json", "--port", "0", "--count", str(BACKENDS), "--name", "gpu"]
    simulate += ["--seconds", str(seconds), "--output-dir", str(folder / "comfyui")]
    ready = await processes.start("Simulators", simulate, ready=_SIMULATORS_READY)
    addresses = json.loads(ready.group())
    return Farm(
        url=await start_director(processes, _port()),
        simulators=dict(zip(addresses["names"], addresses["urls"], strict=True)),
    )


def _port() -> int:
    """Return the Director's default port, or 0 (any free port) if it is in use."""
    try:
        return listen.listen_addresses("localhost", _USUAL_PORT)[0].port
    except listen.CannotListen:
        return 0


async def start_director(processes: Processes, port: int) -> str:
    """Start a Director and return its address; port 0 is any free one. Raises ProcessFailed."""
    serve = ["serve", "--port", str(port)]
    return (await processes.start(DIRECTOR, serve, ready=_DIRECTOR_READY))["url"]


async def inject_fault(farm: Farm, backend_id: str, fault: Mapping[str, Any]) -> None:
    """Inject a fault, which takes effect once. Raises ProcessFailed if the simulator refuses."""
    await asyncio.to_thread(_request, farm.simulators[backend_id], "/simulator/faults", fault)


async def read_audit_logs(farm: Farm) -> list[dict[str, Any]]:
    """Return the audit log entries of all simulators. Raises ProcessFailed if one refuses."""
    entries: list[dict[str, Any]] = []
    for url in farm.simulators.values():
        entries += json.loads(await asyncio.to_thread(_request, url, "/simulator/audit-log"))
    return entries


def _request(url: str, path: str, body: Mapping[str, Any] | None = None) -> str:
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
