"""``serve`` is killed at every step of a child's life and started again: the same end each time.

Forty children over three backends at which strangers' prompts stand too; a watcher that comes back
with ``?since=``; the verdict is the backends' own audit log against the database file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.harness import laws
from tests.harness.director import Director, Step, directing
from tests.harness.simulators import Entry, Gpus, picture, simulated
from tests.harness.watcher import Watcher, all_events
from tests.ws.client_state import picked

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

CHILDREN = 40
ATTEMPTS = "jobgroups.services.attempts"
CLAIMS = "jobgroups.services.claims"
CANCELLATION = "jobgroups.services.cancellation"
RETRIES = "jobgroups.services.retries"
MOVES = "jobgroups.services.moves"
CLIENT = "backends.comfyui.client:ComfyClient"
DRIVER = "jobgroups.runner.attempt.driver:AttemptDriver"

#: Name → where the plug is pulled, in the order of a child's life.
LIFE = {
    "before the intent": Step(f"{CLAIMS}:_claim", "before", 15),
    "before the intent's commit": Step(f"{CLAIMS}:_claim", "uncommitted", 15),
    "after the intent": Step(f"{CLAIMS}:_claim", "after", 15),
    "before the POST": Step(f"{CLIENT}.submit", "before", 15),
    "before its answer is stored": Step(f"{CLIENT}.submit", "after", 15),
    "before the acceptance's commit": Step(f"{ATTEMPTS}:attempt_accepted", "uncommitted", 15),
    "pending": Step(f"{ATTEMPTS}:attempt_accepted", "after", 15),
    "before the start's commit": Step(f"{ATTEMPTS}:attempt_started", "uncommitted", 15),
    "running": Step(f"{ATTEMPTS}:attempt_started", "after", 15),
    "before a progress flush": Step("jobgroups.runner.progress:progress_flush", "before", 3),
    "during a progress flush": Step("jobgroups.runner.progress:progress_flush", "uncommitted", 3),
    "after the end, before history": Step(f"{DRIVER}._read_result", "before", 15),
    "before the final commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", 15),
    "before the bell of a commit": Step("jobgroups.events.hub:Hub.publish", "before", 60),
    "after the final commit": Step(f"{ATTEMPTS}:attempt_ended", "after", 15),
    "before the last child's commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", CHILDREN),
    "after the last child's commit": Step(f"{ATTEMPTS}:attempt_ended", "after", CHILDREN),
}


@dataclass(slots=True)
class Scene:
    """A Director over three backends, with a group of forty under way that somebody watches."""

    director: Director
    gpus: Gpus
    group_id: str = ""
    watcher: Watcher | None = None

    def begin(self, children: int = CHILDREN, *, lost_posts: int = 0, runs: int = 1) -> None:
        """Have strangers queue, submit the group, and watch it.

        Args:
            children: how many.
            lost_posts: so many of our first POSTs to each backend break off before they are read.
            runs: up to the end of which it is watched.
        """
        self.director.wait_online()
        self.gpus.strangers(each=3)
        if lost_posts:
            self.gpus.fault("reset_http", route="/prompt", method="POST", count=lost_posts)
        named = [self.gpus.ids[n % len(self.gpus.ids)] for n in range(children)]
        self.group_id = self.director.submit(picture(), named)
        self.watcher = Watcher(self.director, self.group_id, runs=runs)

    def wait_run_ended(self) -> None:
        """Wait until the group's present run has ended."""
        end = time.monotonic() + 60
        while self.director.ask("GET", self.path).json()["completed_at"] is None:
            assert time.monotonic() < end, self.director.printed()[-3000:]
            time.sleep(0.1)

    @property
    def path(self) -> str:
        """Where the API has the group."""
        return f"/api/job-groups/{self.group_id}"

    def killed_and_resumed(self) -> None:
        """Wait for the kill, have strangers queue meanwhile, and start again, unplugged no more."""
        self.director.wait_killed()
        self.gpus.strangers()
        self.director.start()

    def end(self) -> Counter[str]:
        """Wait for the end, end the Director in order, and hold all laws; how the children ended."""
        assert self.watcher is not None
        self.watcher.wait_ended()
        self.director.wait_settled()
        self.gpus.wait_idle()
        late = all_events(self.director, self.group_id, runs=self.watcher.runs)
        snapshot = self.director.ask("GET", f"/api/job-groups/{self.group_id}").json()
        assert self.director.stop() == 0, self.director.printed()
        assert "Traceback" not in self.director.printed(), self.director.printed()
        laws.check(self.director.data, self.gpus.seen())
        stored = laws.stored_events(self.director.data, self.group_id)
        assert late == stored
        self._check_watched(stored, snapshot)
        return laws.statuses(self.director.data, self.group_id)

    def _check_watched(self, stored: list[dict[str, object]], snapshot: dict[str, object]) -> None:
        """Hold that the watcher saw each event once, and that they add up to the next snapshot."""
        assert self.watcher is not None
        assert self.watcher.events == stored[-len(self.watcher.events) :]
        assert self.watcher.connections >= self.director.starts - 1
        children = list(self.watcher.state.children.values())
        assert children == [picked(one) for one in snapshot["child_jobs"]]  # type: ignore[attr-defined]
        assert self.watcher.state.group["seq"] == snapshot["seq"]
        assert self.watcher.state.group["status"] == snapshot["status"]


@contextmanager
def scene(folder: Path, *, seconds: float = 0.12, environment: dict[str, str] | None = None) -> Iterator[Scene]:
    """Set a scene; nothing of it is left afterwards."""
    with simulated(folder, seconds=seconds) as gpus, directing(folder, gpus.urls, environment) as director:
        yield Scene(director, gpus)


@pytest.mark.parametrize("step", LIFE.values(), ids=LIFE.keys())
def test_killed_in_a_childs_life_every_child_completes(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.begin()
        play.killed_and_resumed()
        assert play.end() == {"completed": CHILDREN}
        executed = sum(entry["kind"] == "started" for entry in play.gpus.seen())
        assert executed == CHILDREN + len(laws.Seen(play.gpus.seen()).strangers)


@pytest.mark.parametrize("moment", ["uncommitted", "after"])
def test_killed_as_outputs_are_kept_before_the_end(moment: str, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(Step(f"{ATTEMPTS}:attempt_outputs_stored", moment, 8))
        # Without it, most ends are stored together with their outputs.
        play.gpus.fault("late_history", mark='"director"', seconds=0.15, count=0)
        play.begin()
        play.killed_and_resumed()
        assert play.end() == {"completed": CHILDREN}


#: Name → an order to every backend for its POSTs, and the kind of the audit log's entry that shows it.
POSTS = {
    "queued, its answer not read": ("delay_answer", {"seconds": 6.0}),
    "queued, its answer lost": ("lose_answer", {}),
    "answered 500 though queued": ("prompt_500", {}),
    "on its way, to land during the looks": ("late_post", {"seconds": 1.2}),
}


@pytest.mark.parametrize(("fault", "options"), POSTS.values(), ids=POSTS.keys())
def test_killed_during_the_post_nothing_is_rendered_twice(
    fault: str, options: dict[str, float], tmp_path: Path
) -> None:
    with scene(tmp_path) as play:
        play.director.start()
        play.gpus.fault(fault, mark='"director"', after=4, count=1, **options)
        play.begin()
        play.gpus.wait_seen(lambda seen: any(e.get("name") == fault for e in seen))
        play.director.kill()
        play.gpus.strangers()
        play.director.start()
        assert play.end() == {"completed": CHILDREN}


UNSURE = {
    "after it became uncertain": Step(f"{ATTEMPTS}:attempt_uncertain", "after"),
    "before it is given up": Step(f"{ATTEMPTS}:attempt_never_accepted", "uncommitted"),
    "after it is given up": Step(f"{ATTEMPTS}:attempt_never_accepted", "after"),
}


@pytest.mark.parametrize("step", UNSURE.values(), ids=UNSURE.keys())
def test_killed_over_a_prompt_that_never_arrived(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.begin(lost_posts=1)
        play.director.wait_killed()
        # Killed before it had sent to each of them: no stranger's POST is to break off instead.
        play.gpus.clear_faults()
        play.killed_and_resumed()
        assert play.end() == {"completed": CHILDREN}
        ends = play.director.rows("SELECT state, count(*) AS n FROM jobgroups_attempt GROUP BY 1")
        assert {one["state"] for one in ends} == {"success", "never_accepted"}


CANCEL = {
    "before the cancel": Step(f"{CANCELLATION}:group_cancel", "before"),
    "before the cancel's commit": Step(f"{CANCELLATION}:group_cancel", "uncommitted"),
    "after the cancel": Step(f"{CANCELLATION}:group_cancel", "after"),
    "before a pending prompt is deleted": Step(f"{CLIENT}.delete_pending", "before"),
    "after a pending prompt was deleted": Step(f"{CLIENT}.delete_pending", "after"),
    "before a running prompt is interrupted": Step(f"{CLIENT}.interrupt", "before"),
    "after a running prompt was interrupted": Step(f"{CLIENT}.interrupt", "after"),
    "before the stop's end is stored": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted"),
}


@pytest.mark.parametrize("step", CANCEL.values(), ids=CANCEL.keys())
def test_killed_in_a_cancel_the_stop_is_still_owed(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=30.0) as play:
        play.director.start(step)
        play.director.wait_online()
        play.begin(children=12)
        play.gpus.wait_seen(_one_runs_and_one_waits)
        # Else the waiting one may start, for a moment, before it is deleted.
        play.gpus.fault("interrupt_lost", count=2)
        cancel(play.director, play.group_id)
        play.killed_and_resumed()
        if step.at.endswith("group_cancel") and step.moment != "after":
            told = play.director.ask("DELETE", f"/api/job-groups/{play.group_id}").json()
            assert told["cancelled"] is True
        ended = play.end()
        assert set(ended) <= {"cancelled", "completed"}
        assert ended["cancelled"] >= 9
        _check_stopped(play)


def _one_runs_and_one_waits(entries: list[Entry]) -> bool:
    """Whether at each backend a prompt of ours runs, and another one is in its queue."""
    seen = laws.Seen(entries)
    return len(seen.job) == 6 and sum(seen.kinds[one]["started"] for one in seen.job) == 3


def cancel(director: Director, group_id: str) -> None:
    """Ask for a cancel as somebody who may get no answer."""
    with suppress(httpx.TransportError):
        director.ask("DELETE", f"/api/job-groups/{group_id}")


def _check_stopped(play: Scene) -> None:
    """Hold that nothing of ours was rendered to its end after the cancel."""
    seen = laws.Seen(play.gpus.seen())
    cancelled = play.director.rows(
        "SELECT prompt_id FROM jobgroups_attempt a JOIN jobgroups_childjob c ON c.id = a.child_id"
        " WHERE c.status = 'cancelled'"
    )
    for one in cancelled:
        assert seen.outcome.get(one["prompt_id"], "never ran") in ("interrupted", "never ran")


TIMEOUT = {
    "before the timeout": Step(f"{ATTEMPTS}:attempt_timed_out", "before"),
    "before the timeout's commit": Step(f"{ATTEMPTS}:attempt_timed_out", "uncommitted"),
    "after the timeout": Step(f"{ATTEMPTS}:attempt_timed_out", "after"),
    "before its interrupt": Step(f"{CLIENT}.interrupt", "before"),
    "after its interrupt": Step(f"{CLIENT}.interrupt", "after"),
}


@pytest.mark.parametrize("step", TIMEOUT.values(), ids=TIMEOUT.keys())
def test_killed_in_a_timeout_it_alone_times_out(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, environment={"PLUG_TIMEOUT": "2"}) as play:
        play.director.start(step)
        play.director.wait_online()
        play.gpus.fault("stuck", of=1, mark='"director"', after=3)
        play.begin()
        play.killed_and_resumed()
        assert play.end() == {"completed": CHILDREN - 1, "timeout": 1}
        states = play.director.rows("SELECT state, count(*) AS n FROM jobgroups_attempt GROUP BY 1")
        assert {one["state"]: one["n"] for one in states} == {"success": CHILDREN - 1, "timeout": 1}


RETRY = {
    "before the retry": Step(f"{RETRIES}:group_retry", "before"),
    "before the retry's commit": Step(f"{RETRIES}:group_retry", "uncommitted"),
    "after the retry": Step(f"{RETRIES}:group_retry", "after"),
    "after the next run's first intent": Step(f"{CLAIMS}:_claim", "after", 13),
    "before the next run's last commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", 18),
}


@pytest.mark.parametrize("step", RETRY.values(), ids=RETRY.keys())
def test_killed_in_a_retry_it_is_done_whole_or_not_at_all(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.director.wait_online()
        play.gpus.fault("node_error", mark='"director"', message="bad latent", count=2)
        play.begin(children=12, runs=2)
        play.wait_run_ended()
        retry(play.director, play.group_id)
        play.killed_and_resumed()
        # Asked again by who got no answer: it is done once.
        retry(play.director, play.group_id)
        assert play.end() == {"completed": 12}
        executed = sum(entry["kind"] == "started" for entry in play.gpus.seen())
        assert executed == 12 + 6 + len(laws.Seen(play.gpus.seen()).strangers)


def retry(director: Director, group_id: str) -> None:
    """Ask for the second run as somebody who may get no answer."""
    with suppress(httpx.TransportError):
        director.ask("POST", f"/api/job-groups/{group_id}/retry", json={"run": 1})


MOVE = {
    "before the move's commit": Step(f"{MOVES}:child_move", "uncommitted"),
    "after the move": Step(f"{MOVES}:child_move", "after"),
    "before the moved prompt is removed": Step(f"{CLIENT}.delete_pending", "before"),
    "after the moved prompt was removed": Step(f"{CLIENT}.delete_pending", "after"),
    "before its removal's commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted"),
}


@pytest.mark.parametrize("step", MOVE.values(), ids=MOVE.keys())
def test_killed_in_a_move_every_job_is_rendered_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=2.0) as play:
        play.director.start(step)
        play.begin(children=9)
        play.gpus.wait_seen(_one_runs_and_one_waits)
        child, target = _moved_until_killed(play)
        play.killed_and_resumed()
        # Repeated by a client that got no answer; by now it may run, or be done.
        move(play, child, target)
        assert play.end() == {"completed": 9}
        executed = sum(entry["kind"] == "started" for entry in play.gpus.seen())
        assert executed == 9 + len(laws.Seen(play.gpus.seen()).strangers)


def _moved_until_killed(play: Scene) -> tuple[dict[str, str], str]:
    """Move children out of backends' queues until the step is met; return the last move.

    A prompt that starts before it is removed stays, and the next one is moved.
    """
    end = time.monotonic() + 20
    child, target = {"job_id": ""}, ""
    while play.director.process.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):
            children = play.director.ask("GET", play.path).json()["child_jobs"]
            queued = [
                one
                for one in children
                if (one["waiting_reason"] or "").startswith("In the queue of") and one["job_id"] != child["job_id"]
            ]
            if queued:
                child = queued[-1]
                target = next(one for one in play.gpus.ids if one != child["backend_id"])
                move(play, child, target)
        time.sleep(0.3)
    return child, target


def move(play: Scene, child: dict[str, str], target: str) -> None:
    """Request a move as a client that may get no answer."""
    path = f"{play.path}/jobs/{child['job_id']}/move"
    with suppress(httpx.TransportError):
        answer = play.director.ask("POST", path, json={"backend_id": target})
        assert answer.status_code in (200, 409), answer.text


RECOVERY = {
    "as a lease was taken": Step("jobgroups.services.leases:lease_acquire", "after", 2),
    "as it looks for the first time": Step("jobgroups.runner.attempt.driver:look_up", "before", 1),
    "as its look was answered": Step("jobgroups.runner.attempt.driver:look_up", "after", 3),
    "as it stores a doubt": Step(f"{ATTEMPTS}:attempt_uncertain", "uncommitted", 1),
}


@pytest.mark.parametrize("step", RECOVERY.values(), ids=RECOVERY.keys())
def test_killed_again_while_it_recovers(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(LIFE["after the intent"])
        play.begin()
        play.director.wait_killed()
        play.director.start(step, wait=False)
        play.killed_and_resumed()
        assert play.end() == {"completed": CHILDREN}
        assert play.director.starts == 3


def test_killed_at_random_again_and_again(tmp_path: Path) -> None:
    with scene(tmp_path, seconds=0.3) as play:
        play.director.start()
        play.begin()
        for started in (4, 11, 19, 30):
            play.gpus.wait_seen(_more_than(started))
            play.director.kill()
            play.director.start()
        assert play.end() == {"completed": CHILDREN}


def _more_than(started: int) -> Callable[[list[Entry]], bool]:
    def enough(seen: list[Entry]) -> bool:
        return sum(e["kind"] == "started" for e in seen) > started

    return enough
