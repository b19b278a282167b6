"""People who submit, read and watch without pause, and note everything that they were refused."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.e2e.killing.gpus import picture


class People:
    """So many clients of one address, each in a thread of its own."""

    def __init__(self, url: str, backend_ids: Sequence[str], count: int) -> None:
        self.url = url
        self._ids = backend_ids
        #: What was not answered as it was to be, in words.
        self.failures: list[str] = []
        #: The groups that were promised.
        self.groups: list[str] = []
        #: How often what was asked and answered.
        self.asked: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._live, args=[number], daemon=True)
            for number in range(count)
        ]

    def _live(self, number: int) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30.0) as http:
            while not self._stop.wait(0.01):
                try:
                    self._once(http, number)
                except Exception as error:  # noqa: BLE001 noted, whatever it is
                    self.failures.append(f"{time.strftime('%X')} {error!r}")

    def _once(self, http: httpx.Client, number: int) -> None:
        body = {"workflow_json": picture(), "backend_ids": [self._ids[number % len(self._ids)]]}
        group_id = self._ask(http, "POST", "/api/job-group", 201, json=body).json()["job_group_id"]
        self.groups.append(group_id)
        self._ask(http, "GET", f"/api/job-groups/{group_id}", 200)
        self._ask(http, "GET", "/api/backends", 200)
        self._ask(http, "GET", f"/groups/{group_id}", 200)
        self._ask(http, "PUT", f"/api/job-groups/{group_id}", 405, json=body)
        where = f"{self.url.replace('http', 'ws', 1)}/ws/job-groups/{group_id}"
        with connect(where, proxy=None, close_timeout=1) as socket:
            frame = json.loads(socket.recv(timeout=20))
        self.asked["a socket"] += 1
        # It may come to a web that ends, which says so in words.
        if frame["type"] != "initial_state" and frame.get("code") != "shutting_down":
            self.failures.append(f"{time.strftime('%X')} {where}: {frame}")

    def _ask(
        self, http: httpx.Client, method: str, path: str, status: int, **options: Any
    ) -> httpx.Response:
        answer = http.request(method, path, **options)
        self.asked[method] += 1
        if answer.status_code != status:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def stop(self) -> None:
        """Have them ask for nothing more."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(40.0)

    def start(self) -> None:
        """Have them begin."""
        for thread in self._threads:
            thread.start()


@contextmanager
def people(url: str, backend_ids: Sequence[str], count: int = 10) -> Iterator[People]:
    """Have so many clients ask without pause until the block ends."""
    made = People(url, backend_ids, count)
    made.start()
    try:
        yield made
    finally:
        made.stop()
