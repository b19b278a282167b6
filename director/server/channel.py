"""Connections whose request is not there yet: they end in time, and must not take the files that
the service needs.

A client without a token can keep a connection as long as it sends no whole request. So the headers
must arrive within 20 s, and a body that no check has admitted within 60 s. When 80 % of the files
are open, such connections and idle ones are closed, oldest first.
"""

import ipaddress
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import daphne.server  # noqa: F401 before other imports of daphne and Twisted: it installs the reactor
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from director.security.sign_in import network_of
from director.server.admission import DROPPED_SECONDS, refusal
from director.web.errors import plain_error

_HTTPChannel: Any = HTTPChannel  #: Any: most of its methods have no types.
logger = logging.getLogger(__name__)

#: For the headers of a request, from the connection or from the first byte after an answer.
HEADER_SECONDS: Final = 20
#: For a body that is received unchecked; of silence in a checked one and between requests.
BODY_SECONDS: Final = 60
_FULL: Final = 0.8  #: Part of the files from which on connections without a request are closed,
_ENOUGH: Final = 0.75  #: until this part is open.
_OF_ONE: Final = 0.25  #: Part of the files for the connections of one address.
_WARNING_SECONDS: Final = 60.0


def file_limit() -> float:
    """Return how many files the process may open."""
    try:
        import resource  # noqa: PLC0415 there is none on Windows
    except ImportError:
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


class Connections:
    """The connections of one server."""

    def __init__(self, limit: Callable[[], float] = file_limit) -> None:
        self._limit = limit
        self._count: Counter[str] = Counter()
        self._warned_at = -math.inf
        #: Those without a whole or admitted request, since when they are the longest first.
        self.waiting: dict[RequestChannel, None] = {}

    def admit(self, address: str) -> bool:
        """Count a connection; return whether its address may have it."""
        key = network_of(address)
        if self._count[key] >= self._limit() * _OF_ONE and not _is_exempt(address):
            self._warn("connections of %s refused: it has %d", key, self._count[key])
            return False
        self._count[key] += 1
        return True

    def release(self, address: str) -> None:
        """Forget an admitted connection, which has ended."""
        key = network_of(address)
        self._count[key] -= 1
        if not self._count[key]:
            del self._count[key]

    def make_space(self, file: int) -> None:
        """Close waiting connections if the number of a new connection's file shows that most files
        are open.

        A new file gets the lowest free number.
        """
        limit = self._limit()
        if file < limit * _FULL:
            return
        oldest = list(self.waiting)[: math.ceil(file - limit * _ENOUGH)]
        self._warn(
            "%d of %d files are open: %d connections without a request closed",
            file,
            limit,
            len(oldest),
        )
        for channel in oldest:
            # At once: ``abortConnection`` would close the file after all new connections.
            channel.transport.connectionLost(Failure(ConnectionAborted()))  # type: ignore[no-untyped-call]

    def _warn(self, text: str, *values: Any) -> None:
        if time.monotonic() - self._warned_at > _WARNING_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning(text, *values)


def _is_exempt(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or any(
        ip == ipaddress.ip_address(proxy) for proxy in settings.DIRECTOR_TRUSTED_PROXIES
    )


class RequestChannel(_HTTPChannel):  # type: ignore[misc]  # likewise
    """A connection that receives requests.

    Twisted's timeout begins again with each byte. Here it does so only in an admitted body.
    """

    _is_admitted = False  #: Whether the address may have the connection.
    _is_idle = False  #: Whether nothing has arrived since the last answer.
    _is_refused = False

    def __init__(self, connections: Connections, server_name: str) -> None:
        super().__init__()
        self.connections = connections
        self._server_name = server_name

    def connectionMade(self) -> None:  # noqa: N802 Twisted's name
        """Begin to wait for a request, unless its address has too many connections."""
        super().connectionMade()
        self.setTimeout(HEADER_SECONDS)
        self._is_admitted = self.connections.admit(self._address)
        if not self._is_admitted:
            self.transport.abortConnection()
            return
        self.connections.make_space(self.transport.fileno())
        self.connections.waiting[self] = None

    @property
    def _address(self) -> str:
        return str(self.transport.getPeer().host)

    def resetTimeout(self) -> None:  # noqa: N802 Twisted's name
        """Begin the timeout again, in an admitted body."""
        if self not in self.connections.waiting:
            super().resetTimeout()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 Twisted's name
        """Receive a part of a request; drop what follows a refusal."""
        if self._is_refused:
            return
        if self._is_idle:
            self._is_idle = False
            self.setTimeout(HEADER_SECONDS)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> bool | None:  # noqa: N802 Twisted's name
        """Read a line of the headers; refuse it if they are too long."""
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            return self.lineLengthExceeded(line)
        super().lineReceived(line)
        return None

    def lineLengthExceeded(self, line: bytes) -> bool:  # noqa: N802 Twisted's name
        """Refuse a request whose URL or headers are too long."""
        is_url = not hasattr(self, "_path")
        url = (line.split(b" ", 2)[1:2] or [b""])[0] if is_url else self._path
        path = url.partition(b"?")[0].decode("latin-1")
        error, port = plain_error(414 if is_url else 431), self.getHost().port
        self.transport.write(refusal(error, path, port, self._server_name))
        # A connection that is closed with unread data is reset, and the client would lose the
        # answer.
        self.transport.loseWriteConnection()
        self.setTimeout(DROPPED_SECONDS)
        self._is_refused = True
        return True

    def allHeadersReceived(self) -> None:  # noqa: N802 Twisted's name
        """Wait for the body."""
        super().allHeadersReceived()
        self.setTimeout(BODY_SECONDS)
        if self.requests[-1].is_checked:
            self.connections.waiting.pop(self, None)

    def allContentReceived(self) -> None:  # noqa: N802 Twisted's name
        """Have the request answered."""
        self.connections.waiting.pop(self, None)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:  # noqa: N802 Twisted's name
        """Wait for another request."""
        self._is_idle = True
        self.connections.waiting[self] = None
        super().requestDone(request)

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 Twisted's name
        """End the connection. Of one that became a WebSocket Twisted does not call this."""
        self.connections.waiting.pop(self, None)
        if self._is_admitted:
            self.connections.release(self._address)
        super().connectionLost(reason)


class Socket(WebSocketProtocol):  # type: ignore[misc]  # daphne has no types
    """A connection that became a WebSocket."""

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 Twisted's name
        """End the connection."""
        self.factory.server_class.channels.release(str(self.transport.getPeer().host))
        super().connectionLost(reason)
