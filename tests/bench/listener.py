"""Prompts that a program sends to the ComfyUI listener one by one, each after the end of the one
before.

The floor is the same program at the machine itself, in turn with the listener.
"""

import itertools
import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from websockets.sync.client import ClientConnection, connect

from tests.bench.figures import Figure
from tests.bench.gpus import simulated
from tests.bench.processes import spent
from tests.bench.wire import Connection
from tests.harness.graphs import picture
from tests.harness.processes import Served

_SECONDS: Final = 0.3  #: Of a prompt.
_GATE, _GOAL = 1.10, 1.05


def measure(folder: Path, *, prompts: int = 30, rounds: int = 4) -> list[Figure]:
    taken: dict[str, list[float]] = {}
    cpu = []
    with simulated(folder, 1, seconds=_SECONDS, steps=10) as gpus:
        served = Served(folder, gpus.urls, arguments=("--port", "0", "--comfyui-port", "0"))
        try:
            served.wait_online(60)
            listener = served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]
            urls = {"straight": gpus.urls[0], "listener": listener}
            with _programs(urls) as programs:
                for program in programs.values():
                    program.run(2)
                for _, (name, program) in itertools.product(range(rounds), programs.items()):
                    with spent(serve=served.process.pid) as span:
                        taken.setdefault(name, []).append(program.run(prompts))
                    cpu += [span.cpu["serve"]] if name == "listener" else []
        finally:
            served.close()
    name = f"{prompts} prompts of {_SECONDS} s at the ComfyUI listener"
    return [
        Figure(
            f"{name}, one by one",
            median(taken["listener"]),
            "s",
            floor=median(taken["straight"]),
            of_floor=True,
            gate=_GATE,
            goal=_GOAL,
        ),
        Figure(f"{name}, CPU of each", median(cpu) / prompts * 1000),
    ]


class _Program:
    def __init__(self, url: str, socket: ClientConnection, client_id: str) -> None:
        self._http = Connection(url)
        self._socket = socket
        self._client_id = client_id

    def run(self, prompts: int) -> float:
        """Send prompts one by one, and return the seconds until the end of the last one."""
        began = time.monotonic()
        for _ in range(prompts):
            graph = picture()
            # No prompt has the result of another one in the machine's cache.
            graph["3"]["inputs"]["seed"] = random.getrandbits(32)
            prompt_id = str(uuid.uuid4())
            body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self._client_id}
            self._http.ask("/prompt", json.dumps(body).encode(), method="POST")
            while not self._has_ended(prompt_id):
                pass
        return time.monotonic() - began

    def _has_ended(self, prompt_id: str) -> bool:
        frame = self._socket.recv(60)
        if isinstance(frame, bytes):
            return False
        message = json.loads(frame)
        data = message["data"]
        return bool(
            message["type"] == "executing"
            and data["node"] is None
            and data["prompt_id"] == prompt_id
        )


@contextmanager
def _programs(urls: dict[str, str]) -> Iterator[dict[str, _Program]]:
    programs = {}
    sockets = []
    try:
        for name, url in urls.items():
            client_id = uuid.uuid4().hex
            address = f"{url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
            sockets.append(connect(address, proxy=None, compression=None))
            programs[name] = _Program(url, sockets[-1], client_id)
        yield programs
    finally:
        for socket in sockets:
            socket.close()
