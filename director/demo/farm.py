"""Three simulated ComfyUIs and a Director, and the fault that one of them is ordered to have."""

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

from director import listening
from director.client import AsyncDirector
from director.demo.processes import Processes, ProcessFailed

BACKENDS: Final = 3
#: Where a Director is expected; another one may run there.
_USUAL_PORT: Final = 9820
_SIMULATORS_READY: Final = re.compile(r'^\{.*"urls".*\}')
_DIRECTOR_READY: Final = re.compile(r"Director is ready at (?P<url>http://\S+)")
_ANSWER_WITHIN_S: Final = 10.0


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
    serve = ["serve", "--port", str(_port())]
    ready = await processes.start("Director", serve, ready=_DIRECTOR_READY)
    return Farm(
        url=ready["url"],
        simulators=dict(zip(addresses["names"], addresses["urls"], strict=True)),
    )


def _port() -> int:
    """Return the Director's usual port, or 0 (any) where that is taken."""
    try:
        return listening.places("localhost", _USUAL_PORT)[0].port
    except listening.CannotListen:
        return 0


async def register(director: AsyncDirector, farm: Farm) -> None:
    """Tell the Director of the backends, as a user would."""
    for name, url in farm.simulators.items():
        await director.add_backend(url, backend_id=name, name=f"Simulated {name}")


async def order_fault(farm: Farm, backend_id: str) -> None:
    """Have the next prompt of one simulator end as one does whose GPU has not enough memory.

    Raises:
        ProcessFailed: the simulator refused.
    """
    fault = {
        "name": "node_error",
        "type": "torch.OutOfMemoryError",
        "message": "CUDA out of memory",
        "step": 8,
    }
    await asyncio.to_thread(_order, farm.simulators[backend_id], fault)


def _order(url: str, fault: Mapping[str, Any]) -> None:
    # Not the typed client, which speaks to Directors; and no proxy may come in between.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_ANSWER_WITHIN_S)
    try:
        body = json.dumps(fault)
        connection.request("POST", "/simulator/faults", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ProcessFailed(f"The simulator refused the fault: {answer.status} {text}")
