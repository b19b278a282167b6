"""What a test does beside looking: submit, order faults, kill the Director. All of it over HTTP."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from director.demo.workflow import text_to_image
from tests.harness.processes import Served


class Desk:
    """A Director and its simulators."""

    def __init__(self, start: Callable[[], Served], *, simulators: Sequence[str]) -> None:
        self._start = start
        self._seeds = itertools.count(1_000, 1_000)
        self.simulators = list(simulators)
        self.served = start()
        self.served.wait_online()
        self.http = httpx.Client(trust_env=False, timeout=20)

    @property
    def url(self) -> str:
        """Where the Director answers."""
        return self.served.url

    def backend_ids(self) -> list[str]:
        """Return the ids of all backends, in the simulators' order."""
        by_port = {row["url"].rsplit(":", 1)[1]: row["backend_id"] for row in self._backends()}
        return [by_port[url.rsplit(":", 1)[1].rstrip("/")] for url in self.simulators]

    def submit(self, count: int = 3, **fields: Any) -> str:
        """Submit a group over the first backends in turn, and return its id."""
        ids = self.backend_ids()
        body = {
            "workflow_json": text_to_image(),
            "backend_ids": [ids[index % len(ids)] for index in range(count)],
            "seed_strategy": "sequential",
            # Never one that was rendered before: ComfyUI would give its cached picture at once.
            "base_seed": next(self._seeds),
            **fields,
        }
        answer = self.http.post(f"{self.url}/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_group_id"])

    def status(self, group_id: str) -> dict[str, Any]:
        """Return a group's status."""
        found: dict[str, Any] = self.http.get(f"{self.url}/api/job-groups/{group_id}").json()
        return found

    def until(self, group_id: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until something is true of a group's status, and return that."""
        end = time.monotonic() + 40
        while not true(status := self.status(group_id)):
            assert time.monotonic() < end, json.dumps(status)[:4000]
            time.sleep(0.1)
        return status

    def until_ended(self, group_id: str) -> dict[str, Any]:
        """Wait until a group has ended."""
        return self.until(group_id, lambda status: status["completed_at"] is not None)

    def order(self, index: int, **fault: Any) -> None:
        """Order a fault of one simulator."""
        answer = self.http.post(f"{self.simulators[index]}/simulator/faults", json=fault)
        assert answer.status_code == 200, answer.text

    def slow(self, seconds: float = 20.0) -> None:
        """Have every simulator take its time, until :meth:`withdraw`."""
        for index in range(len(self.simulators)):
            self.order(index, name="slow", seconds=seconds, count=0)

    def withdraw(self) -> None:
        """Withdraw all orders of faults."""
        for url in self.simulators:
            self.http.delete(f"{url}/simulator/faults")

    def clear(self) -> None:
        """Withdraw all faults and cancel whatever is not final: the next test finds free backends."""
        self.withdraw()
        for row in self.http.get(f"{self.url}/api/job-groups?limit=50").json()["results"]:
            if row["completed_at"] is None:
                self.http.delete(f"{self.url}/api/job-groups/{row['job_group_id']}")
        end = time.monotonic() + 20
        while any(row["queue_ours"] for row in self._backends()):
            assert time.monotonic() < end, self._backends()
            time.sleep(0.1)

    def _backends(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.http.get(f"{self.url}/api/backends").json()["backends"]
        return rows

    def kill(self) -> None:
        """End the Director as a power cut would."""
        self.served.process.kill()
        self.served.process.wait()

    def start_again(self) -> None:
        """Start the Director again, on the same port and data."""
        self.served = self._start()

    def close(self) -> None:
        """End the Director in order."""
        self.http.close()
        code = self.served.stop()
        assert code == 0, self.served.printed()
        assert "Traceback" not in self.served.printed(), self.served.printed()
