"""A client of the Director: what is submitted, and how it stands."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.wire import Connection
from tests.harness.graphs import picture


class Client(Connection):
    def get(self, path: str) -> Any:
        return json.loads(self.ask(path)[1])

    def timed(self, path: str) -> float:
        return self.ask(path)[0]

    def submission(self, backend_ids: Sequence[str], **fields: Any) -> bytes:
        body = {
            "workflow_json": picture(),
            "backend_ids": list(backend_ids),
            "metadata": {"scene": "shot_001"},
            "timeout_seconds": 3_600,
            **fields,
        }
        return json.dumps(body).encode()

    def send(self, submission: bytes) -> tuple[float, str]:
        """Submit; return the seconds until the promise, and the group's id."""
        seconds, answer = self.ask("/api/job-group", submission, method="POST", wanted=201)
        return seconds, json.loads(answer)["job_group_id"]

    def submit(self, backend_ids: Sequence[str], **fields: Any) -> str:
        return self.send(self.submission(backend_ids, **fields))[1]

    def cancel(self, group_id: str) -> float:
        return self.ask(f"/api/job-groups/{group_id}", method="DELETE")[0]

    def group(self, group_id: str) -> dict[str, Any]:
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
        end = time.monotonic() + within
        while not what(group := self.group(group_id)):
            assert time.monotonic() < end, f"not within {within:g} s: {group['status']}"
            time.sleep(every)
        return group

    def wait_running(self, group_id: str, count: int) -> None:
        self.wait(
            group_id,
            lambda group: [one["status"] for one in group["child_jobs"]].count("running") == count,
            every=0.2,
        )
