"""Servers that are no ComfyUI, each wrong in one way, on a loopback port of their own."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handle = Callable[[socket.socket, threading.Event], object]


def _says(text: bytes) -> Handle:
    return lambda conn, _gone: conn.sendall(text)


def _answers(head: bytes, body: bytes = b"") -> Handle:
    return _says(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))


def _endless(conn: socket.socket, gone: threading.Event) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    while not gone.is_set():
        conn.sendall(b" " * 65536)


def _tiny_pieces(conn: socket.socket, gone: threading.Event) -> None:
    conn.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while not gone.is_set():
        conn.sendall(b"1\r\n \r\n" * 10_000)


def _trickle(conn: socket.socket, gone: threading.Event) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    while not gone.wait(0.2):
        conn.sendall(b" ")


_JSON = b"200 OK\r\nContent-Type: application/json"
#: name → what it does once it has read a request.
WRONGS: dict[str, Handle] = {
    "html": _answers(b"200 OK\r\nContent-Type: text/html", b"<html>Please sign in</html>"),
    "nonsense": _answers(_JSON, b"{]nonsense"),
    "another api": _answers(_JSON, b'{"status": "ok", "system": {}}'),
    "wrong shape": _answers(_JSON, b"[1, 2]"),
    "404": _answers(b"404 Not Found"),
    "500": _answers(b"500 Internal Server Error", b"oops"),
    "hang up": _says(b""),
    "endless": _endless,
    "tiny pieces": _tiny_pieces,
    "trickle": _trickle,
    "nothing": lambda _conn, gone: gone.wait(30),
}


@contextmanager
def bad_server(wrong: str) -> Iterator[str]:
    """Yield the address of a server that is wrong in that way."""
    gone = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.request.recv(65536)
                WRONGS[wrong](self.request, gone)
            except OSError:
                pass  # the client has had enough

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            gone.set()
            server.shutdown()
            thread.join(timeout=10)


@contextmanager
def dead_port() -> Iterator[str]:
    """Yield an address at which nothing listens for as long as this lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
