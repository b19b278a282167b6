"""A client that receives every event once: it reconnects with ``?since=``."""

import json
import threading
import time
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.harness.contract import check_frame
from tests.harness.director import Director
from tests.ws.client_state import ClientState


class Watched(Protocol):
    """A Director, or a farm."""

    def wait_url(self) -> str: ...

    def printed(self) -> str: ...


class Watcher:
    """Watches one group to the end of a run, in a thread, over any number of restarts.

    What it is sent is applied to a :class:`ClientState`, which refuses a lost or doubled event."""

    def __init__(self, director: Watched, group_id: str, *, runs: int = 1) -> None:
        self.group_id = group_id
        self.runs = runs
        self.state = ClientState()
        self.events: list[dict[str, Any]] = []
        #: All frames, each with the time at which it came.
        self.frames: list[tuple[float, dict[str, Any]]] = []
        self.connections = 0
        self.close_codes: list[int | None] = []
        self.started = threading.Event()
        self._director = director
        self._failure: BaseException | None = None
        self._percents: dict[tuple[str, int], float] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"watch {group_id}", daemon=True)
        self._thread.start()

    def count(self, kind: str) -> int:
        return sum(frame["type"] == kind for _, frame in list(self.frames))

    def wait_ended(self, within: float = 90.0) -> None:
        """Wait for ``group_complete``; fail with what went wrong in the thread."""
        self._thread.join(within)
        if self._failure is not None:
            raise AssertionError(f"the watcher of {self.group_id} failed") from self._failure
        assert not self._thread.is_alive(), (
            f"no group_complete within {within} s; last: "
            f"{self.events[-3:]}\n{self._director.printed()[-3000:]}"
        )

    def _run(self) -> None:
        try:
            while not self._ended:
                self._connect_once()
        except BaseException as failure:  # noqa: BLE001 handed to the test's thread
            self._failure = failure

    def _connect_once(self) -> None:
        url = self._director.wait_url().replace("http", "ws", 1)
        since = f"?since={self.state.seq}" if self.state.group else ""
        try:
            with connect(
                f"{url}/ws/job-groups/{self.group_id}{since}", proxy=None, close_timeout=1
            ) as socket:
                self.connections += 1
                self._percents.clear()
                self._read(socket)
        except ConnectionClosed as closed:
            self.close_codes.append(None if closed.rcvd is None else closed.rcvd.code)
        except (OSError, InvalidHandshake, EOFError):
            time.sleep(0.02)

    def _read(self, socket: ClientConnection) -> None:
        while not self._ended:
            frame = json.loads(socket.recv())
            self.frames.append((time.time(), frame))
            check_frame(frame)
            if frame["type"] == "child_progress":
                self._progress(frame)
            elif frame["type"] != "error":
                self.state.take(frame)
                self.started.set()
                if frame["type"] != "initial_state":
                    self.events.append(frame)
                self._ended = frame["type"] == "group_complete" and frame["run"] == self.runs

    def _progress(self, frame: dict[str, Any]) -> None:
        child = self.state.children[frame["job_id"]]
        assert child["status"] == "running", f"progress of a child that is {child['status']}"
        key = frame["job_id"], frame["attempt"]
        assert frame["progress"] >= self._percents.get(key, 0.0), "progress went back"
        self._percents[key] = frame["progress"]


def all_events(director: Director, group_id: str, *, runs: int = 1) -> list[dict[str, Any]]:
    """Return what a late client with ``?since=0`` is sent, up to the last run's ``group_complete``."""
    url = director.wait_url().replace("http", "ws", 1)
    found: list[dict[str, Any]] = []
    ends = 0
    with connect(f"{url}/ws/job-groups/{group_id}?since=0", proxy=None, close_timeout=1) as socket:
        while ends < runs:
            found.append(json.loads(socket.recv(timeout=60)))
            ends += found[-1]["type"] == "group_complete"
    return found
