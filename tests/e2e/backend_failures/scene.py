"""A Director over machines that fail, with groups under way that somebody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.backend_failures import promises
from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.machines import RARE_MODEL, Build, Machines, plugged_in
from tests.harness.simulators import picture
from tests.harness.watcher import Watcher, all_events
from tests.ws.client_state import picked

#: Times of the Director, so short that machines are given up and let back in while a test waits.
ENVIRONMENT = {
    "DIRECTOR_RETRY_BACKOFF_SECONDS": "0.1",
    "DIRECTOR_MOVE_AFTER_SECONDS": "1",
    "DIRECTOR_GIVE_UP_SECONDS": "5",
    "PLUG_TIMEOUT": "4",
}


def large_picture() -> dict[str, Any]:
    """Return a workflow that needs more memory than a small card has."""
    graph = picture()
    graph["5"]["inputs"] |= {"width": 128, "height": 128}
    return graph


def rare_picture() -> dict[str, Any]:
    """Return a workflow whose model not every machine has."""
    graph = picture()
    graph["4"]["inputs"]["ckpt_name"] = RARE_MODEL
    return graph


@dataclass(slots=True)
class Scene:
    """The Director, the machines, and a watcher of each group."""

    director: Director
    machines: Machines
    watchers: dict[str, Watcher] = field(default_factory=dict)
    #: What a reader calls the groups.
    labels: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the Director, register every machine under its name, and wait until all are seen."""
        promises.log_quarantines(self.director.data)
        self.director.start()
        for machine in self.machines.by_name.values():
            body = {"url": machine.url, "backend_id": machine.name}
            answer = self.director.ask("POST", "/api/backends", json=body)
            assert answer.status_code == 201, answer.text
        self.wait_seen()

    def wait_seen(self, within: float = 60.0) -> None:
        """Wait until the runner has seen every machine: what it has not seen is no candidate."""
        end = time.monotonic() + within
        while True:
            rows = self.backends().values()
            if all(row["status"] in ("online", "busy") and row["devices"] for row in rows):
                return
            assert time.monotonic() < end, list(rows)
            time.sleep(0.05)

    def submit(self, label: str, workflow: Mapping[str, Any], names: Sequence[str], **fields: Any) -> str:
        """Submit a group, and watch it."""
        group_id = self.director.submit(workflow, names, metadata={"label": label}, **fields)
        self.labels[group_id] = label
        self.watchers[group_id] = Watcher(self.director, group_id)
        return group_id

    def tell(self, name: str, word: str, **said: Any) -> dict[str, Any]:
        """Say something of a machine by HTTP: ``pause``, ``drain``, ``resume`` …"""
        answer = self.director.ask("POST", f"/api/backends/{name}/{word}", json=said)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def backends(self) -> dict[str, dict[str, Any]]:
        """Return every backend as the API shows it, by its id."""
        rows = self.director.ask("GET", "/api/backends").json()["backends"]
        return {row["backend_id"]: row for row in rows}

    def group(self, group_id: str) -> dict[str, Any]:
        """Return a group as the API shows it."""
        shown: dict[str, Any] = self.director.ask("GET", f"/api/job-groups/{group_id}").json()
        return shown

    def attempts(self, group_id: str, job_id: str) -> list[dict[str, Any]]:
        """Return a child's attempts as the API shows them."""
        path = f"/api/job-groups/{group_id}/jobs/{job_id}"
        found: list[dict[str, Any]] = self.director.ask("GET", path).json()["attempts"]
        return found

    def wait_ended(self, within: float = 90.0) -> None:
        """Wait until every group has ended for those who watch it."""
        end = time.monotonic() + within
        for watcher in self.watchers.values():
            watcher.wait_ended(max(1.0, end - time.monotonic()))

    def end(self) -> None:
        """Wait for what is still owed, end the Director in order, and hold all laws and promises."""
        self.wait_ended()
        self.director.wait_settled()
        self.machines.wait_idle()
        late = {one: all_events(self.director, one) for one in self.watchers}
        snapshots = {one: self.group(one) for one in self.watchers}
        assert self.director.stop() == 0, self.director.printed()
        assert "Traceback" not in self.director.printed(), self.director.printed()
        seen = self.machines.seen()
        laws.check(self.director.data, seen)
        promises.check(self.director.data, seen)
        for group_id, watcher in self.watchers.items():
            stored = laws.stored_events(self.director.data, group_id)
            assert late[group_id] == stored
            assert watcher.events == stored[-len(watcher.events) :]
            snapshot = snapshots[group_id]
            children = list(watcher.state.children.values())
            assert children == [picked(one) for one in snapshot["child_jobs"]]
            for name in ("seq", "status"):
                assert watcher.state.group[name] == snapshot[name]


@contextmanager
def scene(folder: Path, builds: Sequence[Build], environment: Mapping[str, str] | None = None) -> Iterator[Scene]:
    """Set a scene and start it; where it fails, print what happened in it."""
    with (
        plugged_in(folder, builds) as machines,
        directing(folder, [], {**ENVIRONMENT, **(environment or {})}) as director,
    ):
        play = Scene(director, machines)
        try:
            play.start()
            yield play
        except BaseException:
            print(promises.told(director.data, play.labels))
            print(machines.summary())
            print(director.printed()[-4000:] if director.starts else "It was not started.")
            raise
