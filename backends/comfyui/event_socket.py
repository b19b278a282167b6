"""The event socket of one client id: parsed events out, nothing raised for bad frames."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from backends.comfyui.destinations import CheckedConnection, PeerRefused, permitted_addresses
from backends.comfyui.errors import BackendUnreachable, NotComfyUI, ProtocolError, ResponseLost, SocketLost
from backends.comfyui.exchange import USER_AGENT, Timeouts, check_status, reason_of
from backends.comfyui.loopback import LOOPBACK_HOSTS, is_localhost
from backends.comfyui.protocol import MAX_BINARY_FRAME_BYTES, Event, parse

logger = logging.getLogger(__name__)

#: Types 1 and 4 (comfyui-protocol.md, "Binary frames").
_PREVIEW_HEADS: Final = (b"\x00\x00\x00\x01", b"\x00\x00\x00\x04")


class EventSocket:
    """An open socket. Iterate over it to read its events; read without pause.

    A socket that is not read stalls the events of every client of that ComfyUI
    (comfyui-protocol.md, trap 2), so the loop over it must wait for nothing else.

    Attributes:
        client_id: this socket receives the events of prompts that are sent with it.
        frames: messages received so far.
        unknown_frames: of these, of a type that is not known; skipped.
        broken_frames: of these, not readable; skipped.
        wants_previews: called for each preview; a refused preview is skipped unread.
    """

    def __init__(self, connection: ClientConnection, *, url: str, client_id: str, previews: bool) -> None:
        self.client_id = client_id
        self.frames = 0
        self.unknown_frames = 0
        self.broken_frames = 0
        self._connection = connection
        self._url = url
        self.wants_previews: Callable[[], bool] = lambda: previews
        self._closing = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            SocketLost: the socket ended and it was not we who closed it.
        """
        while True:
            event = self._event(await self._receive())
            if event is not None:
                return event

    async def close(self) -> None:
        """Close and wait for the close: until then ComfyUI may route events here (comfyui-protocol.md, "WebSocket")."""
        self._closing = True
        await self._connection.close()

    async def _receive(self) -> str | bytes:
        try:
            frame = await self._connection.recv()
        except ConnectionClosed as exc:
            if self._closing:
                raise StopAsyncIteration from exc
            raise _lost(exc, self._url) from exc
        self.frames += 1
        return frame

    def _event(self, frame: str | bytes) -> Event | None:
        if _is_preview(frame) and not self.wants_previews():
            return None
        try:
            event = parse(frame)
        except ProtocolError as exc:
            self.broken_frames += 1
            logger.debug("skipped a frame of %s: %s", self._url, exc)
            return None
        self.unknown_frames += event is None
        return event


def _is_preview(frame: str | bytes) -> bool:
    return isinstance(frame, bytes) and frame[:4] in _PREVIEW_HEADS


@contextlib.asynccontextmanager
async def open_socket(
    url: str, *, client_id: str, headers: Mapping[str, str], timeouts: Timeouts, context: ssl.SSLContext, previews: bool
) -> AsyncIterator[EventSocket]:
    """Open the event socket of ``client_id``; leaving the block closes it and waits for the close.

    Args:
        url: the backend's base URL.
        client_id: new for each socket, never one that is open (comfyui-protocol.md, "WebSocket",
            second socket).
        previews: whether preview images are received.

    Raises:
        BackendUnreachable: no connection could be made.
        ResponseLost: the handshake broke off or took too long.
        AccessDenied: 401 or 403.
        NotComfyUI: anything else than a WebSocket answers there.
        SocketLost: it ended before its first message was sent.
    """
    connection = await _connected(url, client_id, headers, timeouts, context)
    socket = EventSocket(connection, url=url, client_id=client_id, previews=previews)
    try:
        await _send_feature_flags(connection, url, previews=previews)
        yield socket
    finally:
        await socket.close()


class _Connect(connect):
    """A connection that never follows a redirect: only registered backends are connected to."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _connected(
    url: str, client_id: str, headers: Mapping[str, str], timeouts: Timeouts, context: ssl.SSLContext
) -> ClientConnection:
    uri = f"ws{url.removeprefix('http')}/ws?clientId={quote(client_id, safe='')}"
    options: dict[str, Any] = {
        "additional_headers": dict(headers),
        "user_agent_header": USER_AGENT,
        "compression": None,
        "create_connection": CheckedConnection,
        "proxy": None,
        "max_size": MAX_BINARY_FRAME_BYTES + 1024,
        "open_timeout": timeouts.open_s,
        "ping_interval": timeouts.ping_interval_s,
        "ping_timeout": timeouts.ping_timeout_s,
        "close_timeout": timeouts.close_s,
    }
    if url.startswith("https:"):
        options["ssl"] = context
    try:
        return await _connected_anywhere(uri, options)
    except TimeoutError as exc:
        detail = f"The event socket did not open within {timeouts.open_s:g} s."
        raise ResponseLost(detail, url=url) from exc
    except OSError as exc:
        raise BackendUnreachable(f"No connection: {reason_of(exc)}.", url=url) from exc
    except InvalidStatus as exc:
        check_status(exc.response.status_code, url=url, request="The event socket")
        detail = "The event socket was answered with an ordinary page."
        raise NotComfyUI(detail, url=url, status=exc.response.status_code) from exc
    except (InvalidHandshake, InvalidURI) as exc:
        raise _bad_handshake(exc, url) from exc


async def _connected_anywhere(uri: str, options: dict[str, Any]) -> ClientConnection:
    parts = urlsplit(uri)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if not is_localhost(host):
        try:
            return await _Connect(uri, **options)
        except PeerRefused:
            for address in await permitted_addresses(host, port):
                with contextlib.suppress(ConnectionError):
                    return await _Connect(uri, host=address, port=port, **options)
            raise
    first, second = LOOPBACK_HOSTS
    try:
        return await _Connect(uri, host=first, port=port, **options)
    except ConnectionRefusedError:
        return await _Connect(uri, host=second, port=port, **options)


async def _send_feature_flags(connection: ClientConnection, url: str, *, previews: bool) -> None:
    """Must be the first message; a later one is ignored (comfyui-protocol.md, "Binary frames")."""
    flags = {"type": "feature_flags", "data": {"supports_preview_metadata": previews}}
    try:
        await connection.send(msgspec.json.encode(flags).decode())
    except ConnectionClosed as exc:
        raise _lost(exc, url) from exc


def _bad_handshake(exc: Exception, url: str) -> ResponseLost | NotComfyUI:
    if isinstance(exc.__cause__, EOFError):
        return ResponseLost("The connection ended while the event socket was opened.", url=url)
    return NotComfyUI(f"The event socket was not answered as a WebSocket: {str(exc).rstrip('.')}.", url=url)


def _lost(exc: ConnectionClosed, url: str) -> SocketLost:
    """1006 where no close frame came at all, else the code that was received, or sent by us."""
    frame = exc.rcvd or exc.sent
    if frame is None:
        return SocketLost("The event socket broke off without a close frame.", url=url)
    why = f"{frame.code}{' ' + frame.reason if frame.reason else ''}"
    return SocketLost(f"The event socket was closed ({why}).", url=url, close_code=frame.code)
