"""Close codes, origins and odd clients on real sockets, served by daphne in another process."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from tests.bench.sockets import Watcher, read_all
from tests.harness.processes import Served, migrated
from tests.ws.served import TALK

DEADLINE = 30.0


class PlayedDirector(Served):
    """A Director whose runner this test plays."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(migrated(), folder / "data")
        super().__init__(
            folder,
            arguments=["--no-runner", "--port", "0"],
            program=["-m", "tests.ws.served"],
            is_told=True,
        )
        self._answers = 0
        self.path = f"/ws/job-groups/{self._do('submit')}"

    def connect(self, path: str | None = None, origin: str | None = None) -> connect:
        """Return a connection to open."""
        return connect(
            f"{self.url.replace('http', 'ws', 1)}{path or self.path}",
            origin=None if origin is None else Origin(origin),
            proxy=None,
            open_timeout=DEADLINE,
            max_size=2**24,
        )

    async def do(self, word: str) -> None:
        """Have the other process do something, and wait until it is done."""
        await asyncio.to_thread(self._do, word)

    def _do(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        self._answers += 1
        answered = rf"(?:(?:.|\n)*?^done: (\S+)$){{{self._answers}}}"
        return self.wait_printed(re.compile(answered, re.MULTILINE), DEADLINE)[1]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[PlayedDirector]:
    process = await asyncio.to_thread(PlayedDirector, tmp_path)
    try:
        yield process
    finally:
        assert process.process.stdin is not None
        process.process.stdin.close()
        code = await asyncio.to_thread(process.process.wait, DEADLINE)
        process.close()
    assert code == 0, process.printed()


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


async def test_a_group_is_streamed_to_its_end(served: PlayedDirector) -> None:
    async with served.connect() as client:
        frames = [await frame(client)]
        await served.do("run")
        while frames[-1]["type"] != "group_complete":
            frames.append(await frame(client))
    assert frames[0]["type"] == "initial_state"
    assert [one["seq"] for one in frames] == list(range(1, 9))


async def test_an_unknown_group_is_told_and_closed_with_4404(served: PlayedDirector) -> None:
    async with served.connect("/ws/job-groups/jg_000000000000") as client:
        told = await frame(client)
        assert await close_code(client) == 4404
    assert told == {
        "type": "error",
        "code": "group_not_found",
        "detail": "Job group jg_000000000000 not found",
    }


@pytest.mark.parametrize("path", ["/", "/ws/job-groups/", "/ws/else/1", "/ws/job-groups/a%2Fb"])
async def test_an_unknown_path_is_told_and_closed_with_4404(
    served: PlayedDirector, path: str
) -> None:
    async with served.connect(path) as client:
        assert (await frame(client))["code"] == "not_found"
        assert await close_code(client) == 4404


async def test_a_client_that_asks_for_it_is_closed_with_1000(served: PlayedDirector) -> None:
    async with served.connect() as client:
        await frame(client)
        await client.send("close")
        assert await close_code(client) == 1000


async def test_shutdown_tells_everybody_and_closes_with_4012(served: PlayedDirector) -> None:
    async with served.connect() as one, served.connect() as other:
        for client in (one, other):
            await frame(client)
        await served.do("shutdown")
        for client in (one, other):
            assert (await frame(client))["code"] == "shutting_down"
            assert await close_code(client) == 4012


async def test_a_client_too_slow_is_closed_with_4008_and_can_resume(served: PlayedDirector) -> None:
    async with served.connect() as client:
        seq = (await frame(client))["seq"]
        await served.do("narrow")
        await served.do("run")
        assert await close_code(client) == 4008
    async with served.connect(f"{served.path}?since={seq}") as client:
        assert [(await frame(client))["seq"] for _ in range(7)] == list(range(2, 9))


async def test_what_a_client_does_not_read_is_not_kept_for_it(served: PlayedDirector) -> None:
    """Of thousands of frames it is sent what its connection holds, and the newest one."""
    client = Watcher(served.url, served.path, buffer=4_096)
    await served.do("talk")
    newest = b'"progress": 99.0'
    late = await asyncio.to_thread(
        read_all, [client], within=DEADLINE, until=lambda data: newest in data
    )
    assert not late
    told = [one["progress"] for _, one in client.frames() if one["type"] == "child_progress"]
    client.close()
    assert told == sorted(told)
    assert told[-1] == 99.0
    assert len(told) < TALK * 3 / 4


async def test_odd_frames_do_not_harm_the_connection_nor_others(served: PlayedDirector) -> None:
    async with served.connect() as giant, served.connect() as odd:
        for client in (giant, odd):
            await frame(client)
        await giant.send("x" * 2**23)
        assert (await frame(giant))["code"] == "frame_too_long"
        assert await close_code(giant) == 1009
        for message in (b"\x00\xff", "x" * (2**20 - 100), '{"type":', "\ud7ff\U0001f3a8"):
            await odd.send(message)
            assert (await frame(odd))["code"] == "unknown_message"
        await odd.send("ping")
        assert await frame(odd) == {"type": "pong"}


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:5173", "https://127.0.0.1", "http://[::1]:9820"]
)
async def test_programs_and_pages_of_this_machine_may_connect(
    served: PlayedDirector, origin: str | None
) -> None:
    async with served.connect(origin=origin) as client:
        assert (await frame(client))["type"] == "initial_state"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_strangers_pages_are_told_so_and_get_nothing_else(
    served: PlayedDirector, origin: str
) -> None:
    async with served.connect(origin=origin) as client:
        said = await frame(client)
        assert (said["type"], said["code"]) == ("error", "origin_not_allowed")
        assert "DIRECTOR_ALLOWED_ORIGINS" in said["detail"]
        assert await close_code(client) == 4403


async def test_strangers_requests_are_refused_over_http(served: PlayedDirector) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=served.url) as c:
        refused = await c.get("/api/health", headers={"Origin": "http://evil.example"})
        preflight = await c.options(
            "/api/job-group",
            headers={"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"},
        )
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:1"
