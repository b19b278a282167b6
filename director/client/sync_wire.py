"""A ``Wire`` over blocking sockets. Its coroutines never suspend."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

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


class SyncSocket:
    """An event stream whose ``receive`` blocks."""

    def __init__(self, connection: ClientConnection, closing: ExitStack) -> None:
        self._connection = connection
        self._closing = closing

    async def receive(self, timeout: float | None = None) -> str | Closed | None:
        """Return the next frame; see ``Socket``."""
        try:
            return str(self._connection.recv(timeout, decode=True))
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return Closed(close_code(closed))

    async def aclose(self) -> None:
        """Close the stream."""
        self._closing.close()


class SyncWire:
    """The connections of a ``Director``. May be shared by threads."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._http = httpx.Client(**client_options(timeout))

    async def send(self, request: Request, timeout: float | None = None) -> Answer:
        """Return the answer to a request; see ``Wire``."""
        options = self._address.http_options(request)
        try:
            response = self._http.request(**options, timeout=request_timeout(timeout))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(self._address.shown, error) from error
        return answer_of(response)

    async def save(self, url: str, file: AtomicFile) -> Path | Answer:
        """Stream a URL into a file; see ``Wire``."""
        headers = self._address.headers_for(url)
        try:
            with self._http.stream("GET", url, headers=headers) as response:
                if response.status_code != 200:
                    head = next(response.iter_bytes(MAX_ERROR_BYTES), b"")
                    return answer_of(response, head)
                for chunk in response.iter_bytes():
                    file.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(url, error) from error
        return file.commit()

    async def connect(self, path: str, timeout: float = 10.0) -> SyncSocket:
        """Open an event stream; see ``Wire``."""
        closing = ExitStack()
        options = self._address.socket_options(path, timeout)
        try:
            return SyncSocket(closing.enter_context(connect(**options)), closing)
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    async def sleep(self, seconds: float) -> None:
        """Block for a while."""
        time.sleep(seconds)  # noqa: ASYNC251 no event loop runs this coroutine

    async def aclose(self) -> None:
        """Close the connections."""
        self._http.close()
