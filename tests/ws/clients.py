"""Clients of a group's stream, inside the process: through the real application and routing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channels.testing import WebsocketCommunicator

from director.asgi import application

DEADLINE = 20.0


class Watcher:
    """One connected client, and all that it was sent."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self.communicator = communicator
        self.frames: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Return the next frame."""
        message = await self.communicator.receive_output(DEADLINE)
        assert message["type"] == "websocket.send", message
        frame: dict[str, Any] = json.loads(message["text"])
        self.frames.append(frame)
        return frame

    async def until(self, kind: str) -> dict[str, Any]:
        """Read on until a frame of this type."""
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def until_seq(self, seq: int) -> None:
        """Read on until the event with this number."""
        while (await self.next()).get("seq") != seq:
            pass

    async def close_code(self) -> int:
        """Return the code that the server closes with, which must come next."""
        message = await self.communicator.receive_output(DEADLINE)
        assert message["type"] == "websocket.close", message
        return int(message["code"])

    async def say(self, text: str) -> None:
        """Send a text frame."""
        await self.communicator.send_to(text_data=text)

    async def pong(self) -> None:
        """Read on until the answer to a ping: all that was rung before was sent before.

        What is rung reaches the socket in a few turns of the loop, by no thread.
        """
        for _ in range(10):
            await asyncio.sleep(0)
        await self.say("ping")
        await self.until("pong")

    @property
    def seqs(self) -> list[int]:
        """The numbers of the state events so far."""
        return [f["seq"] for f in self.frames if "seq" in f and f["type"] != "initial_state"]

    def kinds(self, *, of: str | None = None) -> list[str]:
        """The types so far, of one child if asked."""
        return [f["type"] for f in self.frames if of is None or f.get("job_id") == of]


@asynccontextmanager
async def watching(group_id: str, query: str = "") -> AsyncIterator[Watcher]:
    """Connect a client to a group's stream."""
    path = f"/ws/job-groups/{group_id}{query}"
    communicator = WebsocketCommunicator(application, path)
    connected, _ = await communicator.connect(DEADLINE)
    assert connected
    try:
        yield Watcher(communicator)
    finally:
        await communicator.disconnect()


async def settled(condition: Any) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)
