"""HTTP servers that receive posts: any, and webhooks as a program of a user's does, which checks
their signatures.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.conf import settings
from standardwebhooks import Webhook


class PostServer:
    """Passes path, headers (lowercase names) and body of each post to ``take``, which returns the
    status.
    """

    def __init__(
        self, take: Callable[[str, dict[str, str], bytes], int], port: int = 0, **headers: str
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(take(self.path, received, body))
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Receiver(PostServer):
    """Takes webhooks at ``url`` until ``close``; ``answer`` returns the status for a path.

    The messages have their id under ``id``; repeated ones are dropped from ``got``.
    """

    def __init__(self, answer: Callable[[str], int] = lambda _: 204, **headers: str) -> None:
        self.seen: list[tuple[str, str]] = []  #: Path and id of every request.
        self.got: dict[str, dict[str, Any]] = {}  #: Accepted messages by id, in order.
        self._answer = answer
        self._webhook = Webhook(settings.DIRECTOR_WEBHOOK_SECRETS[-1])
        super().__init__(self._take, **headers)
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        key = headers["webhook-id"]
        message = self._webhook.verify(body, headers)
        self.seen.append((path, key))
        status = self._answer(path)
        if status in range(200, 300):
            self.got.setdefault(key, message)
        return status

    @property
    def events(self) -> list[tuple[str, int]]:
        """Type and ``seq`` of the accepted messages."""
        return [(one["type"], one["data"]["seq"]) for one in self.got.values()]
