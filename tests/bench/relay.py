"""The floor of a frame's way: a process that hands each frame of its backends to its clients, bare."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.harness.processes import ROOT


async def _relay(backends: list[str]) -> None:
    clients: set[ServerConnection] = set()

    async def keep(client: ServerConnection) -> None:
        clients.add(client)
        await client.wait_closed()
        clients.discard(client)

    async def follow(number: int, url: str) -> None:
        address = f"{url.replace('http', 'ws', 1)}/ws?clientId=relay-{number}"
        async with connect(address, proxy=None, compression=None) as backend:
            async for frame in backend:
                for client in tuple(clients):
                    await client.send(frame)

    async with serve(keep, "127.0.0.1", 0, compression=None) as server, asyncio.TaskGroup() as tasks:
        for number, url in enumerate(backends):
            tasks.create_task(follow(number, url))
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps(f"http://127.0.0.1:{port}"), flush=True)


@contextmanager
def relay(backends: list[str]) -> Iterator[str]:
    """Run one in a process of its own; yields where clients connect."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.relay", *backends], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1:]))
