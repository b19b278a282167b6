"""Daphne's server, taught four things about long answers, bodies and frames, and how to close its doors.

It takes whatever an application sends and holds what the client does not read: one stalled download
would be held in memory whole, and of a stalled socket all its frames until its pings go unanswered.
Here an application's ``send`` waits while the client does not read.

And an answer that breaks off in the middle (its backend died) is cut: ended in order, a client would
take it for whole or wait for the rest, and daphne would stumble over its own error page.

And no body is parsed before the application has looked at its request: Twisted parses forms in the
loop, so a form of some megabytes, which any web page may post, would hold up everybody for seconds.

And a body is refused by the headers of its request, before it is stored: ``director.server.admission``.

And a client whose frame is too long is told so and closed with 1009; daphne cuts its connection.

And it can end without failing a request: it listens no more, so that a proxy asks another web, answers what
has come, and says of each answer that it is its connection's last. Daphne would cut off what is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

import daphne.server  # before all else of daphne's and Twisted's: it installs the reactor
from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server as Connection
from twisted.python.failure import Failure

from director.server.admission import GuardedRequest
from director.web.asgi_types import Application, Receive, Scope, Send
from jobgroups.consumers.socket import error_frame

logger = logging.getLogger(__name__)

#: Any: Twisted's reactor is a module until one is installed, which importing daphne did.
reactor: Any = _reactor
#: Seconds that an idle connection is kept once the doors are closed: a request may be on its way on it.
_LINGER: Final = 0.5
_LOOK_EVERY: Final = 0.01
#: Seconds in which a client must have read something of what waits for it.
STALL_TIMEOUT: Final = 60.0


class ClientStalled(Exception):
    """The client reads nothing for a minute."""


class _FlowControl:
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

    async def wait(self, within: float | None = STALL_TIMEOUT) -> None:
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


class BackpressureServer(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    """A server whose applications wait for slow clients, and whose broken answers end at once."""

    def __init__(self, application: Application, **options: Any) -> None:
        super().__init__(application=_abort_on_error(application), **options)
        self._ports: list[Any] = []
        self.is_closing = False

    def listen_success(self, port: Any) -> None:
        """Note where it listens."""
        super().listen_success(port)
        self._ports.append(port)

    async def stop_listening(self, within: float) -> None:
        """Listen no more, and return once everything that was asked is answered.

        A connection that is idle is left open for a moment: the next request may be on its way on it, and
        nobody could say whether it was heard.

        Args:
            within: seconds after which it returns whatever is still asked.
        """
        self.is_closing = True
        while self._ports:
            _close_port(self._ports.pop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._answer_all()

    async def _answer_all(self) -> None:
        loop = asyncio.get_running_loop()
        linger = loop.time() + _LINGER
        # Neither daphne nor Twisted tells of either.
        while self._is_answering() or (loop.time() < linger and _has_connections()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)

    def _is_answering(self) -> bool:
        """Whether a request is under way, or a part of an answer waits to leave the process."""
        return bool(reactor.getWriters()) or any(
            isinstance(protocol, WebRequest) and "disconnected" not in details
            for protocol, details in self.connections.items()
        )

    def protocol_connected(self, protocol: Any) -> None:
        """Count a connection; a request calls this when it is made, before anything of it is read."""
        if isinstance(protocol, WebRequest):
            # Twisted's own switch, but one that daphne does not hand on: nobody reads what it parses.
            protocol._parsePOSTFormSubmission = False
            # daphne names the class of its requests itself.
            protocol.__class__ = GuardedRequest
        elif isinstance(protocol, WebSocketProtocol):
            _explain_long_frame(protocol)
        super().protocol_connected(protocol)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Take a message of an application; return when the client may be sent more."""
        if isinstance(protocol, WebSocketProtocol):
            await self._handle_frame(protocol, message)
            return
        if self.is_closing:
            _close_after_answer(protocol)
        is_part = message["type"] == "http.response.body"
        if is_part:
            _set_producer(protocol, more=bool(message.get("more_body")))
        await super().handle_reply(protocol, message)
        pace = protocol.producer if is_part else None
        if isinstance(pace, _FlowControl):
            await pace.wait()

    async def _handle_frame(self, protocol: Any, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        transport = protocol.transport
        if message["type"] == "websocket.accept" and transport.connected:
            # In place of the HTTP channel, which would stop reading, pongs included.
            transport.unregisterProducer()
            transport.registerProducer(_FlowControl(), True)
        elif message["type"] == "websocket.send" and isinstance(transport.producer, _FlowControl):
            # Who answers no ping is dropped: that ends the wait, however long it takes.
            await transport.producer.wait(None)


def _close_port(port: Any) -> None:
    """Stop listening, with everybody let in whose connection stands: the kernel would reset it."""
    port.stopReading()
    known = None
    while known != port.sessionno:
        known = port.sessionno
        port.doRead()
    # Now, where ``stopListening`` would wait a turn.
    port.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]


def _has_connections() -> bool:
    return any(isinstance(one, Connection) for one in reactor.getReaders())


def _close_after_answer(request: Any) -> None:
    """Have a connection closed after the answer to this request, and say so where that is still possible."""
    if request.channel is not None:
        request.channel.persistent = False
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])


def _explain_long_frame(protocol: Any) -> None:
    """Have a socket say why it closes when a frame is above daphne's limit, which it does not read."""
    fail = protocol._max_message_size_exceeded

    def told(size: int, limit: int, reason: str) -> None:
        detail = f"A frame may have up to {limit} bytes; only ping and close are understood."
        protocol.sendMessage(error_frame("frame_too_long", detail).encode())
        protocol.failByDrop = False  # closed in order: what was sent arrives
        fail(size, limit, reason)

    protocol._max_message_size_exceeded = told


def _set_producer(request: Any, *, more: bool) -> None:
    """Register for pauses before the first part of several, and no longer before the last.

    A client may close its connection as soon as it has all bytes, before the last message is sent.
    """
    if request.channel is None:
        return
    if not more and request.producer is not None:
        request.unregisterProducer()
    elif more and request.producer is None and not request.finished:
        request.registerProducer(_FlowControl(), True)


def _abort_on_error(application: Application) -> Application:
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
