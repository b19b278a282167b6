"""Close codes, origins and unusual clients on real sockets of daphne in another process."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from tests.bench.sockets import StreamSocket, allow_many, read_all
from tests.harness.processes import Served
from tests.ws.served import TALK

DEADLINE = 60.0


class PlayedDirector(Served):
    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            arguments=["--no-runner", "--port", "0"],
            program=["-m", "tests.ws.served"],
            has_stdin=True,
        )
        self._answers = 0
        self.path = ""

    def connect(self, path: str | None = None, origin: str | None = None) -> connect:
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


@pytest.mark.parametrize("path", ["/ws/job-groups/", "/ws/job-groups/a%2Fb"])
async def test_unknown_path_closes_with_4404(process: PlayedDirector, path: str) -> None:
    async with process.connect(path) as client:
        assert (await frame(client))["code"] == "not_found"
        assert await close_code(client) == 4404


async def test_unread_progress_is_not_kept_for_a_client(served: PlayedDirector) -> None:
    """Of thousands of frames it gets those that its connection buffers, and the newest one."""
    await served.do("run")
    served.path = f"/ws/job-groups/{await served.do('submit')}"
    client = StreamSocket(served.url, served.path)
    await served.do("talk")
    newest = b'"progress": 99.0'
    late = await asyncio.to_thread(
        read_all, [client], within=DEADLINE, until=lambda data: newest in data
    )
    assert not late
    percents = [one["progress"] for _, one in client.frames() if one["type"] == "child_progress"]
    client.close()
    assert percents == sorted(percents)
    assert percents[-1] == 99.0
    assert len(percents) < TALK * 3 / 4


@asynccontextmanager
async def _sse(process: PlayedDirector, group_id: str) -> AsyncIterator[asyncio.StreamReader]:
    """Request all events of a group. What is not read stays in small buffers and in those of the
    system.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(process.url).port)
    path = f"/api/job-groups/{group_id}/events/stream?since=0"
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield reader
    finally:
        writer.close()


async def test_unread_progress_is_not_kept_for_a_client_of_server_sent_events(
    served: PlayedDirector,
) -> None:
    await served.do("run")
    read = b""
    async with _sse(served, await served.do("submit")) as reader, asyncio.timeout(DEADLINE):
        await reader.readuntil(b"group_created")
        await served.do("talk")
        while b'"progress": 99.0' not in read[-9_000:]:
            read += await reader.read(2**18)
    assert 0 < read.count(b"event: child_progress") < TALK * 3 / 4


@pytest.mark.slow
async def test_a_thousand_clients_of_server_sent_events_get_every_event(
    process: PlayedDirector,
) -> None:
    allow_many()
    group_id = await process.do("submit-40")

    async def seqs(reader: asyncio.StreamReader) -> list[int]:
        ids = []
        async for line in reader:
            if line.startswith(b"id: "):
                ids.append(int(line[4:]))
            elif line == b"event: group_complete\n":
                break
        return ids

    async with AsyncExitStack() as stack, asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        clients = [await stack.enter_async_context(_sse(process, group_id)) for _ in range(1_000)]
        reading = [tasks.create_task(seqs(reader)) for reader in clients]
        await process.do("run")
    assert [one.result() for one in reading] == [list(range(1, 83))] * 1_000


async def test_unusual_frames_harm_neither_the_connection_nor_others(
    served: PlayedDirector,
) -> None:
    async with served.connect() as giant, served.connect() as odd:
        for client in (giant, odd):
            await frame(client)
        # Short enough to be sent as a whole: a client that still sends may lose the answer.
        await giant.send("x" * 2**21)
        assert (await frame(giant))["code"] == "frame_too_long"
        assert await close_code(giant) == 1009
        for message in (b"\x00\xff", "x" * (2**20 - 100), '{"type":', "\ud7ff\U0001f3a8"):
            await odd.send(message)
            assert (await frame(odd))["code"] == "unknown_message"
        await odd.send("ping")
        assert await frame(odd) == {"type": "pong"}


async def test_local_page_may_connect_and_another_one_is_closed_with_4403(
    served: PlayedDirector,
) -> None:
    async with served.connect(origin="http://localhost:5173") as client:
        assert (await frame(client))["type"] == "initial_state"
    async with served.connect("/ws/monitor", origin="http://localhost.evil.example") as client:
        refusal = await frame(client)
        assert (refusal["type"], refusal["code"]) == ("error", "origin_not_allowed")
        assert "DIRECTOR_ALLOWED_ORIGINS" in refusal["detail"]
        assert await close_code(client) == 4403
