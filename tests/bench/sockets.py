"""WebSocket clients that cost next to nothing: what arrives is kept with its moment, and read
later.
"""

import json
import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

_TIMEOUT = 30.0


def allow_many() -> None:
    """Let this process, and those it starts, open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class StreamSocket:
    """One socket on a group's stream; ``buffer``: bytes that the system may hold for it."""

    def __init__(self, url: str, path: str, *, buffer: int | None = None) -> None:
        where = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(_TIMEOUT)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect((where.hostname, where.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: What came, each piece with the moment at which it was read.
        self.pieces: list[tuple[float, bytes]] = []
        self._protocol = ClientProtocol(parse_uri(f"ws://{where.netloc}{path}"), max_size=None)
        self._protocol.send_request(self._protocol.connect())
        self.socket.sendall(b"".join(self._protocol.data_to_send()))
        received = b""
        while b"\r\n\r\n" not in received:
            data = self.take()
            assert data, f"no socket at {path}: {received!r}"
            received += data
        assert received.startswith(b"HTTP/1.1 101"), received

    def take(self) -> bytes:
        """Read what is there; answer pings. Empty: the connection is over."""
        data = self.socket.recv(262_144)
        self.pieces.append((time.monotonic(), data))
        # A ping that is split over two pieces goes unanswered; the next one is answered.
        if data[:1] == b"\x89" and len(data) >= 2 + data[1]:
            self.socket.sendall(Frame(Opcode.PONG, data[2 : 2 + data[1]]).serialize(mask=True))
        return data

    def frames(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield, once, each text frame with the moment at which its last piece was read."""
        for moment, data in self.pieces:
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    yield moment, json.loads(event.data)

    def close(self) -> None:
        self.socket.close()


def read_all(
    watchers: list[StreamSocket], *, within: float, until: Callable[[bytes], bool] | None = None
) -> list[StreamSocket]:
    """Read until each got a piece that satisfies a condition; return those that did not in time."""
    left = set(watchers)
    end = time.monotonic() + within
    with selectors.DefaultSelector() as ready:
        for one in watchers:
            ready.register(one.socket, selectors.EVENT_READ, one)
        while left and (pause := end - time.monotonic()) > 0:
            for key, _ in ready.select(pause):
                one = key.data
                data = one.take()
                if not data:
                    ready.unregister(one.socket)
                elif until is not None and until(one.pieces[-2][1][-9_000:] + data):
                    left.discard(one)
    return list(left)
