"""A line to the real Redis that a test can cut, stall and mend."""

from __future__ import annotations

import asyncio
import contextlib

REDIS = ("127.0.0.1", 6379)


class RedisLine:
    """A TCP port that leads to Redis. While it is down connections are refused at once."""

    def __init__(self) -> None:
        self.port = 0
        self.stalled = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def up(self) -> None:
        """Lead to Redis, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Cut every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self.stalled:
            return
        redis_reader, redis_writer = await asyncio.open_connection(*REDIS)
        self._writers.add(redis_writer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, redis_writer))
            tasks.create_task(self._copy(redis_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)
