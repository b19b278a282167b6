"""Close codes, origins and odd clients on real sockets, served by daphne in another process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0


class Served:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self._process = process
        self.port: int = facts["port"]
        self.path: str = f"/ws/job-groups/{facts['group_id']}"

    def connect(self, path: str | None = None, origin: str | None = None) -> connect:
        """Return a connection to open."""
        return connect(
            f"ws://127.0.0.1:{self.port}{path or self.path}",
            origin=None if origin is None else Origin(origin),
            proxy=None,
            open_timeout=DEADLINE,
            max_size=2**24,
        )

    async def do(self, word: str) -> None:
        """Have the other process do something, and wait until it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        async with asyncio.timeout(DEADLINE):
            assert await self._process.stdout.readline() == b"done\n"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    environment = {
        **os.environ,
        "DIRECTOR_DATA_DIR": str(tmp_path),
        "DIRECTOR_DATABASE_URL": "",
        "DIRECTOR_REDIS_URL": "",
        "DJANGO_SETTINGS_MODULE": "director.settings",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.ws.served",
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        facts = json.loads(await process.stdout.readline())
    yield Served(process, facts)
    process.stdin.close()
    try:
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0


async def frame(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        loaded: dict[str, Any] = json.loads(await client.recv())
    return loaded


async def close_code(client: ClientConnection) -> int | None:
    """Read to the end and return the server's close code."""
    async with asyncio.timeout(DEADLINE):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            return None if closed.rcvd is None else closed.rcvd.code


async def test_a_group_is_streamed_to_its_end(served: Served) -> None:
    async with served.connect() as client:
        frames = [await frame(client)]
        await served.do("run")
        while frames[-1]["type"] != "group_complete":
            frames.append(await frame(client))
    assert frames[0]["type"] == "initial_state"
    assert [one["seq"] for one in frames] == list(range(1, 9))


async def test_an_unknown_group_is_told_and_closed_with_4404(served: Served) -> None:
    async with served.connect("/ws/job-groups/jg_000000000000") as client:
        told = await frame(client)
        assert await close_code(client) == 4404
    assert told == {
        "type": "error",
        "code": "group_not_found",
        "detail": "Job group jg_000000000000 not found",
    }


@pytest.mark.parametrize("path", ["/", "/ws/job-groups/", "/ws/else/1", "/ws/job-groups/a%2Fb"])
async def test_an_unknown_path_is_told_and_closed_with_4404(served: Served, path: str) -> None:
    async with served.connect(path) as client:
        assert (await frame(client))["code"] == "not_found"
        assert await close_code(client) == 4404


async def test_a_client_that_asks_for_it_is_closed_with_1000(served: Served) -> None:
    async with served.connect() as client:
        await frame(client)
        await client.send("close")
        assert await close_code(client) == 1000


async def test_shutdown_tells_everybody_and_closes_with_4012(served: Served) -> None:
    async with served.connect() as one, served.connect() as other:
        for client in (one, other):
            await frame(client)
        await served.do("shutdown")
        for client in (one, other):
            assert (await frame(client))["code"] == "shutting_down"
            assert await close_code(client) == 4012


async def test_a_client_too_slow_is_closed_with_4008_and_can_resume(served: Served) -> None:
    async with served.connect() as client:
        seq = (await frame(client))["seq"]
        await served.do("narrow")
        await served.do("run")
        assert await close_code(client) == 4008
    async with served.connect(f"{served.path}?since={seq}") as client:
        assert [(await frame(client))["seq"] for _ in range(7)] == list(range(2, 9))


async def test_odd_frames_do_not_harm_the_connection_nor_others(served: Served) -> None:
    async with served.connect() as giant, served.connect() as odd:
        for client in (giant, odd):
            await frame(client)
        # daphne cuts the connection, perhaps before all is sent, or says 1009.
        with contextlib.suppress(ConnectionClosed):
            await giant.send("x" * 2**21)
        assert await close_code(giant) in (None, 1009)
        for message in (b"\x00\xff", "x" * (2**20 - 100), '{"type":', "\ud7ff\U0001f3a8"):
            await odd.send(message)
            assert (await frame(odd))["code"] == "unknown_message"
        await odd.send("ping")
        assert await frame(odd) == {"type": "pong"}


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:5173", "https://127.0.0.1", "http://[::1]:9820"]
)
async def test_programs_and_pages_of_this_machine_may_connect(
    served: Served, origin: str | None
) -> None:
    async with served.connect(origin=origin) as client:
        assert (await frame(client))["type"] == "initial_state"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_strangers_pages_are_refused_before_the_handshake(
    served: Served, origin: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with served.connect(origin=origin):
            pass
    assert refused.value.response.status_code == 403


async def test_strangers_requests_are_refused_over_http(served: Served) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{served.port}") as c:
        refused = await c.get("/api/health", headers={"Origin": "http://evil.example"})
        preflight = await c.options(
            "/api/job-group",
            headers={"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"},
        )
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:1"
