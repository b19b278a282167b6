"""HTTP/1.1 clients that cost next to nothing themselves: sockets, bytes, one thread."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_TIMEOUT = 30.0


def request(url: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
    """Return a whole GET, or a POST of JSON, or another request without a body."""
    where = urlsplit(url)
    method = method or ("GET" if body is None else "POST")
    asked = f"{where.path}?{where.query}" if where.query else where.path
    head = f"{method} {asked} HTTP/1.1\r\nHost: {where.netloc}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{head}{content}".encode() + body


@dataclass(slots=True)
class _Answer:
    """An answer that is arriving."""

    received: bytearray = field(default_factory=bytearray)
    #: Bytes of head and body together; 0 while the head is not there.
    length: int = 0

    def take(self, data: bytes) -> bool:
        """Add what arrived; return whether it is whole."""
        if not data:
            raise ConnectionError("The server closed the connection.")
        self.received += data
        if not self.length and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end]).lower()
            self.length = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return bool(self.length) and len(self.received) >= self.length

    def body(self, wanted: int) -> bytes:
        """Return the body of an answer with the status that is wanted."""
        status = int(self.received[9:12])
        if status != wanted:
            raise AssertionError(f"{status} instead of {wanted}: {bytes(self.received[:500])!r}")
        return bytes(self.received).split(b"\r\n\r\n", 1)[1]


class Connection:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port or 80), _TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, sent: bytes, wanted: int = 200) -> tuple[float, bytes]:
        """Send a request; return the seconds until its answer was whole, and the answer's body."""
        answer = _Answer()
        began = time.perf_counter()
        self.socket.sendall(sent)
        while not answer.take(self.socket.recv(65_536)):
            pass
        return time.perf_counter() - began, answer.body(wanted)


def at_once(url: str, sent: bytes, *, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Keep so many connections busy for so long.

    Returns:
        Answers a second, and the seconds that each answer took.
    """
    opened = [Connection(url) for _ in range(connections)]
    try:
        return _kept_busy(opened, sent, seconds)
    finally:
        for one in opened:
            one.socket.close()


def _kept_busy(opened: Sequence[Connection], sent: bytes, seconds: float) -> tuple[float, list[float]]:
    taken: list[float] = []
    answers = [_Answer() for _ in opened]
    begun = [0.0] * len(opened)
    with selectors.DefaultSelector() as waiting:
        began = time.perf_counter()
        for number, one in enumerate(opened):
            waiting.register(one.socket, selectors.EVENT_READ, number)
            begun[number] = time.perf_counter()
            one.socket.sendall(sent)
        while (now := time.perf_counter()) < began + seconds:
            for key, _ in waiting.select(_TIMEOUT):
                number = key.data
                if answers[number].take(opened[number].socket.recv(65_536)):
                    answers[number].body(200)
                    now = time.perf_counter()
                    taken.append(now - begun[number])
                    answers[number], begun[number] = _Answer(), now
                    opened[number].socket.sendall(sent)
        return len(taken) / (now - began), taken
