"""Three simulated ComfyUIs and a Director: started, broken on purpose, and asked what they saw."""

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
#: Where a Director is expected; another one may run there.
_USUAL_PORT: Final = 9820
_DIRECTOR: Final = "Director"
_SIMULATORS_READY: Final = re.compile(r'^\{.*"urls".*\}')
_DIRECTOR_READY: Final = re.compile(r"Director is ready at (?P<url>http://\S+)")
_ANSWER_WITHIN_S: Final = 10.0
#: A fault that ends the next prompt as a GPU does that has not enough memory.
OUT_OF_MEMORY: Final = {
    "name": "node_error",
    "type": "torch.OutOfMemoryError",
    "message": "CUDA out of memory",
    "step": 8,
}


@dataclass(frozen=True, slots=True)
class Farm:
    """What runs.

    Attributes:
        url: the Director's address.
        simulators: address of each simulated ComfyUI by its name, which is its backend id too.
    """

    url: str
    simulators: Mapping[str, str]


async def start(processes: Processes, *, folder: Path, seconds: float) -> Farm:
    """Start the simulators, side by side in one process, and a Director that knows none of them.

    Args:
        processes: takes them over.
        folder: for the simulators' own output.
        seconds: that a simulated render takes.

    Raises:
        ProcessFailed: one of them did not start.
    """
    simulate = ["simulate", "--json", "--port", "0", "--count", str(BACKENDS), "--name", "gpu"]
    simulate += ["--seconds", str(seconds), "--output-dir", str(folder / "comfyui")]
    told = await processes.start("Simulators", simulate, ready=_SIMULATORS_READY)
    addresses = json.loads(told.group())
    return Farm(
        url=await _start_director(processes, _port()),
        simulators=dict(zip(addresses["names"], addresses["urls"], strict=True)),
    )


def _port() -> int:
    """Return the Director's usual port, or 0 (any) where that is taken."""
    try:
        return listen.listen_addresses("localhost", _USUAL_PORT)[0].port
    except listen.CannotListen:
        return 0


async def _start_director(processes: Processes, port: int) -> str:
    serve = ["serve", "--port", str(port)]
    return (await processes.start(_DIRECTOR, serve, ready=_DIRECTOR_READY))["url"]


async def kill_director(processes: Processes) -> None:
    """End the Director as a power cut does: SIGKILL, where there are signals."""
    await processes.kill(_DIRECTOR)


async def restart_director(processes: Processes, farm: Farm) -> None:
    """Start a Director at the same address, on the same data folder.

    Raises:
        ProcessFailed: it did not start.
    """
    await _start_director(processes, urlsplit(farm.url).port or _USUAL_PORT)


async def register(director: AsyncDirector, farm: Farm) -> None:
    """Tell the Director of the backends, as a user would."""
    for name, url in farm.simulators.items():
        await director.add_backend(url, backend_id=name, name=f"Simulated {name}")


async def inject_fault(farm: Farm, backend_id: str, fault: Mapping[str, Any]) -> None:
    """Have one simulator do something wrong, once.

    Raises:
        ProcessFailed: the simulator refused.
    """
    await asyncio.to_thread(_request, farm.simulators[backend_id], "/simulator/faults", fault)


async def slow_down(farm: Farm, seconds: float) -> None:
    """Have the next prompt of every simulator take so many seconds longer.

    Raises:
        ProcessFailed: a simulator refused.
    """
    for backend_id in farm.simulators:
        await inject_fault(farm, backend_id, {"name": "slow", "seconds": seconds})


async def read_audit_logs(farm: Farm) -> list[Entry]:
    """Return what all the simulators have seen.

    Raises:
        ProcessFailed: a simulator refused to tell.
    """
    entries: list[Entry] = []
    for url in farm.simulators.values():
        entries += json.loads(await asyncio.to_thread(_request, url, "/simulator/audit-log"))
    return entries


def _request(url: str, path: str, order: Mapping[str, Any] | None = None) -> str:
    """Return a simulator's answer to a question, or to an order that is posted."""
    # Not the typed client, which speaks to Directors; and no proxy may come in between.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_ANSWER_WITHIN_S)
    try:
        if order is None:
            connection.request("GET", path)
        else:
            body = json.dumps(order)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ProcessFailed(f"The simulator refused {path}: {answer.status} {text}")
    return text
