"""The event socket of one client id: parsed events out, nothing raised for bad frames."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from backends.comfyui.connector import reason_of
from backends.comfyui.destinations import connect as connect_socket
from backends.comfyui.errors import (
    BackendUnreachable,
    NotComfyUI,
    ProtocolError,
    ResponseLost,
    SocketLost,
)
from backends.comfyui.exchange import USER_AGENT, Endpoint, check_status
from backends.comfyui.protocol import MAX_BINARY_FRAME_BYTES, Event, parse

logger = logging.getLogger(__name__)

#: Types 1 and 4 (comfyui-protocol.md, "Binary frames").
_PREVIEW_HEADS: Final = (b"\x00\x00\x00\x01", b"\x00\x00\x00\x04")
#: Must be the first message; a later one is ignored (comfyui-protocol.md, "Binary frames").
_FEATURE_FLAGS: Final = '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'


#: Frames of a socket that are read within so many seconds at most: ComfyUI sends some hundreds.
_FRAMES: Final = 256
_FRAMES_SECONDS: Final = 0.1
#: The part of the event loop's time in which bytes of a socket are received, if they have many
#: small frames: pings are answered there, unread.
_SHARE: Final = 0.1
_SHORT: Final = 0.002  #: Seconds of a reception after which there is no rest.
#: Bytes that are received at once. 256 KiB of empty frames would take a second.
_RECEIVED_AT_ONCE: Final = 2**15


class Tap:
    """Receives each frame as it came, text without secrets, while it is open."""

    is_open = False

    def receive(self, frame: str | bytes) -> None:
        """Take in a frame. Never waits, and raises nothing."""


class EventSocket:
    """An open socket. Iterate over it to read its events, and wait for nothing else meanwhile.

    A socket that is not read stalls the events of every client of that ComfyUI
    (comfyui-protocol.md, trap 2). It receives the events of prompts that are sent with its
    ``client_id``. ``wants_previews`` is called for each preview; a refused preview is skipped
    unread. ``tap`` gets all frames.
    """

    def __init__(
        self,
        connection: ClientConnection,
        endpoint: Endpoint,
        client_id: str,
        wants_previews: Callable[[], bool],
        tap: Tap,
    ) -> None:
        self.client_id = client_id
        self._connection = connection
        self._endpoint = endpoint
        self._wants_previews = wants_previews
        self._tap = tap
        self._closing = False
        self._frames = 0
        self._began_at = float("-inf")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; raise ``SocketLost`` if the socket ended and it was not we who
        closed it.
        """
        while True:
            try:
                frame = await self._connection.recv()
            except ConnectionClosed as exc:
                if self._closing:
                    raise StopAsyncIteration from exc
                raise _lost_error(exc) from exc
            self._frames += 1
            if self._frames == _FRAMES:
                await self._rest()
            event = self._event(frame)
            if event is not None:
                return event

    async def _rest(self) -> None:
        """Let the other backends go on: frames that are there already are read without a wait."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._began_at + _FRAMES_SECONDS - loop.time()))
        self._frames, self._began_at = 0, loop.time()

    async def close(self) -> None:
        """Close and wait for the close: until then ComfyUI may route events here
        (comfyui-protocol.md, "WebSocket").
        """
        self._closing = True
        await self._connection.close()

    def _event(self, frame: str | bytes) -> Event | None:
        if isinstance(frame, str):
            for secret in set(self._endpoint.secrets):
                frame = frame.replace(secret, "")
        if self._tap.is_open:
            self._tap.receive(frame)
        if frame[:4] in _PREVIEW_HEADS and not self._wants_previews():
            return None
        try:
            return parse(frame)
        except ProtocolError as exc:
            logger.debug("skipped a frame of %s: %s", self._endpoint.url, exc)
            return None


@contextlib.asynccontextmanager
async def open_socket(
    endpoint: Endpoint, client_id: str, wants_previews: Callable[[], bool], tap: Tap
) -> AsyncIterator[EventSocket]:
    """Open the event socket of ``client_id``; leaving the block closes it and waits for the close.

    The id is new for each socket, never one that is open (comfyui-protocol.md, "WebSocket", second
    socket).

    Raises ``BackendUnreachable``, ``ResponseLost``, ``AccessDenied``, ``NotComfyUI`` or
    ``SocketLost``.
    """
    connection = await _connect(endpoint, client_id)
    socket = EventSocket(connection, endpoint, client_id, wants_previews, tap)
    try:
        try:
            await connection.send(_FEATURE_FLAGS)
        except ConnectionClosed as exc:
            raise _lost_error(exc) from exc
        yield socket
    finally:
        await socket.close()


class _Connection(ClientConnection):
    """A connection that takes a part of the event loop's time at most: a backend that floods it
    delays its own events.
    """

    _is_full = False  #: Whether its frames wait to be read.
    _is_resting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _RECEIVED_AT_ONCE
        self.recv_messages.pause, self.recv_messages.resume = self._pause, self._resume

    def data_received(self, data: bytes) -> None:
        began = time.thread_time()
        super().data_received(data)
        spent = time.thread_time() - began
        if spent > _SHORT and not self._is_resting:
            self._is_resting = True
            self.transport.pause_reading()
            self.loop.call_later(spent / _SHARE, self._end_rest)

    def _end_rest(self) -> None:
        self._is_resting = False
        if not self._is_full:
            self.transport.resume_reading()

    def _pause(self) -> None:
        self._is_full = True
        self.transport.pause_reading()

    def _resume(self) -> None:
        self._is_full = False
        if not self._is_resting:
            self.transport.resume_reading()


class _Connect(connect):
    """A connection that never follows a redirect: only registered backends are connected to."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _connect(endpoint: Endpoint, client_id: str) -> ClientConnection:
    url, timeouts = endpoint.url, endpoint.timeouts
    uri = f"ws{url.removeprefix('http')}/ws?clientId={quote(client_id, safe='')}"
    options: dict[str, Any] = {
        "additional_headers": dict(endpoint.headers),
        "user_agent_header": USER_AGENT,
        "compression": None,
        "create_connection": _Connection,
        "proxy": None,
        "max_size": MAX_BINARY_FRAME_BYTES + 1024,
        "open_timeout": None,
        "ping_interval": timeouts.ping_interval_s,
        "ping_timeout": timeouts.ping_timeout_s,
        "close_timeout": timeouts.close_s,
    }
    if url.startswith("https:"):
        options["ssl"] = endpoint.context
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(timeouts.open_s):
            return await _Connect(
                uri, sock=await connect_socket(parts.hostname or "", port), **options
            )
    except TimeoutError as exc:
        raise ResponseLost(f"The event socket did not open within {timeouts.open_s:g} s.") from exc
    except OSError as exc:
        raise BackendUnreachable(f"No connection: {reason_of(exc)}.") from exc
    except InvalidStatus as exc:
        check_status(exc.response.status_code, request="The event socket")
        detail = "The event socket was answered with an ordinary page."
        raise NotComfyUI(detail, status=exc.response.status_code) from exc
    except (InvalidHandshake, InvalidURI) as exc:
        if isinstance(exc.__cause__, EOFError):
            detail = "The connection ended while the event socket was opened."
            raise ResponseLost(detail) from exc
        detail = f"The event socket was not answered as a WebSocket: {str(exc).rstrip('.')}."
        raise NotComfyUI(detail) from exc


def _lost_error(exc: ConnectionClosed) -> SocketLost:
    """No close frame comes from a killed server (comfyui-protocol.md, "WebSocket")."""
    frame = exc.rcvd or exc.sent
    if frame is None:
        return SocketLost("The event socket broke off without a close frame.")
    why = f"{frame.code}{' ' + frame.reason if frame.reason else ''}"
    return SocketLost(f"The event socket was closed ({why}).")
