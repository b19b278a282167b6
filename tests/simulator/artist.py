"""A client for the simulator's tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from backends.simulator import Simulator
from tests.harness.graphs import Graph

PATIENCE = 60.0  # seconds until a frame that doesn't come is a failure
Frame = dict[str, Any]


class Artist:
    def __init__(
        self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse
    ) -> None:
        self.session = session
        self.socket = socket

    async def post(self, graph: Graph, **body: Any) -> tuple[int, Any]:
        payload = {"prompt": graph, "client_id": "artist"} | body
        async with self.session.post("/prompt", json=payload) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text

    async def queue(self, graph: Graph, **body: Any) -> str:
        status, answer = await self.post(graph, **body)
        assert status == 200, answer
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def history(self, prompt_id: str) -> Any:
        """The history entry of a prompt, or None."""
        return (await self.get(f"/history/{prompt_id}")).get(prompt_id)

    async def interrupt(self, prompt_id: str) -> None:
        async with self.session.post("/interrupt", json={"prompt_id": prompt_id}) as answer:
            assert answer.status == 200

    async def frame(self) -> Frame:
        """The next text frame; previews come as {"binary": bytes}, a close as {"closed": code}."""
        message = await self.socket.receive(timeout=PATIENCE)
        if message.type == aiohttp.WSMsgType.TEXT:
            frame: Frame = json.loads(message.data)
            return frame
        if message.type == aiohttp.WSMsgType.BINARY:
            return {"type": "binary", "binary": message.data}
        return {"type": "closed", "closed": self.socket.close_code}

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        frames = []
        while True:
            frame = await self.frame()
            frames.append(frame)
            if wanted(frame):
                return frames
            assert frame["type"] != "closed", f"closed after {[f['type'] for f in frames]}"

    async def until_end(self, prompt_id: str) -> list[Frame]:
        end = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
        return await self.until(lambda frame: frame == end)

    async def until_type(self, kind: str) -> list[Frame]:
        return await self.until(lambda frame: frame["type"] == kind)

    async def run(self, graph: Graph, **body: Any) -> tuple[str, list[Frame]]:
        prompt_id = await self.queue(graph, **body)
        return prompt_id, await self.until_end(prompt_id)

    async def receives_nothing(self) -> bool:
        try:
            await self.socket.receive(timeout=0.2)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def artist(sim: Simulator, client_id: str = "artist") -> AsyncIterator[Artist]:
    async with (
        aiohttp.ClientSession(sim.url) as session,
        session.ws_connect(f"/ws?clientId={client_id}", heartbeat=None) as socket,
    ):
        client = Artist(session, socket)
        await client.until_type("status")
        yield client


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def types(frames: list[Frame]) -> list[str]:
    return [f["type"] for f in frames if not f["type"].startswith("progress")]


def steps(frames: list[Frame]) -> list[int]:
    return [f["data"]["value"] for f in frames if f["type"] == "progress"]


def the(kind: str, frames: list[Frame]) -> Any:
    """The data of the first frame of a type."""
    return next(frame["data"] for frame in frames if frame["type"] == kind)
