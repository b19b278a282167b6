"""Close codes, origins and unusual clients on real sockets, served by daphne in another process."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
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
            folder, arguments=["--no-runner", "--port", "0"], program=["-m", "tests.ws.served"], has_stdin=True
        )
        self._answers = 0
        self.path = ""

    def connect(self, path: str | None = None, origin: str | None = None) -> connect:
        """Return a connection to open."""
        return connect(
            f"{self.url.replace('http', 'ws', 1)}{path or self.path}",
            origin=None if origin is None else Origin(origin),
            proxy=None,
            open_timeout=DEADLINE,
            max_size=2**24,
        )

    async def do(self, command: str) -> str:
        """Execute a command in the other process and return its result."""
        return await asyncio.to_thread(self._do, command)

    def _do(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        self._answers += 1
        answer = re.compile(rf"^done {self._answers}: (\S+)$", re.MULTILINE)
        return self.wait_printed(answer, DEADLINE)[1]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedDirector]:
    director = PlayedDirector(tmp_path_factory.mktemp("director"))
    try:
        yield director
    finally:
        assert director.process.stdin is not None
        director.process.stdin.close()
        code = director.process.wait(DEADLINE)
        director.close()
    assert code == 0, director.printed()


@pytest.fixture
async def served(process: PlayedDirector) -> PlayedDirector:
    """The Director with a new group at its ``path``."""
    await process.do("widen")
    process.path = f"/ws/job-groups/{await process.do('submit')}"
    return process


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


async def test_group_is_streamed_to_its_end(served: PlayedDirector) -> None:
    async with served.connect() as client:
        frames = [await frame(client)]
        await served.do("run")
        while frames[-1]["type"] != "group_complete":
            frames.append(await frame(client))
    assert frames[0]["type"] == "initial_state"
    assert [one["seq"] for one in frames] == list(range(1, 9))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/ws/job-groups/jg_000000000000", "group_not_found"),
        *((path, "not_found") for path in ("/", "/ws/job-groups/", "/ws/else/1")),
        ("/ws/job-groups/a%2Fb", "not_found"),
    ],
)
async def test_unknown_group_and_path_close_with_4404(process: PlayedDirector, path: str, code: str) -> None:
    async with process.connect(path) as client:
        assert (await frame(client))["code"] == code
        assert await close_code(client) == 4404


async def test_client_that_requests_a_close_gets_1000(served: PlayedDirector) -> None:
    async with served.connect() as client:
        await frame(client)
        await client.send("close")
        assert await close_code(client) == 1000


async def test_shutdown_closes_every_socket_with_4012(served: PlayedDirector) -> None:
    async with served.connect() as one, served.connect() as other:
        for client in (one, other):
            await frame(client)
        await served.do("shutdown")
        for client in (one, other):
            assert (await frame(client))["code"] == "shutting_down"
            assert await close_code(client) == 4012


async def test_slow_client_is_closed_with_4008_and_can_resume(served: PlayedDirector) -> None:
    async with served.connect() as client:
        seq = (await frame(client))["seq"]
        await served.do("narrow")
        await served.do("run")
        assert await close_code(client) == 4008
    async with served.connect(f"{served.path}?since={seq}") as client:
        assert [(await frame(client))["seq"] for _ in range(7)] == list(range(2, 9))


async def test_unread_progress_is_not_kept_for_a_client(served: PlayedDirector) -> None:
    """Of thousands of frames it gets those that its connection buffers, and the newest one."""
    await served.do("run")
    served.path = f"/ws/job-groups/{await served.do('submit')}"
    client = Watcher(served.url, served.path, buffer=4_096)
    await served.do("talk")
    newest = b'"progress": 99.0'
    late = await asyncio.to_thread(read_all, [client], within=DEADLINE, until=lambda data: newest in data)
    assert not late
    percents = [one["progress"] for _, one in client.frames() if one["type"] == "child_progress"]
    client.close()
    assert percents == sorted(percents)
    assert percents[-1] == 99.0
    assert len(percents) < TALK * 3 / 4


async def test_unusual_frames_harm_neither_the_connection_nor_others(served: PlayedDirector) -> None:
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


@pytest.mark.parametrize("origin", [None, "http://localhost:5173", "https://127.0.0.1", "http://[::1]:9820"])
async def test_programs_and_local_pages_may_connect(served: PlayedDirector, origin: str | None) -> None:
    async with served.connect(origin=origin) as client:
        assert (await frame(client))["type"] == "initial_state"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_pages_of_other_origins_are_closed_with_4403(process: PlayedDirector, origin: str) -> None:
    async with process.connect("/ws/monitor", origin=origin) as client:
        refusal = await frame(client)
        assert (refusal["type"], refusal["code"]) == ("error", "origin_not_allowed")
        assert "DIRECTOR_ALLOWED_ORIGINS" in refusal["detail"]
        assert await close_code(client) == 4403


async def test_requests_of_other_origins_are_refused_over_http(process: PlayedDirector) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=process.url) as c:
        refused = await c.get("/api/health", headers={"Origin": "http://evil.example"})
        preflight = await c.options(
            "/api/job-group", headers={"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"}
        )
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:1"
