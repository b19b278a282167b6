"""The error of an unanswered request has the time that elapsed: silence or total."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import ResponseLost
from backends.comfyui.exchange import Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes, *, endless: bool = False) -> AsyncIterator[str]:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            while endless:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
            await reader.read()
        writer.close()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(over.wait(), 10)


async def detail(url: str, times: Timeouts) -> str:
    async with ComfyClient(url, timeouts=times) as comfy:
        with pytest.raises(ResponseLost) as caught:
            await comfy.system_stats()
    return caught.value.detail


@pytest.mark.parametrize("answer", [b"", HEAD + b"{"])
async def test_silence_is_reported_with_its_seconds(answer: bytes) -> None:
    async with answering(answer) as url:
        found = await detail(url, Timeouts(silence_s=0.3, total_s=20.0))
    assert found == "No whole answer came: 0.3 s passed without a byte."


async def test_endless_answer_is_reported_with_the_total_time() -> None:
    async with answering(HEAD, endless=True) as url:
        found = await detail(url, Timeouts(silence_s=20.0, total_s=0.4))
    assert found == "No whole answer came within 0.4 s."
