"""An HTTP server that receives notices from apprise's ``json://``."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.harness.servers import free_port

#: Stands in its URL, and must stand nowhere else.
SECRET = "hunter22hunter22"


class Inbox:
    """A server that takes apprise's ``json://`` posts, on a port that may be closed at first."""

    def __init__(self) -> None:
        self.port = free_port()
        self.got: list[dict[str, Any]] = []
        #: When each came, by the monotonic clock.
        self.at: list[float] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """As ``DIRECTOR_NOTIFY`` names it."""
        return f"json://ann:{SECRET}@127.0.0.1:{self.port}/"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]

    def open(self, *, answers_after: float = 0.0) -> None:
        got, at = self.got, self.at

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at.append(time.monotonic())
                got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(answers_after)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
