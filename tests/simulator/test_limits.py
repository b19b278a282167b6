"""What ComfyUI's HTTP server refuses before any route sees it."""

import io
import json

import aiohttp
import pytest

from backends.simulator import Simulator
from tests.harness.graphs import plain_image
from tests.simulator.artist import Artist


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8188", "http://evil.example", 403),
        ("127.0.0.1:8188", "http://127.0.0.1", 200),
        ("127.0.0.1:8188", "null", 200),
        ("comfy.example:8188", "http://evil.example", 200),
        ("[::1]:8188", "http://evil.example", 403),
    ],
)
async def test_foreign_page_may_not_reach_a_loopback_host(host: str, origin: str, status: int, sim: Simulator) -> None:
    headers = {"Host": host, "Origin": origin}
    async with aiohttp.ClientSession(sim.url) as session:
        for method in ("GET", "OPTIONS"):
            async with session.request(method, "/prompt", headers=headers) as answer:
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
