"""Daphne's server with backpressure, limits on request bodies, and an orderly shutdown.

- An application's ``send`` waits while the client does not read. Daphne would buffer a stalled
  download whole.
- A response that breaks off in the middle (its backend failed) closes the connection, so that the
  client does not take a part for the whole.
- Twisted parses no forms: in the event loop, a form of some megabytes would block all other
  requests for seconds.
- On shutdown the ports are closed first, so that a proxy uses another process; then open requests
  are answered.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import daphne.server  # before other imports of daphne and Twisted: it installs the reactor
from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server as Connection
from twisted.python.failure import Failure

from director.server.admission import GuardedRequest
from director.server.channel import Connections, RequestChannel, Socket
from director.server.listen import cannot_listen
from director.web.asgi_types import Application, Receive, Scope, Send
from director.web.handlers import RECEIVED_KEY
from director.web.listener import is_listener_port
from jobgroups.api.requests.upload import SCOPE_KEY
from jobgroups.streams.feed import error_frame

logger = logging.getLogger(__name__)

#: Any: Twisted's reactor is a module until one is installed, which importing daphne did.
reactor: Any = _reactor
_BACKLOG: Final = 1_024  #: Connections that wait, also for a web that is started again.
#: Seconds that an idle connection is kept after the ports are closed: a request may be in transit
#: on it.
_LINGER: Final = 0.5
_POLL_INTERVAL: Final = 0.01
_COMFYUI_FRAME: Final = 4 * 2**20  #: Bytes of a frame that ComfyUI takes.
STALL_TIMEOUT: Final = 60.0  #: Seconds after which a client that reads nothing is disconnected.


class ClientStalled(Exception):
    """The client has read nothing for a minute."""


class _FlowControl:
    """Push producer of Twisted: pauses and resumes an application's ``send``."""

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
        """Return when the client has read enough or has disconnected; raise ``ClientStalled`` after
        so many seconds.

        None: no timeout, if another check disconnects the client.
        """
        if self._may_go.is_set():
            return
        try:
            async with asyncio.timeout(within):
                await self._may_go.wait()
        except TimeoutError:
            raise ClientStalled from None


class BackpressureServer(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    def __init__(self, application: Application, **options: Any) -> None:
        # daphne itself opens no ports: see ``listen``.
        super().__init__(application=_abort_on_error(application), endpoints=["sockets"], **options)
        self.endpoints: list[str] = []
        self._ports: list[Any] = []
        self.channels = Connections()
        self.is_closing = False

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections of bound sockets, which may be other processes' too. Raises
        ``CannotListen``.
        """
        for bound in sockets:
            try:
                bound.listen(_BACKLOG)
            except OSError as error:
                host, port = bound.getsockname()[:2]
                option = "--comfyui-port" if is_listener_port(port) else "--port"
                raise cannot_listen(host, port, error, option=option) from error
            self._ports.append(
                reactor.adoptStreamPort(bound.fileno(), bound.family, self.http_factory)
            )
            bound.close()
        # daphne has no arguments for them. The first connection is accepted later.
        self.http_factory.protocol = lambda: RequestChannel(self.channels, self.server_name)
        self.ws_factory.protocol = Socket

    async def stop_listening(self, within: float) -> None:
        """Close the ports, and return when all open requests are answered, or after so many
        seconds.

        An idle connection stays open for ``_LINGER``: a request may be in transit on it.
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
        # Neither daphne nor Twisted has an event for these conditions.
        while self._is_answering() or (  # noqa: ASYNC110
            loop.time() < linger
            and any(isinstance(reader, Connection) for reader in reactor.getReaders())
        ):
            await asyncio.sleep(_POLL_INTERVAL)

    def _is_answering(self) -> bool:
        """Whether a request is open, or a part of a response is not yet sent."""
        return bool(reactor.getWriters()) or any(
            isinstance(protocol, WebRequest) and "disconnected" not in details
            for protocol, details in self.connections.items()
        )

    def protocol_connected(self, protocol: Any) -> None:
        """Register a connection. Daphne calls this before any byte of the request is read."""
        if isinstance(protocol, WebRequest):
            # Twisted's switch, which daphne does not expose. The parsed form is not used.
            protocol._parsePOSTFormSubmission = False
            # daphne sets the class of its requests itself.
            protocol.__class__ = GuardedRequest
        elif isinstance(protocol, WebSocketProtocol):
            if is_listener_port(protocol.transport.getHost().port):
                _take_frames_of_comfyui(protocol)
            else:
                _explain_long_frame(protocol)
        super().protocol_connected(protocol)

    def create_application(self, protocol: Any, scope: Scope) -> Any:
        """Start the application of a request that is complete; that of an upload finds the received
        file in its scope.
        """
        scope[RECEIVED_KEY] = time.monotonic()
        if getattr(protocol, "upload", None) is not None:
            scope[SCOPE_KEY] = protocol.upload
        return super().create_application(protocol, scope)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send a message of an application; return when the client can receive more."""
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
            # Replaces the HTTP channel, which would stop reading, including pongs.
            transport.unregisterProducer()
            transport.registerProducer(_FlowControl(), True)
        elif message["type"] == "websocket.send" and isinstance(transport.producer, _FlowControl):
            # No timeout: a client that answers no ping is disconnected, which ends the wait.
            await transport.producer.wait(None)


def _close_port(port: Any) -> None:
    """Close a port after accepting its pending connections: the kernel would reset them."""
    port.stopReading()
    known = None
    while known != port.sessionno:
        known = port.sessionno
        port.doRead()
    # ``stopListening`` would close the port only in the next iteration of the loop.
    port.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]


def _close_after_answer(request: Any) -> None:
    """Close the connection after the response, with ``Connection: close`` if its headers are not
    yet sent.
    """
    if request.channel is not None:
        request.channel.persistent = False
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])


def _take_frames_of_comfyui(protocol: Any) -> None:
    """Take frames up to ComfyUI's limit, and close the socket after a longer one without a frame
    about it, which no program of ComfyUI knows.
    """
    protocol.maxMessagePayloadSize = protocol.maxFramePayloadSize = _COMFYUI_FRAME
    protocol.failByDrop = False  # an orderly close: its code arrives


def _explain_long_frame(protocol: Any) -> None:
    """Send an error frame before the socket is closed for a frame above daphne's limit."""
    fail = protocol._max_message_size_exceeded

    def explain(size: int, limit: int, reason: str) -> None:
        detail = f"A frame may have at most {limit} bytes; the only commands are ping and close."
        protocol.sendMessage(error_frame("frame_too_long", detail).encode())
        protocol.failByDrop = False  # an orderly close: the error frame arrives
        fail(size, limit, reason)

    protocol._max_message_size_exceeded = explain


def _set_producer(request: Any, *, more: bool) -> None:
    """Register the flow control before the first part of a response, and remove it before the last.

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
            # daphne's ``send`` is ``partial(handle_reply, request)``.
            request = getattr(send, "args", [None])[0]
            if not (isinstance(request, WebRequest) and request._response_started):
                raise
            why = str(error) or type(error).__name__
            logger.warning("%s: response aborted (%s)", scope["path"], why)
            with contextlib.suppress(AttributeError):  # the client has disconnected
                _break_off(request, error)

    return wrapped


def _break_off(request: Any, error: Exception) -> None:
    """Close the connection of a response whose rest does not come.

    A client sees by the length or by the missing last chunk that it has a part. Then it gets what
    was sent before, also the headers: a proxy would take a reset for a process that is down.
    """
    if request.finished:
        return
    request.write(b"")  # the headers, if no part was sent yet
    has_end = request.chunked or request.responseHeaders.hasHeader("content-length")
    if isinstance(error, ClientStalled) or not has_end:
        request.transport.abortConnection()
        return
    transport = request.transport
    request.unregisterProducer()
    request.loseConnection()
    reactor.callLater(STALL_TIMEOUT, transport.abortConnection)
