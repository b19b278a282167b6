"""HTTP over one connection that is kept, and over several that are kept busy."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Self
from urllib.parse import urlsplit


class Connection:
    """``token``: the token of each request; empty: they have none."""

    def __init__(self, url: str, token: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30.0)
        self._http.connect()
        #: The ETag of the last answer; empty: it has none.
        self.etag = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        *,
        method: str = "GET",
        wanted: int = 200,
        unless: str = "",
    ) -> tuple[float, bytes]:
        """Send a request; return the seconds until its answer was whole, and the answer's body.

        Args:
            wanted: the status code of the answer.
            unless: the ETag of ``If-None-Match``; empty: without this header.
        """
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        headers |= {"If-None-Match": unless} if unless else {}
        began = time.perf_counter()
        self._http.request(method, path, body, headers)
        answer = self._http.getresponse()
        received = answer.read()
        seconds = time.perf_counter() - began
        self.etag = answer.headers.get("ETag", "")
        assert answer.status == wanted, f"{answer.status} instead of {wanted}: {received[:500]!r}"
        return seconds, received


def in_turn(
    url: str, path: str, *, requests: int, unless: str = "", token: str = ""
) -> list[float]:
    """Return the seconds of each request; with ``unless``, an ETag, the answers are 304."""
    with Connection(url, token) as one:
        return [
            one.ask(path, unless=unless, wanted=304 if unless else 200)[0] for _ in range(requests)
        ]


def at_once(url: str, path: str, *, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Keep so many connections busy for so long; return answers a second, and the time of each."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def keep_busy() -> None:
        with Connection(url) as one:
            while time.perf_counter() < end:
                taken.append(one.ask(path)[0])

    with ThreadPoolExecutor(connections) as pool:
        for one in [pool.submit(keep_busy) for _ in range(connections)]:
            one.result()
    return len(taken) / seconds, taken
