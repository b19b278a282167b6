"""An HTTP server that receives notices from apprise's ``json://``."""

import json
import time
from typing import Any

from tests.harness.receiver import PostServer
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
        self._server: PostServer | None = None

    @property
    def url(self) -> str:
        """As ``DIRECTOR_NOTIFY`` names it."""
        return f"json://ann:{SECRET}@127.0.0.1:{self.port}/"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]

    def open(self, *, answers_after: float = 0.0) -> None:
        def take(_path: str, _headers: dict[str, str], body: bytes) -> int:
            self.at.append(time.monotonic())
            self.got.append(json.loads(body))
            time.sleep(answers_after)
            return 200

        self._server = PostServer(take, self.port)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
