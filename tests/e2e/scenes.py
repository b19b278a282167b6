"""What the tests share that kill or signal ``serve`` at every step."""

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.harness import laws
from tests.harness.director import Director, Step, directing
from tests.harness.graphs import picture
from tests.harness.machines import Entry, Machines, simulated
from tests.harness.processes import stop_in_order
from tests.harness.waits import PAUSES, until
from tests.harness.watcher import Watcher, all_events
from tests.ws.client_state import picked

CHILDREN = 40
#: What the process that comes to a step gets, and what the one that started it, one after the
#: other.
SIGNALS = "SIGSTOP parent:SIGSTOP SIGTERM parent:SIGTERM parent:SIGKILL"


@dataclass(slots=True)
class Scene:
    """A Director over three backends, and a group that a watcher follows."""

    director: Director
    gpus: Machines
    group_id: str = ""
    groups: int = 0
    is_signalled: bool = False
    watcher: Watcher | None = None

    def begin(
        self, children: int = CHILDREN, *, lost_posts: int = 0, runs: int = 1, in_pool: bool = False
    ) -> None:
        """Queue prompts of another client, submit a group, and watch it; ``lost_posts`` break off
        first.
        """
        self.director.wait_online()
        self.gpus.strangers(each=3)
        if lost_posts:
            self.gpus.fault("reset_http", route="/prompt", method="POST", count=lost_posts)
        self.group_id = self.submit(children, in_pool=in_pool)
        self.watcher = Watcher(self.director, self.group_id, runs=runs)

    def group(self) -> dict[str, Any]:
        return self.director.group(self.group_id)

    def request(self, method: str, path: str = "", **options: Any) -> httpx.Response | None:
        """Send a request about the group; None if the Director was killed before its response."""
        with suppress(httpx.TransportError):
            return self.director.ask(method, f"/api/job-groups/{self.group_id}{path}", **options)
        return None

    def ask_again(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Repeat a request until a Director answers it, in whatever state its processes are."""

        def answer() -> httpx.Response | None:
            with suppress(httpx.TransportError):
                response = self.director.ask(method, path, **options)
                return response if response.status_code < 500 else None
            return None

        response: httpx.Response = until(answer, 120.0, self.director.printed)
        return response

    def submit(self, children: int, *, in_pool: bool = False) -> str:
        """Submit another group, once, however often that takes; return its id."""
        self.groups += 1
        named = [self.gpus.ids[n % len(self.gpus.ids)] for n in range(children)]
        axes = [{"input": "cfg", "values": [5, 6, 7, 8]}, {"input": "seed", "count": children // 4}]
        body: dict[str, Any] = {"workflow_json": picture(), "backend_ids": named}
        if in_pool:
            body |= {"backend_ids": ["*"], "sweep": {"axes": axes}}
        headers = {"Idempotency-Key": f"group-{self.groups}"}
        answer = self.ask_again("POST", "/api/job-group", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        group_id: str = answer.json()["job_group_id"]
        return group_id

    def start_signalled(self, step: Step, call: int = 1) -> None:
        """Start a Director of which a process gets the next of ``SIGNALS`` whenever it comes to the
        step.
        """
        self.is_signalled = True
        self.director.start(dataclasses.replace(step, call=call), PLUG_SIGNALS=SIGNALS)

    @contextmanager
    def signalled(self) -> Iterator[Callable[[], bool]]:
        """Go on after each signal, meanwhile; give whether some are to come, and wait for all."""
        with ThreadPoolExecutor(1) as threads:
            going = threads.submit(self.director.go_on_after, SIGNALS)
            yield lambda: not going.done()
            going.result()

    def repeat_until_signalled(self, children: int = CHILDREN, *, in_pool: bool = False) -> None:
        """Submit a group like the first whenever the last has ended, until all signals have come."""
        group = self.group_id
        with self.signalled() as is_to_come:
            while is_to_come():
                if self.ask_again("GET", f"/api/job-groups/{group}").json()["completed_at"]:
                    group = self.submit(children, in_pool=in_pool)
                time.sleep(PAUSES[0])

    def restart_when_killed(self) -> None:
        """Wait for the kill, queue prompts of another client, and start again without a step."""
        self.director.wait_killed()
        self.gpus.strangers()
        self.director.restart_when_killed()

    def end(self) -> Counter[str]:
        """Wait for the end, end the Director in order, check all laws, and count the statuses."""
        assert self.watcher is not None
        self.watcher.wait_ended()
        self.director.wait_settled()
        self.gpus.wait_idle()
        late = all_events(self.director, self.group_id, runs=self.watcher.runs)
        snapshot = self.group()
        stop_in_order(self.director)
        laws.check(self.director.data, self.gpus.seen())
        stored = laws.stored_events(self.director.data, self.group_id)
        assert late == stored
        # The watcher received each event once, and the events result in the next snapshot.
        assert self.watcher.events == stored[-len(self.watcher.events) :]
        # The last signals may come when the watched group has ended.
        assert self.is_signalled or self.watcher.connections >= self.director.starts - 1
        state = self.watcher.state
        assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
        assert [state.group[one] for one in ("seq", "status")] == [
            snapshot[one] for one in ("seq", "status")
        ]
        return laws.statuses(self.director.data, self.group_id)

    def check_executed(self, children: int) -> None:
        """Check the number of executed prompts, without those of the other client."""
        executed = sum(entry["kind"] == "started" for entry in self.gpus.seen())
        assert executed == children + len(laws.Seen(self.gpus.seen()).strangers)


@contextmanager
def scene(
    folder: Path, *, seconds: float = 0.12, environment: dict[str, str] | None = None
) -> Iterator[Scene]:
    """Give a scene whose Director is not started yet."""
    with (
        simulated(folder, seconds=seconds) as gpus,
        directing(folder, gpus.urls, environment) as director,
    ):
        yield Scene(director, gpus)


def one_runs_and_one_waits(entries: list[Entry]) -> bool:
    """Whether each backend has a running and a pending prompt of the group."""
    seen = laws.Seen(entries)
    return len(seen.job) == 6 and sum(seen.kinds[one]["started"] for one in seen.job) == 3


def check_stopped(play: Scene) -> None:
    """Check that no cancelled prompt was executed to its end."""
    seen = laws.Seen(play.gpus.seen())
    cancelled = play.director.rows(
        "SELECT prompt_id FROM jobgroups_attempt a JOIN jobgroups_childjob c ON c.id = a.child_id"
        " WHERE c.status = 'cancelled'"
    )
    for one in cancelled:
        assert seen.outcome.get(one["prompt_id"], "never ran") in ("interrupted", "never ran")


def check_storage(director: Director) -> None:
    """Hold that the storage has exactly the content of the rows, once the next start has cleaned."""
    rows = director.rows("SELECT blake3, sha256, id, size_bytes FROM jobgroups_storedfile")
    expected = {
        f"results/{row['blake3']}-{row['id']}": (row["sha256"], row["size_bytes"]) for row in rows
    }
    folder = director.data / "files"

    def left() -> set[str]:
        files = (one for one in folder.rglob("*") if one.is_file())
        found = (one for one in files if one.suffix != ".lock" and one.parent.name != "runners")
        return {str(one.relative_to(folder)) for one in found} ^ expected.keys()

    until(lambda: not left(), state=left)
    for name, known in expected.items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == known
