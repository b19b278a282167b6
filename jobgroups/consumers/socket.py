"""Base class of the consumers: accept, run a reader and a writer, close; and the set of open
sockets.

daphne can close with 1000 and 3000 … 4999 only, without a reason. Therefore an ``error`` frame
precedes each close that the client did not request.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeAlias

import msgspec
from autobahn.exception import Disconnected  # daphne's, where others raise OSError
from channels.consumer import AsyncConsumer
from django.conf import settings

from jobgroups.domain.access import EVERYBODY, PRINCIPAL_KEY, Principal
from jobgroups.errors import TooManySockets
from jobgroups.metrics import open_sockets
from jobgroups.streams.feed import TOO_SLOW_FRAME, error_frame
from jobgroups.streams.open_requests import OpenRequests

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

NORMAL: Final = 1000
TOO_SLOW: Final = 4008
SHUTTING_DOWN: Final = 4012
TOO_MANY: Final = 4029
NOT_FOUND: Final = 4404

#: Seconds for sending the last frame, the close, and for the client's answer to it.
CLOSE_SECONDS: Final = 1.0
_PONG: Final = '{"type":"pong"}'
_MAX_LENGTH: Final = 1_024  #: The maximum length of a client's message, in characters.

#: The frame before a close, by its code.
_CLOSE_FRAMES: Final = {
    TOO_SLOW: TOO_SLOW_FRAME,
    SHUTTING_DOWN: error_frame(
        "shutting_down", "The Director is stopping; connect again with ?since= the last seq."
    ),
}
_UNKNOWN_MESSAGE: Final = error_frame(
    "unknown_message", 'Only "ping" and "close" are understood, bare or as {"type": "ping"}.'
)
_INTERNAL_ERROR: Final = error_frame(
    "internal_error", "The stream broke; connect again with ?since= the last seq."
)


class _Typed(msgspec.Struct):
    type: Literal["ping", "close"]


_decoder = msgspec.json.Decoder(_Typed)


def _parse(text: str | None) -> str | None:
    """Return the message of a text frame, None for an unknown one and for a binary frame (``text``
    is None).
    """
    if text is None or len(text) > _MAX_LENGTH:
        return None
    bare = text.strip()
    if bare in ("ping", "close"):
        return bare
    try:
        return _decoder.decode(bare).type
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


class Socket(AsyncConsumer):
    """A consumer of one connection, from its handshake to its close. Subclasses implement
    :meth:`write`.

    It replaces Channels' dispatch, which handles one message at a time and enters the process's
    shared database thread before each. Here a connection has a reader and a writer, and sending
    needs no thread.
    """

    kind = "other"  #: As metrics count it.
    explains_closes = True  #: Whether a frame says why the socket is closed.

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.task = asyncio.current_task()
        self._receive: Receive = receive
        self._send: Send = send
        self._end: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        # Set after the first frames: a pong waits for them.
        self._ready = asyncio.Event()
        if (await self._receive())["type"] != "websocket.connect":
            return
        _open.add(self)
        open_sockets.labels(self.kind).inc()
        try:
            await self._send({"type": "websocket.accept"})
            code = await self._admit()
            if code is not None:
                await self._close(code)
        finally:
            _open.discard(self)
            open_sockets.labels(self.kind).dec()

    @property
    def principal(self) -> Principal:
        """Return who has opened the connection."""
        scope: dict[str, Any] = dict(self.scope)
        principal: Principal = scope[PRINCIPAL_KEY] if settings.DIRECTOR_ACCOUNTS else EVERYBODY
        return principal

    async def write(self) -> None:
        """Send the frames of the stream; call :meth:`mark_ready` after the first ones."""
        raise NotImplementedError

    def mark_ready(self) -> None:
        """Allow answers to the client's messages."""
        self._ready.set()

    def request_close(self, code: int | None) -> None:
        """Request a close with this code (None: the client has disconnected). The first call wins."""
        if not self._end.done():
            self._end.set_result(code)

    async def send_text(self, text: str) -> None:
        await self.send_frame(text=text)

    async def send_frame(self, **content: str | bytes) -> None:
        """Send one frame; request the close if the client has disconnected."""
        try:
            await self._send({"type": "websocket.send", **content})
        except (OSError, Disconnected):
            self.request_close(None)

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None: the client has disconnected."""
        message = await self._receive()
        if message["type"] != "websocket.disconnect":
            return message
        self.request_close(None)
        return None

    async def _admit(self) -> int | None:
        account = self.principal.user_id
        try:
            opened.check(account)
        except TooManySockets as error:
            if self.explains_closes:
                await self.send_text(error_frame(error.code, error.detail))
            return TOO_MANY
        with opened.opened(account):
            return await self._serve()

    async def _serve(self) -> int | None:
        try:
            async with asyncio.TaskGroup() as tasks:
                path = self.scope["path"]
                both = [
                    tasks.create_task(self._read(), name=f"socket {path} reader"),
                    tasks.create_task(self.write(), name=f"socket {path} writer"),
                ]
                code = await self._end
                for task in both:
                    task.cancel()
        except ExceptionGroup:
            # The server logs the error and closes with 1011.
            if self.explains_closes:
                await self.send_text(_INTERNAL_ERROR)
            raise
        return code

    async def _read(self) -> None:
        while (message := await self.receive()) is not None:
            await self._ready.wait()
            match _parse(message.get("text")):
                case "ping":
                    await self.send_text(_PONG)
                case "close":
                    self.request_close(NORMAL)
                case _:
                    await self.send_text(_UNKNOWN_MESSAGE)

    async def _close(self, code: int) -> None:
        # A client that does not read blocks a frame, but not the close. After that the server drops
        # the connection.
        if self.explains_closes and code in _CLOSE_FRAMES:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.send_text(_CLOSE_FRAMES[code])
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": code})
            # The client's answer proves that it received the code. The process may end after it.
            async with asyncio.timeout(CLOSE_SECONDS):
                while (await self._receive())["type"] != "websocket.disconnect":
                    pass


_open: set[Socket] = set()  #: The sockets of this process.
opened: Final = OpenRequests(4_000, TooManySockets)


async def close_all(*, within: float = 2.0) -> None:
    """Close every open socket with 4012, after which clients reconnect; wait at most ``within``
    seconds.
    """
    for socket in _open:
        socket.request_close(SHUTTING_DOWN)
    if tasks := [socket.task for socket in _open if socket.task is not None]:
        await asyncio.wait(tasks, timeout=within)
