"""Bare servers and a bare disk, measured beside the Director: it cannot be faster than these."""

import asyncio
import json
import logging
import random
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve as serve_sockets

from tests.harness.graphs import picture
from tests.harness.processes import ROOT
from tests.harness.servers import free_port
from tests.harness.waits import until

#: About as much as a status of three children.
_BODY = json.dumps({"filler": "x" * 2_400}).encode()


@contextmanager
def running(name: str, *arguments: Any) -> Iterator[str]:
    """Run a server of this module in a process of its own, and yield its URL once it listens."""
    port = free_port()
    code = f"from tests.bench import floors; floors.{name}({port}, *{arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        until(lambda: _listens(port), 20.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def answer(port: int) -> None:
    """Serve with daphne an application that only answers."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await _respond(send, 200, _BODY)

    _serve(application, port)


def pass_on(port: int, backends: list[str]) -> None:
    """Serve with daphne an application that posts a submission to each of the backends."""
    client = httpx.AsyncClient(trust_env=False)
    count = 0

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal count
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        count += 1
        group, workflow = f"bare-{count}", json.loads(body)["workflow_json"]
        async with asyncio.TaskGroup() as tasks:
            for number, backend in enumerate(backends):
                tasks.create_task(_post(client, backend, workflow, group, 3 * count + number))
        await _respond(send, 201, json.dumps({"job_group_id": group}).encode())

    _serve(application, port)


async def _post(
    client: httpx.AsyncClient, backend: str, workflow: dict[str, Any], group: str, job: int
) -> None:
    body = {
        "prompt": _seeded(workflow, job),
        "prompt_id": f"{group}-{job}",
        "client_id": "bare",
        "extra_data": {"director": {"group": group, "job": job}},
    }
    (await client.post(f"{backend}/prompt", json=body)).raise_for_status()


def _seeded(workflow: dict[str, Any], seed: int) -> dict[str, Any]:
    sampler = workflow["3"] | {"inputs": workflow["3"]["inputs"] | {"seed": seed}}
    return workflow | {"3": sampler}


async def _respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _serve(application: Any, port: int) -> None:
    from daphne.server import Server  # importing daphne installs a reactor

    Server(
        application=application,
        endpoints=[f"tcp:port={port}:interface=127.0.0.1"],
        server_name="Director",
    ).run()


def relay(port: int, backends: list[str]) -> None:
    """Send each frame of the backends to all clients."""
    logging.disable()  # a connection that only checks whether the port listens is no error
    asyncio.run(_relay(port, backends))


async def _relay(port: int, backends: list[str]) -> None:
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

    async with (
        serve_sockets(keep, "127.0.0.1", port, compression=None),
        asyncio.TaskGroup() as tasks,
    ):
        for number, url in enumerate(backends):
            tasks.create_task(follow(number, url))


def pictures(port: int, path: str) -> None:
    """Serve a file under every name, as a ComfyUI does: the same for names of masks, else with an
    end of its own.
    """
    content, written = Path(path).read_bytes(), Path(path).stat().st_mtime

    async def view(request: web.Request) -> web.StreamResponse:
        name = request.query["filename"]
        if name.startswith("mask"):
            return web.FileResponse(path)
        is_known = request.headers.get("If-None-Match") == f'"{name}"'
        response = (
            web.Response(status=304) if is_known else web.Response(body=content + name.encode())
        )
        response.etag, response.last_modified = name, written
        return response

    application = web.Application()
    application.router.add_get("/view", view)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


def renders(backends: Sequence[str], *, at_once: int, seconds: float) -> float:
    """Return the groups a second, each of a prompt at each backend, that bare requests do.

    For each prompt these are its POST, the frame of its end, its history and its picture. Nothing
    is stored.
    """
    return asyncio.run(_renders(backends, at_once, seconds))


async def _renders(backends: Sequence[str], at_once: int, seconds: float) -> float:
    ends: dict[str, asyncio.Future[None]] = {}
    count = 0
    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as tasks:

        async def follow(backend: str) -> None:
            async with client.ws_connect(f"{backend}/ws?clientId=bare") as socket:
                async for message in socket:
                    frame = message.json() if message.type is aiohttp.WSMsgType.TEXT else {}
                    if frame.get("type") == "execution_success":
                        ends[frame["data"]["prompt_id"]].set_result(None)

        async def render(backend: str, prompt_id: str, seed: int) -> None:
            ends[prompt_id] = asyncio.get_running_loop().create_future()
            body = {"prompt": _seeded(picture(), seed), "prompt_id": prompt_id, "client_id": "bare"}
            async with client.post(f"{backend}/prompt", json=body) as answer:
                answer.raise_for_status()
            await ends[prompt_id]
            del ends[prompt_id]
            async with client.get(f"{backend}/history/{prompt_id}") as answer:
                outputs = (await answer.json())[prompt_id]["outputs"]
            for image in outputs["9"]["images"]:
                async with client.get(f"{backend}/view", params=image) as answer:
                    await answer.read()

        async def keep_one() -> None:
            nonlocal count
            while time.monotonic() < until_then:
                seed = random.getrandbits(32)
                prompts = [
                    (one, str(uuid.uuid4()), seed + number) for number, one in enumerate(backends)
                ]
                await asyncio.gather(*(render(*one) for one in prompts))
                count += 1

        followers = [tasks.create_task(follow(one)) for one in backends]
        await asyncio.sleep(0.5)  # until they are connected
        until_then = time.monotonic() + seconds
        await asyncio.gather(*(keep_one() for _ in range(at_once)))
        for one in followers:
            one.cancel()
    return count / seconds


def commits(folder: Path, count: int = 200) -> list[float]:
    """Return the seconds that commits of some small rows take, durable as a group's are."""
    rows = [("x" * 600,) for _ in range(5)]
    taken: list[float] = []
    with sqlite3.connect(folder / "floor.sqlite3", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE rows (text TEXT)")
        for _ in range(count):
            began = time.perf_counter()
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO rows VALUES (?)", rows)
            database.execute("COMMIT")
            taken.append(time.perf_counter() - began)
    return taken
