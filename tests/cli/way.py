"""The way between a command and its Director: it sees what passes, and loses answers on order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@dataclass
class Way:
    """Where commands are to ask, and the method and path of all that they asked."""

    url: str
    passed: list[str] = field(default_factory=list)


@contextmanager
def between(director: str, *, loses: str = "") -> Iterator[Way]:
    """Hand every request on to the Director, and its answer back; those to ``loses`` are lost."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            way.passed.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            answer = httpx.request(
                self.command,
                f"{director}{self.path}",
                content=body,
                headers=headers,
                trust_env=False,
            )
            if self.command == loses:
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        way = Way(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield way
        server.shutdown()
