"""Daphne's server, taught four things about long answers, bodies and frames.

It takes whatever an application sends and holds what the client does not read: one stalled download
would be held in memory whole, and of a stalled socket all its frames until its pings go unanswered.
Here an application's ``send`` waits while the client does not read.

And an answer that breaks off in the middle (its backend died) is cut: ended in order, a client would
take it for whole or wait for the rest, and daphne would stumble over its own error page.

And no body is parsed before the application has looked at its request: Twisted parses forms in the
loop, so a form of some megabytes, which any web page may post, would hold up everybody for seconds.

And a client whose frame is too long is told so and closed with 1009; daphne cuts its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

import daphne.server  # before all else of daphne's and Twisted's: it installs the reactor
from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketProtocol

from director.origins import Application, Receive, Scope, Send
from jobgroups.consumers.socket import error_frame

logger = logging.getLogger(__name__)

#: Seconds in which a client must have read something of what waits for it.
STALL_SECONDS: Final = 60.0


class ClientStalled(Exception):
    """The client reads nothing for a minute."""


class _Pace:
    """Twisted's push producer: told when to pause, when to go on, and that the client is gone."""

    def __init__(self) -> None:
        self._may_go = asyncio.Event()
        self._may_go.set()

    def pauseProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.clear()

    def resumeProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.set()

    def stopProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.set()

    async def wait(self, within: float | None = STALL_SECONDS) -> None:
        """Return once the client has read enough, or is gone.

        Args:
            within: seconds that it may take; None: any, since something else watches the client.

        Raises:
            ClientStalled: it does not.
        """
        if self._may_go.is_set():
            return
        try:
            async with asyncio.timeout(within):
                await self._may_go.wait()
        except TimeoutError:
            raise ClientStalled from None


class PacedServer(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    """A server whose applications wait for slow clients, and whose broken answers end at once."""

    def __init__(self, application: Application, **options: Any) -> None:
        super().__init__(application=_cut_when_broken(application), **options)

    def protocol_connected(self, protocol: Any) -> None:
        """Count a connection; a request calls this when it is made, before anything of it is read."""
        if isinstance(protocol, WebRequest):
            # Twisted's own switch, but one that daphne does not hand on: nobody reads what it parses.
            protocol._parsePOSTFormSubmission = False
        elif isinstance(protocol, WebSocketProtocol):
            _tell_when_too_long(protocol)
        super().protocol_connected(protocol)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Take a message of an application; return when the client may be sent more."""
        if isinstance(protocol, WebSocketProtocol):
            await self._handle_frame(protocol, message)
            return
        is_part = message["type"] == "http.response.body"
        if is_part:
            _prepare(protocol, more=bool(message.get("more_body")))
        await super().handle_reply(protocol, message)
        pace = protocol.producer if is_part else None
        if isinstance(pace, _Pace):
            await pace.wait()

    async def _handle_frame(self, protocol: Any, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        transport = protocol.transport
        if message["type"] == "websocket.accept" and transport.connected:
            # In place of the HTTP channel, which would stop reading, pongs included.
            transport.unregisterProducer()
            transport.registerProducer(_Pace(), True)
        elif message["type"] == "websocket.send" and isinstance(transport.producer, _Pace):
            # Who answers no ping is dropped: that ends the wait, however long it takes.
            await transport.producer.wait(None)


def _tell_when_too_long(protocol: Any) -> None:
    """Have a socket say why it closes when a frame is above daphne's limit, which it does not read."""
    fail = protocol._max_message_size_exceeded

    def told(size: int, limit: int, reason: str) -> None:
        detail = f"A frame may have up to {limit} bytes; only ping and close are understood."
        protocol.sendMessage(error_frame("frame_too_long", detail).encode())
        protocol.failByDrop = False  # closed in order: what was sent arrives
        fail(size, limit, reason)

    protocol._max_message_size_exceeded = told


def _prepare(request: Any, *, more: bool) -> None:
    """Register for pauses before the first part of several, and no longer before the last."""
    if not more and request.producer is not None:
        request.unregisterProducer()
    elif more and request.producer is None and request.channel is not None and not request.finished:
        request.registerProducer(_Pace(), True)


def _cut_when_broken(application: Application) -> Application:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await application(scope, receive, send)
        except Exception as error:
            # What daphne hands out is bound to the request: ``partial(handle_reply, request)``.
            request = getattr(send, "args", [None])[0]
            if not (isinstance(request, WebRequest) and request._response_started):
                raise
            why = str(error) or type(error).__name__
            logger.warning("The answer to %s broke off: %s", scope["path"], why)
            with contextlib.suppress(AttributeError):  # the client was gone already
                request.transport.abortConnection()

    return wrapped
