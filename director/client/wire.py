"""What the client needs of HTTP and WebSockets, over blocking sockets and in an event loop.

The rules (``calls``, ``stream``, ``wait``, ``downloads``) are coroutines over a ``Wire``. ``AsyncWire`` awaits
its sockets. ``SyncWire`` blocks and never suspends, so that ``methods.run`` finishes a coroutine in one step.
Each rule is therefore written once.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, WebSocketException

from director.client.errors import StreamClosed, error_from_answer
from director.client.file_writer import AtomicFile
from director.client.requests import Request
from director.client.transport import (
    MAX_ERROR_BYTES,
    Address,
    answer_required,
    client_options,
    no_socket,
    request_timeout,
)

T = TypeVar("T")

#: Seconds without progress of an upload. The Director answers when the whole file is on its disk.
_UPLOAD_TIMEOUT: Final = 600.0


class Wire(ABC):
    """Sends and receives for one client. Each method raises a ``DirectorError`` if that fails."""

    _http_kind: type[Any]

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._http = self._http_kind(**client_options(timeout))

    async def send(self, request: Request, timeout: float | None = None, **form: Any) -> httpx.Response:
        """Return the answer to a request, with any status.

        ``timeout`` in seconds, None for the client's. ``form``: httpx's arguments for a form instead of a body.
        """
        options = self._address.http_options(request)
        with answer_required(self._address.shown):
            return await self._request(**options, **form, timeout=request_timeout(timeout))

    async def upload(self, path: str, file: Path, fields: dict[str, str]) -> httpx.Response:
        """Return the answer to a form with a file, which is read while it is sent."""
        with file.open("rb") as content:
            files = {"file": (file.name, content)}
            return await self.send(Request("POST", path), _UPLOAD_TIMEOUT, data=fields, files=files)

    async def save(self, url: str, file: AtomicFile) -> Path:
        """Stream a URL into a file and return its path."""
        with answer_required(url):
            return await self._save(url, self._address.headers_for(url), file)

    async def frames(self, path: str) -> AsyncGenerator[str]:
        """Yield the frames of the event stream at ``path``; raise ``StreamClosed`` when it is closed."""
        try:
            async with aclosing(self._frames(**self._address.socket_options(path))) as frames:
                async for frame in frames:
                    yield frame
        except ConnectionClosed as closed:
            raise StreamClosed(closed.rcvd.code if closed.rcvd else 1006) from closed
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    @abstractmethod
    async def _request(self, **options: Any) -> httpx.Response: ...

    @abstractmethod
    async def _save(self, url: str, headers: dict[str, str], file: AtomicFile) -> Path: ...

    @abstractmethod
    def _frames(self, **options: Any) -> AsyncGenerator[str]: ...

    @abstractmethod
    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        """Return the result of a function that reads a file for some time."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class SyncWire(Wire):
    """The connections of a ``Director``. May be shared by threads."""

    _http_kind = httpx.Client

    async def _request(self, **options: Any) -> httpx.Response:
        response: httpx.Response = self._http.request(**options)
        return response

    async def _save(self, url: str, headers: dict[str, str], file: AtomicFile) -> Path:
        with self._http.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise error_from_answer(response.status_code, next(response.iter_bytes(MAX_ERROR_BYTES), b""))
            for chunk in response.iter_bytes():
                file.write(chunk)
        return file.commit()

    async def _frames(self, **options: Any) -> AsyncGenerator[str]:
        with websockets.sync.client.connect(**options) as connection:
            try:
                while True:
                    yield str(connection.recv(decode=True))
            finally:
                connection.close()  # the context manager would tell the server of an error

    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        return work(path)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 no event loop runs this coroutine

    async def aclose(self) -> None:
        self._http.close()


class AsyncWire(Wire):
    """The connections of an ``AsyncDirector``."""

    _http_kind = httpx.AsyncClient

    async def _request(self, **options: Any) -> httpx.Response:
        response: httpx.Response = await self._http.request(**options)
        return response

    async def _save(self, url: str, headers: dict[str, str], file: AtomicFile) -> Path:
        async with self._http.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                head = await anext(response.aiter_bytes(MAX_ERROR_BYTES), b"")
                raise error_from_answer(response.status_code, head)
            async for chunk in response.aiter_bytes():
                file.write(chunk)
        # In a thread: a file that exists already is compared byte by byte.
        return await asyncio.to_thread(file.commit)

    async def _frames(self, **options: Any) -> AsyncGenerator[str]:
        async with websockets.asyncio.client.connect(**options) as connection:
            while True:
                yield await connection.recv(decode=True)

    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        return await asyncio.to_thread(work, path)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        await self._http.aclose()
