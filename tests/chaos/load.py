"""Work for the farm while it is struck: groups that are submitted, watched, and sometimes cancelled."""

import json
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos.house import House
from tests.harness.graphs import picture
from tests.harness.watcher import Watcher
from tests.ws.client_state import ClientState

#: Children that are to be open at any time, so that every machine always has something waiting.
_OPEN: Final = 80
#: How groups are to meet failures; most want what a studio wants.
_POLICIES: Final[tuple[dict[str, Any], ...]] = (
    {"max_attempts": 3, "retry_elsewhere": True},
    {"max_attempts": 3, "retry_elsewhere": "any"},
    {"max_attempts": 2},
    {},
)


class RecordedState(ClientState):
    """A client's state, whose frames are written to a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def take(self, frame: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(frame) + "\n")
        super().take(frame)


class PatientWatcher(Watcher):
    """A watcher that waits before it connects again."""

    def _connect_once(self) -> None:
        super()._connect_once()
        time.sleep(0.2)


class Load:
    """Submits in a thread of its own, at least so many children; ``folder`` keeps the streams."""

    def __init__(self, house: House, folder: Path, *, seed: int, children: int) -> None:
        self.watchers: dict[str, Watcher] = {}
        self.submitted = 0
        self._house = house
        self._folder = folder
        self._dice = random.Random(seed)
        self._least = children
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within: float) -> None:
        """Submit what is missing, and no more; wait until every watcher has seen its group end."""
        self._stopping.set()
        end = time.monotonic() + within
        self._thread.join(within)
        if self._failure is not None:
            raise AssertionError("the load failed") from self._failure
        assert not self._thread.is_alive(), f"{self.submitted} of {self._least} were submitted"
        for watcher in self.watchers.values():
            watcher.wait_ended(max(1.0, end - time.monotonic()))

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() or self.submitted < self._least:
                if self._open() < _OPEN:
                    self._submit()
                else:
                    time.sleep(0.1)
        except BaseException as failure:  # noqa: BLE001 handed to the caller's thread
            self._failure = failure

    def _open(self) -> int:
        return sum(
            one["status"] in ("queued", "running")
            for watcher in list(self.watchers.values())
            for one in list(watcher.state.children.values())
        )

    def _submit(self) -> None:
        names = self._house.machines.names
        count = self._dice.randint(4, 16)
        number = len(self.watchers) + 1
        body = {
            "workflow_json": picture(number),
            "timeout_seconds": 120,
            "metadata": {"number": number},
            **self._dice.choice(_POLICIES),
        }
        if number % 2:
            body["backend_ids"] = [self._dice.choice(names) for _ in range(count)]
        else:
            # In the pool: each job is at whichever of some machines takes it.
            body |= {"count": count, "backend_ids": self._dice.sample(names, 2)}
            body.pop("retry_elsewhere", None)
        # A name for the promise: asked for again after an answer that was lost, it is the same group.
        headers = {"Idempotency-Key": f"chaos-{number}"}
        answer = self._house.ask("POST", "/api/job-group", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        group_id = answer.json()["job_group_id"]
        # Backends that are away are left out.
        self.submitted += len(answer.json()["child_jobs"])
        state = RecordedState(self._folder / f"{group_id}.jsonl")
        watcher = PatientWatcher(self._house, group_id, state=state)
        self.watchers[group_id] = watcher
        watcher.started.wait(20.0)
        if number % 6 == 0:
            answer = self._house.ask("DELETE", f"/api/job-groups/{group_id}")
            assert answer.status_code == 200, answer.text
        if number % 4 == 0:
            # Another client's prompt; a machine that is away gets none.
            with suppress(httpx.HTTPError):
                self._house.machines[self._dice.choice(names)].stranger(number, 0.2)
