"""Which time ran out when a backend did not answer: each is said with its own seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import ResponseLost
from backends.comfyui.exchange import Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n"
Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def silent(_writer: asyncio.StreamWriter) -> None:
    """No byte."""


async def breaking_off(writer: asyncio.StreamWriter) -> None:
    """The head and the start of a body, then no byte more."""
    writer.write(HEAD + b"{")
    await writer.drain()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """A body that goes on for ever, with short pauses."""
    writer.write(HEAD)
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """Serve connections that hear their request and then ``talk``; the URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(writer)
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("talk", [silent, breaking_off])
async def test_silence_is_said_with_the_seconds_of_silence(talk: Talk) -> None:
    times = Timeouts(silence_s=0.3, total_s=20.0)
    async with talking(talk) as url, ComfyClient(url, timeouts=times) as comfy:
        with pytest.raises(ResponseLost) as caught:
            await comfy.system_stats()
    assert caught.value.detail == "No whole answer came: 0.3 s passed without a byte."


async def test_an_answer_without_end_is_said_with_the_seconds_of_the_whole() -> None:
    times = Timeouts(silence_s=20.0, total_s=0.4)
    async with talking(dripping) as url, ComfyClient(url, timeouts=times) as comfy:
        with pytest.raises(ResponseLost) as caught:
            await comfy.system_stats()
    assert caught.value.detail == "No whole answer came within 0.4 s."
