"""A Director with simulated ComfyUIs, and the steps on its pages that several tests share."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from director.demo.workflow import text_to_image
from tests.harness.processes import Served, stop_in_order
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

#: Adds up in ``shifted`` what moved on a page without an input of its user, and lists it in
#: ``moves``.
SHIFTS = """
new PerformanceObserver((list) => {
  for (const one of list.getEntries().filter((entry) => !entry.hadRecentInput)) {
    window.shifted = (window.shifted || 0) + one.value;
    const moved = one.sources.map(({ node, previousRect: from, currentRect: to }) => `${node?.nodeName} ${node?.className} ${from.x},${from.y} to ${to.x},${to.y}`);
    (window.moves ||= []).push(`${one.value.toFixed(4)}: ${moved.join("; ")}`);
  }
}).observe({ type: "layout-shift", buffered: true });
"""


class Desk:
    def __init__(self, folder: Path, simulators: SimulatorThread, **environment: str) -> None:
        self._seeds = itertools.count(1_000, 1_000)
        self.simulators = list(simulators.urls)
        self.served = Served(
            folder,
            self.simulators,
            environment={"DIRECTOR_TIME_SCALE": "0.4", **environment},
            keeps_port=True,
        )
        self.served.wait_online()
        self.http = httpx.Client(trust_env=False, timeout=60)

    @property
    def url(self) -> str:
        return self.served.url

    def backend_ids(self) -> list[str]:
        by_port = {row["url"].rsplit(":", 1)[1]: row["backend_id"] for row in self._backends()}
        return [by_port[url.rsplit(":", 1)[1].rstrip("/")] for url in self.simulators]

    def submit(self, count: int = 3, **fields: Any) -> str:
        """Submit a group over the first backends in turn, and return its id."""
        ids = self.backend_ids()
        named = [ids[index % len(ids)] for index in range(count)]
        return self._submit(**{"backend_ids": named, **fields})

    def submit_to_pool(self, count: int, **fields: Any) -> str:
        """Submit a group whose jobs wait for any backend, and return its id."""
        return self._submit(**{"backend_ids": ["*"], "count": count, **fields})

    def submit_sweep(self, sweep: dict[str, Any], **fields: Any) -> str:
        """Submit a sweep whose jobs wait for any backend, and return its id."""
        return self._submit(
            **{"backend_ids": ["*"], "seed_strategy": None, "sweep": sweep, **fields}
        )

    def _submit(self, **fields: Any) -> str:
        body = {
            "workflow_json": text_to_image(),
            "seed_strategy": "sequential",
            # Never one that was rendered before: ComfyUI would give its cached picture at once.
            "base_seed": next(self._seeds),
            **fields,
        }
        answer = self.http.post(f"{self.url}/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_group_id"])

    def status(self, group_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{self.url}/api/job-groups/{group_id}").json()
        return found

    def until(self, group_id: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until(lambda: true(self.status(group_id)), 90, lambda: self.status(group_id))
        return self.status(group_id)

    def until_ended(self, group_id: str) -> dict[str, Any]:
        return self.until(group_id, lambda status: status["completed_at"] is not None)

    def order(self, index: int, **fault: Any) -> None:
        answer = self.http.post(f"{self.simulators[index]}/simulator/faults", json=fault)
        assert answer.status_code == 200, answer.text

    def slow(self, seconds: float = 60.0) -> None:
        """Have every simulator take its time, until :meth:`withdraw`."""
        for index in range(len(self.simulators)):
            self.order(index, name="slow", seconds=seconds, count=0)

    def stick(self) -> None:
        """Have every simulator stop in its first step, until :meth:`withdraw`."""
        for index in range(len(self.simulators)):
            self.order(index, name="stuck", count=0)

    def withdraw(self, name: str = "", *, of: int | None = None) -> None:
        """Withdraw the faults of one name, or all, of one simulator, or all."""
        for url in self.simulators if of is None else [self.simulators[of]]:
            self.http.delete(f"{url}/simulator/faults", params={"name": name})

    def clear(self) -> None:
        """Withdraw faults and holds, cancel what is not final, and archive what succeeded: the next
        test finds free backends and short lists.
        """
        self.withdraw()
        for row in self._backends():
            path = f"{self.url}/api/backends/{row['backend_id']}"
            if not row["enabled"]:
                self.http.patch(path, json={"enabled": True})
            if row["hold"]:
                self.http.post(f"{path}/resume")
            if row["status"] == "quarantined":
                self.http.post(f"{path}/release")
        for row in self.http.get(f"{self.url}/api/job-groups?limit=50").json()["results"]:
            path = f"{self.url}/api/job-groups/{row['job_group_id']}"
            if row["completed_at"] is None:
                self.http.delete(path)
            elif not row["failed_count"]:
                self.http.patch(path, json={"archived": True})
        until(lambda: not any(row["queue_ours"] for row in self._backends()), 60, self._backends)

    def _backends(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.http.get(f"{self.url}/api/backends").json()["backends"]
        return rows

    def close(self) -> None:
        self.http.close()
        stop_in_order(self.served)


def desk_of(scope: Any = "module", **environment: str) -> Any:
    """Return a fixture with a desk for the files of a scope."""

    @pytest.fixture(scope=scope)
    def desk(
        simulators: SimulatorThread, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Desk]:
        made = Desk(tmp_path_factory.mktemp("director"), simulators, **environment)
        yield made
        made.close()

    return desk


def bring_workflow(page: Any) -> None:
    page.get_by_text("Or paste it as JSON").click()
    page.locator("#paste").fill(json.dumps(text_to_image()))
    page.locator("#workflow-said", has_text="7 nodes").wait_for()


def submit(page: Any) -> str:
    """Submit the form, and return the id of the new group, whose page is open then."""
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/groups/jg_*")
    return str(page.url.rsplit("/", 1)[1])


def hold(page: Any, path: str, **options: Any) -> list[Any]:
    """Hold the requests of a path, which the list gets, until the test continues them."""
    held: list[Any] = []

    # Playwright sets an attribute of its handler, which ``held.append`` cannot have.
    def add(route: Any) -> None:
        held.append(route)

    page.route(path, add, **options)
    return held


def cards(page: Any, status: str) -> Any:
    return page.locator(f".card.s-{status}")


def wait_loaded(page: Any, image: Any, width: str = "> 0") -> None:
    """Wait until an image has loaded, with a natural width such as ``=== 320``."""
    condition = f"image => image.complete && image.naturalWidth {width}"
    page.wait_for_function(condition, arg=image.element_handle())
