"""``serve`` is killed at every step of a child's life and started again: the end is the same each time.

Forty children over three backends, of both recorded versions of ComfyUI, that have prompts of other clients too, and a watcher that resumes with
``?since=``. The backends' audit log is compared with the database file.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import laws
from tests.harness.director import Director, Step, directing
from tests.harness.graphs import picture
from tests.harness.processes import stop_in_order
from tests.harness.simulators import Entry, Gpus, simulated
from tests.harness.waits import until
from tests.harness.watcher import Watcher, all_events
from tests.ws.client_state import picked

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

CHILDREN = 40
ATTEMPTS = "jobgroups.services.attempts"
CLAIMS = "jobgroups.services.claims"
CANCELLATION = "jobgroups.services.cancellation"
RETRIES = "jobgroups.services.retries"
MOVES = "jobgroups.services.moves"
COMPLETER = "jobgroups.runner.completer"
CLIENT = "backends.comfyui.client:ComfyClient"
DRIVER = "jobgroups.runner.attempt.driver:AttemptDriver"

#: Name → step of the kill, in the order of a child's life.
LIFE = {
    "before the intent": Step(f"{CLAIMS}:_claim_bound", "before", 15),
    "before the intent's commit": Step(f"{CLAIMS}:_claim_bound", "uncommitted", 15),
    "after the intent": Step(f"{CLAIMS}:_claim_bound", "after", 15),
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
    "before the notification of a commit": Step("jobgroups.events.hub:Hub.publish", "before", 60),
    "after the final commit": Step(f"{ATTEMPTS}:attempt_ended", "after", 15),
    "before the last child's commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", CHILDREN),
    "after the last child's commit": Step(f"{ATTEMPTS}:attempt_ended", "after", CHILDREN),
}


@dataclass(slots=True)
class Scene:
    """A Director over three backends, and a group that a watcher follows."""

    director: Director
    gpus: Gpus
    group_id: str = ""
    watcher: Watcher | None = None

    def begin(self, children: int = CHILDREN, *, lost_posts: int = 0, runs: int = 1, in_pool: bool = False) -> None:
        """Queue prompts of another client, submit a group, and watch it; ``lost_posts`` break off first."""
        self.director.wait_online()
        self.gpus.strangers(each=3)
        if lost_posts:
            self.gpus.fault("reset_http", route="/prompt", method="POST", count=lost_posts)
        named = [self.gpus.ids[n % len(self.gpus.ids)] for n in range(children)]
        fields: dict[str, Any] = {"count": children} if in_pool else {}
        self.group_id = self.director.submit(picture(), ["*"] if in_pool else named, **fields)
        self.watcher = Watcher(self.director, self.group_id, runs=runs)

    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.director.ask("GET", f"/api/job-groups/{self.group_id}").json()
        return found

    def request(self, method: str, path: str = "", **options: Any) -> httpx.Response | None:
        """Send a request about the group; None if the Director was killed before its response."""
        with suppress(httpx.TransportError):
            return self.director.ask(method, f"/api/job-groups/{self.group_id}{path}", **options)
        return None

    def restart_when_killed(self) -> None:
        """Wait for the kill, queue prompts of another client, and start again without a step."""
        self.director.wait_killed()
        self.gpus.strangers()
        self.director.start()

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
        assert self.watcher.connections >= self.director.starts - 1
        state = self.watcher.state
        assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
        assert [state.group[one] for one in ("seq", "status")] == [snapshot[one] for one in ("seq", "status")]
        return laws.statuses(self.director.data, self.group_id)

    def check_executed(self, children: int) -> None:
        """Check the number of executed prompts, without those of the other client."""
        executed = sum(entry["kind"] == "started" for entry in self.gpus.seen())
        assert executed == children + len(laws.Seen(self.gpus.seen()).strangers)


@contextmanager
def scene(folder: Path, *, seconds: float = 0.12, environment: dict[str, str] | None = None) -> Iterator[Scene]:
    """Give a scene whose Director is not started yet."""
    with simulated(folder, seconds=seconds) as gpus, directing(folder, gpus.urls, environment) as director:
        yield Scene(director, gpus)


#: Steps at which jobs of the pool differ: the claim, and writes that share a transaction.
POOL = {
    "before the claim": Step(f"{CLAIMS}:_claim_from_pool", "before", 15),
    "before the claim's commit": Step(f"{CLAIMS}:_claim_from_pool", "uncommitted", 15),
    "after the claim": Step(f"{CLAIMS}:_claim_from_pool", "after", 15),
    "running": Step(f"{ATTEMPTS}:attempt_started", "after", 15),
    "before the final commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", 15),
    "before a shared commit": Step(f"{COMPLETER}:group_store", "uncommitted", 2),
    "after a shared commit": Step(f"{COMPLETER}:group_store", "after", 2),
}


@pytest.mark.parametrize(
    ("step", "in_pool"),
    [*((one, False) for one in LIFE.values()), *((one, True) for one in POOL.values())],
    ids=[*LIFE, *(f"{one}, in the pool" for one in POOL)],
)
def test_killed_in_a_childs_life_every_child_completes(step: Step, in_pool: bool, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.begin(in_pool=in_pool)
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN}
        play.check_executed(CHILDREN)


@pytest.mark.parametrize("moment", ["uncommitted", "after"])
def test_killed_as_outputs_are_kept_before_the_end(moment: str, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(Step(f"{ATTEMPTS}:attempt_outputs_stored", moment, 8))
        # Without this fault, most ends are stored together with their outputs.
        play.gpus.fault("late_history", mark='"director"', seconds=0.15, count=0)
        play.begin()
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN}


#: Name → a fault of each backend's POSTs, and its options.
POSTS = {
    "queued, its answer not read": ("delay_answer", {"seconds": 6.0}),
    "queued, its answer lost": ("lose_answer", {}),
    "answered 500 though queued": ("prompt_500", {}),
    "delayed, to arrive during the lookups": ("late_post", {"seconds": 1.2}),
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
    "before it ends as never accepted": Step(f"{ATTEMPTS}:attempt_never_accepted", "uncommitted"),
    "after it ended as never accepted": Step(f"{ATTEMPTS}:attempt_never_accepted", "after"),
}


@pytest.mark.parametrize("step", UNSURE.values(), ids=UNSURE.keys())
def test_killed_over_a_prompt_that_never_arrived(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.begin(lost_posts=1)
        play.director.wait_killed()
        # If it was killed before it sent to each backend, another client's POST must not break off.
        play.gpus.clear_faults()
        play.restart_when_killed()
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
    "before a running prompt is cancelled": Step(f"{CLIENT}.cancel_job", "before"),
    "after a running prompt was cancelled": Step(f"{CLIENT}.cancel_job", "after"),
    "before the stop's end is stored": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted"),
}


@pytest.mark.parametrize("step", CANCEL.values(), ids=CANCEL.keys())
def test_killed_in_a_cancel_the_stop_is_still_pending(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=30.0) as play:
        play.director.start(step)
        play.director.wait_online()
        play.begin(children=12)
        play.gpus.wait_seen(_one_runs_and_one_waits)
        # Otherwise the pending prompt may start, for a moment, before it is deleted.
        play.gpus.fault("interrupt_lost", count=2)
        play.request("DELETE")
        play.restart_when_killed()
        if step.at.endswith("group_cancel") and step.moment != "after":
            repeated = play.request("DELETE")
            assert repeated is not None
            assert repeated.json()["cancelled"] is True
        ended = play.end()
        assert set(ended) <= {"cancelled", "completed"}
        assert ended["cancelled"] >= 9
        _check_stopped(play)


def _one_runs_and_one_waits(entries: list[Entry]) -> bool:
    """Whether each backend has a running and a pending prompt of the group."""
    seen = laws.Seen(entries)
    return len(seen.job) == 6 and sum(seen.kinds[one]["started"] for one in seen.job) == 3


def _check_stopped(play: Scene) -> None:
    """Check that no cancelled prompt was executed to its end."""
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
def test_killed_in_a_timeout_only_one_job_times_out(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, environment={"PLUG_TIMEOUT": "2"}) as play:
        play.director.start(step)
        play.director.wait_online()
        play.gpus.fault("stuck", of=1, mark='"director"', after=3)
        play.begin()
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN - 1, "timeout": 1}
        states = play.director.rows("SELECT state, count(*) AS n FROM jobgroups_attempt GROUP BY 1")
        assert {one["state"]: one["n"] for one in states} == {"success": CHILDREN - 1, "timeout": 1}


RETRY = {
    "before the retry": Step(f"{RETRIES}:group_retry", "before"),
    "before the retry's commit": Step(f"{RETRIES}:_retry", "uncommitted"),
    "after the retry": Step(f"{RETRIES}:group_retry", "after"),
    "after the next run's first intent": Step(f"{CLAIMS}:_claim_bound", "after", 13),
    "before the next run's last commit": Step(f"{ATTEMPTS}:attempt_ended", "uncommitted", 18),
}


@pytest.mark.parametrize("step", RETRY.values(), ids=RETRY.keys())
def test_killed_in_a_retry_the_retry_is_done_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.director.wait_online()
        play.gpus.fault("node_error", mark='"director"', message="bad latent", count=2)
        play.begin(children=12, runs=2)
        until(lambda: play.group()["completed_at"], within=60.0)
        for _ in range(2):
            # The second one repeats a request without a response: the retry is done once.
            play.request("POST", "/retry", json={"run": 1})
            if play.director.starts == 1:
                play.restart_when_killed()
        assert play.end() == {"completed": 12}
        play.check_executed(12 + 6)


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
        job, target = _moved_until_killed(play)
        play.restart_when_killed()
        # Repeats a request without a response. Meanwhile the job may run or have ended.
        move(play, job, target)
        assert play.end() == {"completed": 9}
        play.check_executed(9)


def _moved_until_killed(play: Scene) -> tuple[str, str]:
    """Move jobs from the backends' queues until the Director is killed; return the last job and target.

    A prompt that starts before its removal stays, and the next job is moved.
    """
    job, target = "", ""
    # A job may start before its move: the move is refused, and is not the step.
    running = until(lambda: [one for one in play.group()["child_jobs"] if one["status"] == "running"])[0]
    move(play, running["job_id"], play.gpus.ids[0])

    def is_killed() -> bool:
        nonlocal job, target
        with suppress(httpx.TransportError):
            for child in reversed(play.group()["child_jobs"]):
                reason = child["waiting_reason"] or ""
                if reason.startswith("In the queue of") and child["job_id"] != job:
                    job = child["job_id"]
                    target = next(one for one in play.gpus.ids if one != child["backend_id"])
                    move(play, job, target)
                    break
        return play.director.process.poll() is not None

    until(is_killed, within=20.0)
    return job, target


def move(play: Scene, job: str, target: str) -> None:
    answer = play.request("POST", f"/jobs/{job}/move", json={"backend_id": target})
    assert answer is None or answer.status_code in (200, 409), answer.text


RECOVERY = {
    "after a lease was acquired": Step("jobgroups.services.leases:lease_acquire", "after", 2),
    "before the first lookup": Step("jobgroups.runner.attempt.driver:look_up", "before", 1),
    "after a lookup": Step("jobgroups.runner.attempt.driver:look_up", "after", 3),
    "before it becomes uncertain": Step(f"{ATTEMPTS}:attempt_uncertain", "uncommitted", 1),
}


@pytest.mark.parametrize("step", RECOVERY.values(), ids=RECOVERY.keys())
def test_killed_again_while_it_recovers(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(LIFE["after the intent"])
        play.begin()
        play.director.wait_killed()
        play.director.start(step, wait=False)
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN}
        assert play.director.starts == 3


def test_killed_at_random_again_and_again(tmp_path: Path) -> None:
    with scene(tmp_path, seconds=0.3) as play:
        play.director.start()
        play.begin()
        for started in (4, 11, 19, 30):
            play.gpus.wait_seen(lambda seen, n=started: sum(e["kind"] == "started" for e in seen) > n)
            play.director.kill()
            play.director.start()
        assert play.end() == {"completed": CHILDREN}
