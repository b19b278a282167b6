"""What the client needs of HTTP and WebSockets, over blocking sockets and in an event loop.

The rules (``calls``, ``stream``, ``wait``, ``downloads``) are coroutines over a ``Wire``.
``AsyncWire`` awaits its sockets. ``SyncWire`` blocks and never suspends, so that ``methods.run``
finishes a coroutine in one step. Each rule is therefore written once.
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
from director.client.transport import Address, answer_required, authorities, no_socket

T = TypeVar("T")

#: Seconds for a connection; a host that is off does not answer.
CONNECT_TIMEOUT_S: Final = 5.0
#: Frames of the API stay below 1 MiB.
MAX_FRAME_BYTES: Final = 16 * 2**20
#: At most this much of an error page is read.
MAX_ERROR_BYTES: Final = 2**20
#: Seconds without progress of an upload. The Director answers when the whole file is on its disk.
_UPLOAD_TIMEOUT: Final = 600.0


def _limits(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S))


class Wire(ABC):
    """Sends and receives for one client. Each method raises a ``DirectorError`` if that fails."""

    _http_kind: type[Any]

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._http = self._http_kind(
            verify=authorities(),
            timeout=_limits(timeout),
            # Each wait for a group occupies a connection.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # Proxy variables and .netrc are ignored.
            trust_env=False,
            follow_redirects=False,
        )

    async def send(
        self, request: Request, timeout: float | None = None, **form: Any
    ) -> httpx.Response:
        """Return the answer to a request, with any status.

        ``timeout`` in seconds, None for the client's. ``form``: httpx's arguments for a form
        instead of a body.
        """
        url = self._address.url + request.path
        headers = {
            **self._address.headers_for(url),
            "Accept": "application/json",
            **request.headers,
        }
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
        with answer_required(self._address.public_url):
            return await self._request(
                method=request.method,
                url=url,
                params=list(request.params) or None,
                content=request.body,
                headers=headers,
                timeout=_limits(timeout or self._timeout),
                **form,
            )

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
        """Yield the frames of the event stream at ``path``; raise ``StreamClosed`` when it is
        closed.
        """
        url = self._address.url
        headers = self._address.headers_for(url)
        agent = headers.pop("User-Agent")
        del headers["Accept-Encoding"]
        options = {
            "uri": "ws" + url.removeprefix("http") + path,
            "additional_headers": headers,
            "user_agent_header": agent,
            "compression": None,
            "proxy": None,
            "ssl": authorities() if url.startswith("https:") else None,
            "open_timeout": 10.0,
            # The caller has its result and should not wait.
            "close_timeout": 1.0,
            "max_size": MAX_FRAME_BYTES,
        }
        try:
            async with aclosing(self._frames(**options)) as frames:
                async for frame in frames:
                    yield frame
        except ConnectionClosed as closed:
            raise StreamClosed(closed.rcvd.code if closed.rcvd else 1006) from closed
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.public_url, error) from error

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
                head = next(response.iter_bytes(MAX_ERROR_BYTES), b"")
                raise error_from_answer(response.status_code, head, response.headers)
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
                raise error_from_answer(response.status_code, head, response.headers)
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
