"""HTTP over one connection that is kept, and over several that are kept busy."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Self
from urllib.parse import urlsplit


class Connection:
    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30.0)
        self._http.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "GET", wanted: int = 200
    ) -> tuple[float, bytes]:
        """Send a request; return the seconds until its answer was whole, and the answer's body."""
        headers = {"Content-Type": "application/json"} if body else {}
        began = time.perf_counter()
        self._http.request(method, path, body, headers)
        answer = self._http.getresponse()
        received = answer.read()
        seconds = time.perf_counter() - began
        assert answer.status == wanted, f"{answer.status} instead of {wanted}: {received[:500]!r}"
        return seconds, received


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
