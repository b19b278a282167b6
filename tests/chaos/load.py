"""Work for the farm while it is struck: groups that are submitted, watched, and sometimes cancelled."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos.house import House
from tests.harness.simulators import picture
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
    """A client's state, and all that it was made from, written to a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def take(self, frame: dict[str, Any]) -> None:
        """Write down a frame, then apply it."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(frame) + "\n")
        super().take(frame)


class PatientWatcher(Watcher):
    """A watcher of a farm: it comes back by whichever web, and not at once where it is sent away."""

    def _connect_once(self) -> None:
        super()._connect_once()
        time.sleep(0.2)


class Load:
    """Submits until told to stop, in a thread of its own.

    Args:
        house: the farm.
        folder: for what the watchers are sent.
        seed: of what is submitted.
        children: so many are submitted at least.
    """

    def __init__(self, house: House, folder: Path, *, seed: int, children: int) -> None:
        self.watchers: dict[str, Watcher] = {}
        self.cancelled: list[str] = []
        self.submitted = 0
        self._house = house
        self._folder = folder
        self._dice = random.Random(seed)
        self._least = children
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._strangers = 0
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to submit."""
        self._thread.start()

    def stop(self, within: float) -> None:
        """Submit what is missing, and no more; wait until every watcher has seen its group end.

        Raises:
            AssertionError: one has not in time, or something went wrong in a thread.
        """
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
            "backend_ids": [self._dice.choice(names) for _ in range(count)],
            "timeout_seconds": 120,
            "metadata": {"number": number},
            **self._dice.choice(_POLICIES),
        }
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
            self._cancel(group_id)
        if number % 4 == 0:
            self._stranger()

    def _cancel(self, group_id: str) -> None:
        answer = self._house.ask("DELETE", f"/api/job-groups/{group_id}")
        assert answer.status_code == 200, answer.text
        self.cancelled.append(group_id)

    def _stranger(self) -> None:
        """Have somebody else queue a prompt at a machine; one that is away gets none."""
        self._strangers += 1
        name = self._dice.choice(self._house.machines.names)
        with suppress(httpx.HTTPError):
            self._house.machines[name].stranger(self._strangers, 0.2)
