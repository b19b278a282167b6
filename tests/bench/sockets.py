"""WebSocket clients that cost next to nothing: what arrives is kept with its moment, and read later."""

import base64
import json
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 30.0
_TEXT, _CLOSE, _PING = 1, 8, 9


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
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = self.socket.recv(4_096)
            assert chunk, f"no socket at {path}: {received!r}"
            received += chunk
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        #: What came, each piece with the moment at which it was read.
        self.pieces: list[tuple[float, bytes]] = [(time.monotonic(), rest)]

    def take(self) -> bytes:
        """Read what is there; answer pings. Empty: the connection is over."""
        data = self.socket.recv(262_144)
        self.pieces.append((time.monotonic(), data))
        if b"\x89" in data:
            self._answer_pings(data)
        return data

    def _answer_pings(self, data: bytes) -> None:
        # One that is split over two pieces goes unanswered; the next one is answered.
        if data[:1] == b"\x89" and len(data) >= 2 + data[1]:
            body, mask = data[2 : 2 + data[1]], os.urandom(4)
            masked = bytes(one ^ mask[place % 4] for place, one in enumerate(body))
            self.socket.sendall(bytes([0x8A, 0x80 | len(body)]) + mask + masked)

    def frames(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield each text frame with the moment at which its last piece was read."""
        for moment, opcode, body in _split(self.pieces):
            if opcode == _TEXT:
                yield moment, json.loads(body)

    def close(self) -> None:
        self.socket.close()


def _split(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, int, bytes]]:
    left = bytearray()
    for moment, data in pieces:
        left += data
        while (size := _size(left)) and len(left) >= sum(size):
            head, body = size
            yield moment, left[0] & 0x0F, bytes(left[head : head + body])
            del left[: head + body]


def _size(data: bytearray) -> tuple[int, int] | None:
    """Return the lengths of head and body; None while the head is not there."""
    if len(data) < 2:
        return None
    short = data[1] & 0x7F
    if short < 126:
        return 2, short
    form, head = ("!H", 4) if short == 126 else ("!Q", 10)
    return None if len(data) < head else (head, struct.unpack_from(form, data, 2)[0])


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
