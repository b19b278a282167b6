"""Clients of a group's stream within the process, through the application and its routing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channels.testing import WebsocketCommunicator

from director.asgi import application
from tests.harness.contract import check_frame

DEADLINE = 60.0


class Watcher:
    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self.communicator = communicator
        self.frames: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        message = await self.communicator.receive_output(DEADLINE)
        assert message["type"] == "websocket.send", message
        frame: dict[str, Any] = json.loads(message["text"])
        self.frames.append(frame)
        if "run" in frame:  # an event of the log; the tests invent progress
            check_frame(frame)
        return frame

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def close_code(self) -> int:
        """Return the server's close code, which must be the next message."""
        message = await self.communicator.receive_output(DEADLINE)
        assert message["type"] == "websocket.close", message
        return int(message["code"])

    async def say(self, text: str) -> None:
        await self.communicator.send_to(text_data=text)

    async def pong(self) -> None:
        """Read until the response to a ping, which follows everything that was published before.

        A published message reaches the socket within a few iterations of the loop, without a
        thread.
        """
        for _ in range(10):
            await asyncio.sleep(0)
        await self.say("ping")
        await self.until("pong")

    @property
    def seqs(self) -> list[int]:
        """The numbers of the received state events."""
        return [f["seq"] for f in self.frames if "seq" in f and f["type"] != "initial_state"]

    def kinds(self, *, of: str | None = None) -> list[str]:
        """The types of the received frames, of one child if given."""
        return [f["type"] for f in self.frames if of is None or f.get("job_id") == of]


@asynccontextmanager
async def watching(group_id: str, query: str = "") -> AsyncIterator[Watcher]:
    async with connected(f"/ws/job-groups/{group_id}{query}") as watcher:
        yield watcher


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[Watcher]:
    communicator = WebsocketCommunicator(application, path)
    is_connected, _ = await communicator.connect(DEADLINE)
    assert is_connected
    try:
        yield Watcher(communicator)
    finally:
        await communicator.disconnect()


async def settled(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)
