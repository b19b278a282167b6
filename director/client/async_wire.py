"""A ``Wire`` in an event loop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from director.client.file_writer import AtomicFile
from director.client.transport import (
    MAX_ERROR_BYTES,
    Address,
    answer_of,
    client_options,
    close_code,
    lost_answer,
    no_socket,
    request_timeout,
)
from director.client.wire import Answer, Closed, Request


class AsyncSocket:
    """An event stream whose ``receive`` is awaited."""

    def __init__(self, connection: ClientConnection, closing: AsyncExitStack) -> None:
        self._connection = connection
        self._closing = closing

    async def receive(self, timeout: float | None = None) -> str | Closed | None:
        """Return the next frame; see ``Socket``."""
        try:
            async with asyncio.timeout(timeout):
                return str(await self._connection.recv(decode=True))
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return Closed(close_code(closed))

    async def aclose(self) -> None:
        """Close the stream."""
        await self._closing.aclose()


class AsyncWire:
    """The connections of an ``AsyncDirector``."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._http = httpx.AsyncClient(**client_options(timeout))

    async def send(self, request: Request, timeout: float | None = None) -> Answer:
        """Return the answer to a request; see ``Wire``."""
        options = self._address.http_options(request)
        try:
            response = await self._http.request(**options, timeout=request_timeout(timeout))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(self._address.shown, error) from error
        return answer_of(response)

    async def save(self, url: str, file: AtomicFile) -> Path | Answer:
        """Stream a URL into a file; see ``Wire``."""
        headers = self._address.headers_for(url)
        try:
            async with self._http.stream("GET", url, headers=headers) as response:
                if response.status_code != 200:
                    head = await anext(response.aiter_bytes(MAX_ERROR_BYTES), b"")
                    return answer_of(response, head)
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(url, error) from error
        # In a thread: a file that exists already is compared byte by byte.
        return await asyncio.to_thread(file.commit)

    async def connect(self, path: str, timeout: float = 10.0) -> AsyncSocket:
        """Open an event stream; see ``Wire``."""
        closing = AsyncExitStack()
        options = self._address.socket_options(path, timeout)
        try:
            return AsyncSocket(await closing.enter_async_context(connect(**options)), closing)
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    async def sleep(self, seconds: float) -> None:
        """Wait in the event loop."""
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
