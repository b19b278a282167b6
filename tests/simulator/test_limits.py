"""What ComfyUI's HTTP server refuses before any route sees it: origins, sizes, addresses."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest

from backends.simulator import Simulator
from tests.simulator.artist import Artist
from tests.simulator.graphs import plain_image


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8188", "http://localhost:8188", 403),
        ("127.0.0.1:8188", "http://evil.example", 403),
        ("127.0.0.1:8188", "http://127.0.0.1", 200),
        ("127.0.0.1:8188", "null", 200),
        ("127.0.0.1:8188", None, 200),
        ("comfy.example:8188", "http://evil.example", 200),
        ("localhost:8188", "http://localhost:8188", 200),
        ("[::1]:8188", "http://evil.example", 403),
    ],
)
async def test_foreign_page_may_not_reach_a_loopback_host(
    host: str, origin: str | None, status: int, sim: Simulator
) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    async with aiohttp.ClientSession(sim.url) as session:
        for method, path in (("GET", "/prompt"), ("OPTIONS", "/prompt"), ("GET", "/queue")):
            async with session.request(method, path, headers=headers) as answer:
                assert answer.status == status


async def test_foreign_page_gets_no_socket(sim: Simulator) -> None:
    async with aiohttp.ClientSession(sim.url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/ws", headers={"Origin": "http://evil.example"})
        assert refused.value.status == 403


async def test_body_above_100_mib_is_refused_and_20_mib_is_taken(me: Artist) -> None:
    graph = plain_image()
    graph["1"]["_meta"] = {"title": "x" * 20 * 1024**2}
    body = json.dumps({"prompt": graph}).encode()
    async with me.session.post("/prompt", data=io.BytesIO(body)) as answer:
        assert answer.status == 200
    too_large = io.BytesIO(b"x" * (100 * 1024**2 + 1))
    async with me.session.post("/prompt", data=too_large) as answer:
        assert answer.status == 413
        assert await answer.text() == "Maximum request body size 104857600 exceeded."


async def test_address_above_8190_bytes_is_refused(me: Artist) -> None:
    async with me.session.get(f"/prompt?x={'y' * 8200}") as answer:
        assert answer.status == 400
    await me.get("/prompt?x=y")


async def test_idle_socket_gets_no_ping_and_its_pings_are_answered(me: Artist) -> None:
    assert await me.receives_nothing(0.3)
    reader = me.socket._reader  # the client library keeps pongs to itself
    me.socket._autoping = False
    await me.socket.ping(b"there?")
    async with asyncio.timeout(5):
        message = await reader.read()
    assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"there?")
