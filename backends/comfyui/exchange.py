"""One HTTP exchange with a backend: bounded in bytes and in time, errors translated.

Nothing of aiohttp leaves this module but through ``Answer`` and ``StreamedAnswer``.
"""

import asyncio
import contextlib
import datetime as dt
import enum
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from backends.comfyui.connector import Connector, reason_of
from backends.comfyui.destinations import BACKENDS, Destinations
from backends.comfyui.errors import (
    AccessDenied,
    AnswerTooLarge,
    BackendUnreachable,
    NotComfyUI,
    ResponseLost,
)

USER_AGENT: Final = "comfyui-director"
#: Seconds for which a connection that sends prompts is kept after an answer. See
#: ``Connections.RECENT``.
_RECENT_S: Final = 1.0
LEAST_RATE: Final = 16 * 1024  #: Bytes a second of a body. See ``Timeouts.slow_s``.
_MAX_HEADER: Final = 64 * 1024  #: Bytes of one header of an answer.
#: Bytes of a body above which no more is received until they are read.
_BUFFERED: Final = 64 * 1024
#: Pieces of a body between which no other task runs. One may have 4,096 chunks, which take 2 ms.
_PIECES_AT_ONCE: Final = 4


class Connections(enum.Enum):
    """Which connections a request may use.

    A request on a kept connection that fails may have been carried out; only a new connection
    distinguishes "not sent" from "uncertain". If the host has vanished since the last answer, each
    kept connection makes a request uncertain.
    """

    #: Any that is open: for frequent requests that change nothing, or may be repeated.
    KEPT = enum.auto()
    #: One that answered within the last second, else a new one: for prompts. A server that ends
    #: then has closed it.
    RECENT = enum.auto()
    NEW = enum.auto()  #: None that is open.


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a backend may take, in seconds."""

    connect_s: float = 3.0  #: Until a connection is made.
    silence_s: float = 10.0  #: Longest pause inside an answer.
    #: Longest time that a body may take beyond that of its bytes at ``LEAST_RATE``: one that
    #: trickles ends, and one of 4 GiB over a slow link does not.
    slow_s: float = 60.0
    total_s: float = 30.0  #: For a whole request with its answer.
    submit_s: float = 30.0  #: For ``POST /prompt``, whose validation takes seconds.
    upload_s: float = 60.0  #: Longest pause inside an upload, until ComfyUI has written the file.
    open_s: float = 10.0  #: Until an event socket is open.
    ping_interval_s: float = 30.0  #: Between pings on an event socket.
    #: Until a missing pong ends the socket: a ComfyUI that loads a model answers late.
    ping_timeout_s: float = 90.0
    close_s: float = 5.0  #: For the closing handshake of an event socket.


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server that a client speaks with, and what its requests and its event sockets have in
    common.
    """

    url: str  #: Without a slash at the end.
    headers: Mapping[str, str]
    timeouts: Timeouts
    context: ssl.SSLContext | None  #: Of https.
    secrets: Collection[str] = ()  #: Texts that are removed from what it sends.


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, at most as long as the limit."""

    status: int
    content_type: str
    body: bytes
    location: str = ""  #: Where a redirect leads, ``""`` for an answer without one.

    @property
    def is_page(self) -> bool:
        """Whether this is HTML, which ComfyUI's API never answers with."""
        return "html" in self.content_type or self.body[:64].lstrip()[:1] == b"<"


class Pace:
    """Decides whether a body comes too slowly: :data:`LEAST_RATE`, and at most ``slow_s`` longer."""

    def __init__(self, slow_s: float) -> None:
        self._spare_s = self._slow_s = slow_s

    def is_too_slow(self, seconds: float, size: int) -> bool:
        """Return whether the body is too slow after so many bytes that took so many seconds."""
        # Not more than at the beginning: of a long file that trickles at last, the end is near too.
        self._spare_s = min(self._spare_s - seconds + size / LEAST_RATE, self._slow_s)
        return self._spare_s < 0


class StreamedAnswer:
    """An answer whose head has come and whose body is read by the caller; ``length`` is None if it
    was not sent.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        max_bytes: int | None,
        silence_s: float,
        slow_s: float,
        request: str,
    ) -> None:
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.raw_headers:
            self._add_header(name.decode("latin-1").lower(), value)
        length = self.headers.get("content-length", "")
        self.length = int(length) if length.isascii() and length.isdigit() else None
        self.location = self.headers.get("location", "")
        self._body = response.content
        self._max_bytes = max_bytes
        self._silence_s = silence_s
        self._slow_s = slow_s
        self._request = request

    def _add_header(self, name: str, value: bytes) -> None:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        self.headers[name] = f"{self.headers[name]}, {text}" if name in self.headers else text

    def moment(self, header: str) -> dt.datetime | None:
        """Return the time in a header such as ``date``, in UTC; None where it has none."""
        try:
            return parsedate_to_datetime(self.headers.get(header, "")).astimezone(dt.UTC)
        except (ValueError, OverflowError):
            return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; can be read once.

        Raises ``AnswerTooLarge``, or ``ResponseLost`` if it broke off, paused for too long, or was
        too slow. The time in which the caller does not read does not count.
        """
        read, pace = 0, Pace(self._slow_s)
        for number in itertools.count(1):
            if number % _PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)
            began = time.monotonic()
            with map_errors(silence_s=self._silence_s):
                chunk = await self._piece()
            if not chunk:
                return
            read += len(chunk)
            if pace.is_too_slow(time.monotonic() - began, len(chunk)):
                raise ResponseLost(
                    f"The answer was too slow: {read} bytes had come, less than 16 KiB a second."
                )
            if self._max_bytes is not None and read > self._max_bytes:
                raise self._too_large(self._max_bytes)
            yield chunk

    async def _piece(self) -> bytes:
        try:
            return await self._body.readany()
        except aiohttp.ClientPayloadError as exc:
            missing = "incomplete chunked read"
            if self.length is not None:
                missing = f"received {self._body.total_bytes} bytes, expected {self.length}"
            raise ConnectionError(
                f"peer closed connection without sending complete message body ({missing})"
            ) from exc

    def check(self) -> None:
        """Refuse bodies that are compressed (a few bytes could become gigabytes) or too long."""
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            detail = "The answer is compressed, although the request forbids it."
            raise NotComfyUI(detail, status=self.status)
        if self._max_bytes is not None and (self.length or 0) > self._max_bytes:
            raise self._too_large(self._max_bytes)

    def _too_large(self, limit_bytes: int) -> AnswerTooLarge:
        method, _, path = self._request.partition("?")[0].partition(" ")
        detail = f"{method} {path} was answered with more than {limit_bytes} bytes and was cut off."
        return AnswerTooLarge(detail, path=path)


class _Body:
    """The body of a request: its own errors are kept, which aiohttp wraps, and the server's pauses
    are bounded.
    """

    def __init__(self, content: bytes | AsyncIterator[bytes], size: int, silence_s: float) -> None:
        self.failure: Exception | None = None
        self._content = content
        self._size = len(content) if isinstance(content, bytes) else size
        self._silence_s = silence_s
        self.headers: Final = {"Content-Length": str(self._size)}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._size
        try:
            async for piece in self._pieces():
                left -= len(piece)
                if left < 0:
                    break
                self._expect(self._silence_s)
                yield piece
                self._expect(None)
            if left:
                raise ValueError("the body has another length than its Content-Length")
        except Exception as error:
            self.failure = error
            raise
        self._expect(self._silence_s)

    async def _pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._content, bytes):
            yield self._content
            return
        async for piece in self._content:
            yield piece

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Until the head of the answer has come: end the block if no byte of the body is taken for
        ``silence_s``.
        """
        try:
            async with asyncio.timeout(None) as self._pause:
                yield
        except TimeoutError as error:
            if self._pause.expired():
                raise aiohttp.SocketTimeoutError from error
            raise

    def _expect(self, within_s: float | None) -> None:
        # An answer that comes before the end of the body ends the deadline.
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._pause.reschedule(None if within_s is None else loop.time() + within_s)


class Exchange:
    def __init__(
        self, endpoint: Endpoint, *, max_answer_bytes: int, destinations: Destinations = BACKENDS
    ) -> None:
        self._endpoint = endpoint
        self.max_bytes = max_answer_bytes
        self._destinations = destinations
        self._sessions: dict[Connections, aiohttp.ClientSession] = {}

    async def aclose(self) -> None:
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()

    def _session(self, connections: Connections) -> aiohttp.ClientSession:
        """Return the session for a kind of connections; it belongs to the event loop of its first
        request.
        """
        session = self._sessions.get(connections)
        if session is not None:
            return session
        headers = CIMultiDict(
            {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        )
        headers.update(self._endpoint.headers)
        options: dict[str, Any] = {"keepalive_timeout": 5.0}
        if connections is Connections.RECENT:
            options = {"keepalive_timeout": _RECENT_S}
        elif connections is Connections.NEW:
            options = {"force_close": True}
        session = self._sessions[connections] = aiohttp.ClientSession(
            connector=Connector(
                self._destinations,
                self._endpoint.context,
                connect_s=self._endpoint.timeouts.connect_s,
                **options,
            ),
            headers=headers,
            skip_auto_headers=("Content-Type",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFERED,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )
        # A request that may have been carried out is not repeated, not even one that only reads.
        session._retry_connection = False
        return session

    async def request(
        self,
        method: str,
        path: str,
        *,
        connections: Connections = Connections.KEPT,
        total_s: float | None = None,
        max_bytes: int | None = None,
        **request: Any,
    ) -> Answer:
        """Send one request and read its whole answer.

        Args:
            path: below the backend's URL, percent-encoded.
            total_s: deadline for everything, and for pauses; None takes ``Timeouts``'.
            max_bytes: limit for the answer, where it is below the client's own.

        Raises ``BackendUnreachable``, ``ResponseLost``, ``AnswerTooLarge``, or ``NotComfyUI`` for a
        compressed answer.
        """
        limit_s = total_s or self._endpoint.timeouts.total_s
        max_bytes = min(max_bytes or self.max_bytes, self.max_bytes)
        # Who sets a deadline waits for a server that thinks, as validation does.
        silence_s = total_s or self._endpoint.timeouts.silence_s
        with map_errors(silence_s=silence_s, limit_s=limit_s):
            async with (
                asyncio.timeout(limit_s),
                self.open(
                    method,
                    path,
                    max_bytes=max_bytes,
                    connections=connections,
                    silence_s=silence_s,
                    **request,
                ) as answer,
            ):
                body = b"".join([chunk async for chunk in answer.chunks()])
        for secret in set(self._endpoint.secrets):
            body = body.replace(secret.encode(), b"")
        return Answer(answer.status, answer.headers.get("content-type", ""), body, answer.location)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int | None = None,
        connections: Connections = Connections.KEPT,
        silence_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        size: int = 0,
        checked: bool = True,
    ) -> AsyncIterator[StreamedAnswer]:
        """Send one request and leave the body to the caller; raise the errors of ``request``.

        The deadline of the body depends on its bytes (``Timeouts.slow_s``), and that of pauses in
        it is ``silence_s``; None takes ``Timeouts``'. ``size`` is that of a ``content`` in pieces,
        whose errors are passed on. Nothing is sent before its first piece. ``max_bytes`` None: no
        limit. ``checked`` False: the caller does not depend on the body, which may be compressed.
        """
        silence_s = silence_s or self._endpoint.timeouts.silence_s
        body = None if content is None else _Body(content, size, silence_s)
        with map_errors(silence_s=silence_s):
            response = await self._head(
                connections,
                body,
                method=method,
                url=URL(f"{self._endpoint.url}{path}", encoded=True),
                headers={**(headers or {}), **(body.headers if body else {})},
                timeout=aiohttp.ClientTimeout(sock_read=silence_s),
            )
        try:
            answer = StreamedAnswer(
                response,
                max_bytes=max_bytes,
                silence_s=silence_s,
                slow_s=self._endpoint.timeouts.slow_s,
                request=f"{method} {path}",
            )
            if checked:
                answer.check()
            yield answer
        finally:
            response.release()

    async def _head(
        self, connections: Connections, body: "_Body | None", **request: Any
    ) -> aiohttp.ClientResponse:
        session = self._session(connections)
        if body is None:
            return await session.request(**request, allow_redirects=False)
        try:
            async with body.deadline():
                return await session.request(**request, allow_redirects=False, data=body)
        except aiohttp.ClientError:
            if body.failure is not None:
                raise body.failure from None
            raise


@contextlib.contextmanager
def map_errors(*, silence_s: float, limit_s: float | None = None) -> Iterator[None]:
    """Turn the libraries' exceptions into ours.

    ``silence_s`` is the value of aiohttp's own timeouts: seconds in which no byte was read or
    taken. ``limit_s`` is the deadline behind a ``TimeoutError`` inside, in seconds; None for none.
    """
    try:
        yield
    except aiohttp.InvalidURL as exc:
        raise BackendUnreachable(f"No connection: {reason_of(exc)}.") from exc
    except aiohttp.ServerTimeoutError as exc:
        detail = f"No whole answer came: {silence_s:g} s passed without a byte."
        raise ResponseLost(detail) from exc
    except TimeoutError as exc:
        within = "" if limit_s is None else f" within {limit_s:g} s"
        raise ResponseLost(f"No whole answer came{within}.") from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise ResponseLost(f"The answer broke off: {reason_of(exc)}.") from exc


def check_status(status: int, *, request: str) -> None:
    """Let 200 pass; ``request`` is method and path, for the sentence.

    Raises ``AccessDenied`` for 401 and 403, ``ResponseLost`` for 5xx, 408, 425 and 429, else
    ``NotComfyUI``.
    """
    if status == 200:
        return
    if status in (401, 403):
        raise AccessDenied(f"{request} was denied with {status}.", status=status)
    if status >= 500 or status in (408, 425, 429):
        raise ResponseLost(f"{request} was answered with {status}.", status=status)
    redirect = f"a redirect ({status}), which is not followed"
    what = redirect if 300 <= status < 400 else f"{status}, as no ComfyUI does"
    raise NotComfyUI(f"{request} was answered with {what}.", status=status)
