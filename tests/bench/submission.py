"""A client of the Director that costs next to nothing: what is submitted, and how it stands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.wire import Connection, request
from tests.harness.simulators import picture


class Client:
    """One kept connection to a Director."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = Connection(url)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.socket.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return json.loads(self._connection.ask(request(self._url + path))[1])

    def timed(self, path: str) -> float:
        """Return the seconds that a GET takes."""
        return self._connection.ask(request(self._url + path))[0]

    def submission(self, backend_ids: Sequence[str], **fields: Any) -> bytes:
        """Return the request that submits a job to each of the backends."""
        body = {
            "workflow_json": picture(),
            "backend_ids": list(backend_ids),
            "metadata": {"scene": "shot_001"},
            "timeout_seconds": 3_600,
            **fields,
        }
        return request(f"{self._url}/api/job-group", json.dumps(body).encode())

    def send(self, submission: bytes) -> tuple[float, str]:
        """Submit; return the seconds until the promise, and the group's id."""
        seconds, answer = self._connection.ask(submission, 201)
        return seconds, json.loads(answer)["job_group_id"]

    def submit(self, backend_ids: Sequence[str], **fields: Any) -> str:
        """Submit a job to each of the backends, and return the group's id."""
        return self.send(self.submission(backend_ids, **fields))[1]

    def cancel(self, group_id: str) -> float:
        """Cancel a group; return the seconds until the answer."""
        path = f"{self._url}/api/job-groups/{group_id}"
        return self._connection.ask(request(path, method="DELETE"))[0]

    def group(self, group_id: str) -> dict[str, Any]:
        """Return a group's status."""
        found: dict[str, Any] = self.get(f"/api/job-groups/{group_id}")
        return found

    def wait(
        self,
        group_id: str,
        what: Callable[[dict[str, Any]], bool] = lambda group: bool(group["completed_at"]),
        *,
        within: float = 60.0,
        every: float = 0.05,
    ) -> dict[str, Any]:
        """Wait until a group satisfies a condition (its end, if none is named), and return it."""
        end = time.monotonic() + within
        while not what(group := self.group(group_id)):
            assert time.monotonic() < end, f"not within {within:g} s: {group['status']}"
            time.sleep(every)
        return group
