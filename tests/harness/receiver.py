"""An HTTP server that receives webhooks as a program of a user's does, and checks their signatures."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.conf import settings
from standardwebhooks import Webhook


class Receiver:
    """Takes messages at ``url`` until ``close``; ``answer`` returns the status for a path.

    The messages have their id under ``id``; repeated ones are dropped from ``got``.
    """

    def __init__(self, answer: Callable[[str], int] = lambda _: 204, **headers: str) -> None:
        self.seen: list[tuple[str, str]] = []  #: Path and id of every request.
        self.got: dict[str, dict[str, Any]] = {}  #: Accepted messages by id, in order.
        me, verify = self, Webhook(settings.DIRECTOR_WEBHOOK_SECRETS[-1]).verify

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message, key = verify(body, dict(self.headers.items())), self.headers["webhook-id"]
                me.seen.append((self.path, key))
                status = answer(self.path)
                if status in range(200, 300):
                    me.got.setdefault(key, message)
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def events(self) -> list[tuple[str, int]]:
        """Type and ``seq`` of the accepted messages."""
        return [(one["type"], one["data"]["seq"]) for one in self.got.values()]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
