"""One WebSocket: accept, a reader and a writer side by side, close. And all that are open.

daphne can close with 1000 and 3000 … 4999 only, and gives no reason: so a client is told by an
``error`` frame before each close that it did not ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from autobahn.exception import Disconnected  # daphne's, where others raise OSError
from channels.consumer import AsyncConsumer

from jobgroups.consumers.client_messages import ClientMessage, parse_client_message

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

NORMAL: Final = 1000
TOO_SLOW: Final = 4008
SHUTTING_DOWN: Final = 4012
NOT_FOUND: Final = 4404

#: Seconds for saying goodbye, and as many for the client's answer to it.
CLOSE_SECONDS: Final = 1.0
_PONG: Final = '{"type":"pong"}'


def error_frame(code: str, detail: str) -> str:
    """Return an ``error`` frame. ASCII: a path may hold what UTF-8 cannot."""
    return json.dumps({"type": "error", "code": code, "detail": detail}, separators=(",", ":"))


#: What is said before a close, by its code.
_CLOSE_FRAMES: Final = {
    TOO_SLOW: error_frame(
        "too_slow", "The client reads too slowly; connect again with ?since= the last seq."
    ),
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


class Socket(AsyncConsumer):
    """A consumer of one connection, from its handshake to its close. Subclasses write.

    Channels' own dispatch is not used: it handles one message at a time and hops through the process's
    shared database thread before each. Here a connection has a reader and a writer, and what is fanned
    out touches no thread.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the connection until it is closed."""
        self.scope = scope
        self.task = asyncio.current_task()
        self._receive: Receive = receive
        self._send: Send = send
        self._end: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        # Set once what must come first was sent: a pong waits for it.
        self._ready = asyncio.Event()
        await self._live()

    async def write(self) -> None:
        """Send what the client is to get, and call :meth:`begin` after what must come first."""
        raise NotImplementedError

    def mark_ready(self) -> None:
        """Let the client's messages be answered."""
        self._ready.set()

    def request_close(self, code: int | None) -> None:
        """Have the socket closed with this code (None: the client is gone). The first call counts."""
        if not self._end.done():
            self._end.set_result(code)

    async def send_text(self, text: str) -> None:
        """Send one frame; where the server says that the client is gone, end."""
        try:
            await self._send({"type": "websocket.send", "text": text})
        except (OSError, Disconnected):
            self.request_close(None)

    async def _live(self) -> None:
        if (await self._receive())["type"] != "websocket.connect":
            return
        _open.add(self)
        try:
            await self._send({"type": "websocket.accept"})
            code = await self._serve()
            if code is not None:
                await self._close(code)
        finally:
            _open.discard(self)

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
            # Left to the server, which logs it and closes with 1011.
            await self.send_text(_INTERNAL_ERROR)
            raise
        return code

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self.request_close(None)
                return
            await self._ready.wait()
            await self._answer(parse_client_message(message.get("text")))

    async def _answer(self, message: ClientMessage | None) -> None:
        match message:
            case ClientMessage.PING:
                await self.send_text(_PONG)
            case ClientMessage.CLOSE:
                self.request_close(NORMAL)
            case None:
                await self.send_text(_UNKNOWN_MESSAGE)

    async def _close(self, code: int) -> None:
        # A client that does not read may block all of it: then the server cuts the connection. A
        # frame waits until it is read, the close does not: it is said in any case.
        if code in _CLOSE_FRAMES:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.send_text(_CLOSE_FRAMES[code])
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": code})
            # Its answer shows that the code has arrived: only then may the process end.
            async with asyncio.timeout(CLOSE_SECONDS):
                while (await self._receive())["type"] != "websocket.disconnect":
                    pass


#: The sockets of this process.
_open: set[Socket] = set()


async def close_all(code: int = SHUTTING_DOWN, *, within: float = 2.0) -> None:
    """Close every open socket of the process, and return once all are closed.

    Args:
        code: the close code; clients that connect again by themselves do so after 4012.
        within: seconds after which it returns anyway.
    """
    for socket in _open:
        socket.request_close(code)
    if tasks := [socket.task for socket in _open if socket.task is not None]:
        await asyncio.wait(tasks, timeout=within)
