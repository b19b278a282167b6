"""Clients that submit, read and open sockets without pause, and record every failure."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.harness.graphs import picture

KINDS = ("POST", "GET", "PUT", "socket")


class Clients:
    def __init__(self, url: str, backend_ids: Sequence[str]) -> None:
        self.url = url
        self._ids = backend_ids
        #: Unexpected responses, as text.
        self.failures: list[str] = []
        #: Ids of the groups that were submitted.
        self.groups: list[str] = []
        #: Number of responses of each kind.
        self.answered: Counter[str] = Counter()
        self.stopped = threading.Event()

    def run(self, number: int) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30.0) as http:
            while not self.stopped.wait(0.01):
                try:
                    self._send(http, number)
                except Exception as error:  # noqa: BLE001 every failure is recorded
                    self.failures.append(f"{time.strftime('%X')} {error!r}")

    def _send(self, http: httpx.Client, number: int) -> None:
        body = {"workflow_json": picture(), "backend_ids": [self._ids[number % len(self._ids)]]}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        made = self._request(http, "POST", "/api/job-group", 201, json=body, headers=headers)
        group_id = made.json()["job_group_id"]
        self.groups.append(group_id)
        for path in (f"/api/job-groups/{group_id}", "/api/backends", f"/groups/{group_id}"):
            self._request(http, "GET", path, 200)
        self._request(http, "PUT", f"/api/job-groups/{group_id}", 405, json=body)
        url = f"{self.url.replace('http', 'ws', 1)}/ws/job-groups/{group_id}"
        with connect(url, proxy=None, close_timeout=1) as socket:
            frame = json.loads(socket.recv(timeout=20))
        self.answered["socket"] += 1
        # A web that ends says so.
        if frame["type"] != "initial_state" and frame.get("code") != "shutting_down":
            self.failures.append(f"{time.strftime('%X')} {url}: {frame}")

    def _request(self, http: httpx.Client, method: str, path: str, status: int, **options: Any) -> httpx.Response:
        answer = http.request(method, path, **options)
        if method == "POST" and answer.status_code == 502:
            # The connection arrived while the web closed its port: nginx sends no POST twice.
            answer = http.request(method, path, **options)
        self.answered[method] += 1
        if answer.status_code != status:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def has_answers(self, count: int) -> bool:
        return all(self.answered[kind] >= count for kind in KINDS)


@contextmanager
def clients(url: str, backend_ids: Sequence[str], count: int = 10) -> Iterator[Clients]:
    made = Clients(url, backend_ids)
    threads = [threading.Thread(target=made.run, args=[number], daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stopped.set()
        for thread in threads:
            thread.join(40.0)
