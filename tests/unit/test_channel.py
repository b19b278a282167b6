from types import SimpleNamespace
from typing import Any, Final

import daphne.server  # noqa: F401 before Twisted: it installs the reactor
import pytest
from pytest_django import Settings
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import Request

from director.server.channel import BODY_SECONDS, HEADER_SECONDS, Connections, RequestChannel

LIMIT: Final = 100
CLIENT: Final = "203.0.113.7"


class _Transport(StringTransport):
    """A connection of Twisted's, with the number of its file."""

    def __init__(self, address: str, file: int) -> None:
        kind = IPv6Address if ":" in address else IPv4Address
        super().__init__(peerAddress=kind("TCP", address, 1))
        self.file = file
        self.protocol: Any = None
        self.is_closed = False

    def fileno(self) -> int:
        return self.file

    def abortConnection(self) -> None:  # noqa: N802
        self.connectionLost(None)

    loseConnection = abortConnection  # noqa: N815

    def connectionLost(self, reason: Any) -> None:  # noqa: N802
        if not self.is_closed:
            self.is_closed = True
            self.protocol.connectionLost(reason)


class _Request(Request):
    is_checked = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        self.is_checked = length is None or length > 1000
        super().gotLength(length)

    def process(self) -> None:
        """Leave it unanswered."""


class _Server:
    """Makes connections, and counts the seconds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.connections = Connections(lambda: LIMIT)

    def connect(self, address: str = CLIENT, *, file: int = 9) -> tuple[RequestChannel, _Transport]:
        channel, transport = RequestChannel(self.connections, "Director"), _Transport(address, file)
        channel.factory = SimpleNamespace(log=lambda _: None)
        channel.requestFactory = _Request
        channel.callLater = self.clock.callLater
        channel.timeOut = 60
        transport.protocol = channel
        channel.makeConnection(transport)
        return channel, transport


@pytest.fixture
def server() -> _Server:
    return _Server()


def _trickle(
    server: _Server, channel: RequestChannel, transport: _Transport, data: bytes, seconds: int
) -> int:
    """Send data every ten seconds; return after how many of them the connection was closed, at most
    ``seconds``.
    """
    for passed in range(0, seconds, 10):
        if transport.is_closed:
            return passed
        channel.dataReceived(data)
        server.clock.advance(10)
    return seconds


def test_connection_ends_when_its_headers_are_not_complete_in_time(server: _Server) -> None:
    channel, transport = server.connect()
    channel.dataReceived(b"GET /api/backends HTTP/1.1\r\n")
    assert _trickle(server, channel, transport, b"X-Line: 1\r\n", 600) == HEADER_SECONDS
    silent = server.connect()[1]
    server.clock.advance(HEADER_SECONDS)
    assert silent.is_closed
    assert not server.connections.waiting


def test_small_body_has_a_limit_and_an_admitted_one_a_limit_of_silence(server: _Server) -> None:
    head = b"POST /sign-in HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    for length, ends in ((900, BODY_SECONDS), (5000, 600)):
        channel, transport = server.connect()
        channel.dataReceived(head % length)
        assert _trickle(server, channel, transport, b"x", 600) == ends
    server.clock.advance(BODY_SECONDS)
    assert transport.is_closed


def test_idle_connection_ends_and_its_next_request_has_the_time_of_the_first(
    server: _Server,
) -> None:
    for data, seconds in ((b"", BODY_SECONDS), (b"GET / HTTP/1.1\r\n", HEADER_SECONDS)):
        channel, transport = server.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        server.clock.advance(1000)
        assert not transport.is_closed  # the answer takes as long as it does
        channel.requests[0].finish()
        if data:
            server.clock.advance(30)
            channel.dataReceived(data)
        server.clock.advance(seconds - 1)
        assert not transport.is_closed
        server.clock.advance(1)
        assert transport.is_closed


def test_connections_without_a_request_are_closed_oldest_first_when_most_files_are_open(
    server: _Server,
) -> None:
    made = [server.connect(f"198.51.{number}.1", file=10 + number)[1] for number in range(70)]
    working, idle = server.connect("192.0.2.1"), server.connect("192.0.2.2")
    for channel, _ in (working, idle):
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    idle[0].requests[0].finish()
    _, newest = server.connect("192.0.2.3", file=80)
    assert [transport.is_closed for transport in made] == [True] * 5 + [False] * 65
    for _ in range(13):
        server.connect("192.0.2.4", file=80)
    assert all(transport.is_closed for transport in made)
    assert not any(transport.is_closed for transport in (idle[1], newest))
    _, last = server.connect("192.0.2.5", file=80)
    assert all(transport.is_closed for transport in (idle[1], newest))
    assert not any(transport.is_closed for transport in (working[1], last))


def test_address_has_a_limit_of_connections(server: _Server, settings: Settings) -> None:
    settings.DIRECTOR_TRUSTED_PROXIES = ["192.0.2.80"]
    for address, other in ((CLIENT, CLIENT), ("2001:db8::1", "2001:db8::2")):
        made = [server.connect(address) for _ in range(LIMIT // 4)]
        assert server.connect(other)[1].is_closed
        assert not made[0][1].is_closed
        made[0][1].abortConnection()
        assert not server.connect(other)[1].is_closed
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.80"):
        assert not any(server.connect(address)[1].is_closed for _ in range(LIMIT))
