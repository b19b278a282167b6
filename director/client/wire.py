"""What the client needs of HTTP and WebSockets, over blocking sockets and in an event loop.

The rules (``calls``, ``stream``, ``wait``, ``downloads``) are coroutines over a ``Wire``. ``AsyncWire`` awaits
its sockets. ``SyncWire`` blocks and never suspends, so that ``methods.run`` finishes a coroutine in one step.
Each rule is therefore written once.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, WebSocketException

from director.client.errors import error_from_answer
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


@dataclass(frozen=True, slots=True)
class Closed:
    """The event stream ended with this close code."""

    code: int


class Socket(ABC):
    """An open event stream."""

    async def receive(self, timeout: float | None = None) -> str | Closed | None:
        """Return the next frame, ``Closed``, or None after ``timeout`` seconds without a frame."""
        try:
            return await self._text(timeout)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return Closed(closed.rcvd.code if closed.rcvd else 1006)

    @abstractmethod
    async def _text(self, timeout: float | None) -> str: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Close the stream."""


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

    async def connect(self, path: str, timeout: float = 10.0) -> Socket:
        """Open the event stream at ``path``. ``timeout`` in seconds."""
        try:
            return await self._connect(**self._address.socket_options(path, timeout))
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    @abstractmethod
    async def _request(self, **options: Any) -> httpx.Response: ...

    @abstractmethod
    async def _save(self, url: str, headers: dict[str, str], file: AtomicFile) -> Path: ...

    @abstractmethod
    async def _connect(self, **options: Any) -> Socket: ...

    @abstractmethod
    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        """Return the result of a function that reads a file for some time."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class SyncSocket(Socket):
    """An event stream whose ``receive`` blocks."""

    def __init__(self, **options: Any) -> None:
        # websockets deprecates blocking connections without a context manager.
        self._closing = ExitStack()
        self._connection = self._closing.enter_context(websockets.sync.client.connect(**options))

    async def _text(self, timeout: float | None) -> str:
        return str(self._connection.recv(timeout, decode=True))

    async def aclose(self) -> None:
        self._closing.close()


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

    async def _connect(self, **options: Any) -> SyncSocket:
        return SyncSocket(**options)

    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        return work(path)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 no event loop runs this coroutine

    async def aclose(self) -> None:
        self._http.close()


class AsyncSocket(Socket):
    """An event stream whose ``receive`` is awaited."""

    def __init__(self, connection: websockets.asyncio.client.ClientConnection) -> None:
        self._connection = connection

    async def _text(self, timeout: float | None) -> str:
        async with asyncio.timeout(timeout):
            return await self._connection.recv(decode=True)

    async def aclose(self) -> None:
        await self._connection.close()


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

    async def _connect(self, **options: Any) -> AsyncSocket:
        return AsyncSocket(await websockets.asyncio.client.connect(**options))

    async def in_thread(self, work: Callable[[Path], T], path: Path) -> T:
        return await asyncio.to_thread(work, path)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        await self._http.aclose()
