"""A TCP relay to a server, which a test can cut, stall and plug in again."""

import asyncio
import contextlib


class Cable:
    """Listens at a port of its own. Cut, it drops all connections and accepts none."""

    def __init__(self, host: str | None, port: int | None) -> None:
        self.port = 0
        #: Accepts connections, and passes nothing on.
        self.stalled = False
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    async def plug(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for end in tuple(self._ends):
            end.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        if self.stalled:
            return
        there = await asyncio.open_connection(*self._target)
        self._ends.add(there[1])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, there[1]))
            tasks.create_task(self._copy(there[0], writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._ends.discard(writer)
