"""Processes of ``serve`` that are suspended or ended at every step of the kill matrix, and so is
the one that started them.

Each case sends all of ``SIGNALS``, and repeats what leads to the step until they have come. As one
process, ``serve`` has no parent, and ``test_killed_at_every_step`` ends it harder.
"""

from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.kills import STEPS, each_step, in_life
from tests.e2e.scenes import (
    CHILDREN,
    Scene,
    check_stopped,
    check_storage,
    one_runs_and_one_waits,
    scene,
)
from tests.harness.director import Step
from tests.harness.processes import PROCESSES, stop_in_order
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(590), pytest.mark.slow]


@pytest.fixture(autouse=True)
def three_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES, "3")


@in_life
def test_signalled_in_a_childs_life_every_child_completes(
    step: Step, in_pool: bool, tmp_path: Path
) -> None:
    # Few of these calls are made for a group; the others are not to be the first ones.
    is_rare = step.at.endswith(("attempts_store", "progress_flush"))
    with scene(tmp_path, seconds=0.0 if step.at.endswith("attempts_store") else 0.12) as play:
        play.start_signalled(step, 1 if is_rare else 4)
        play.begin(in_pool=in_pool)
        play.repeat_until_signalled(in_pool=in_pool)
        assert play.end() == {"completed": CHILDREN}
        play.check_executed(CHILDREN * play.groups)


@each_step("unsure")
def test_signalled_over_prompts_that_never_arrived(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.start_signalled(step)
        play.begin(lost_posts=2)
        with play.signalled():
            pass
        assert play.end() == {"completed": CHILDREN}
        play.check_executed(CHILDREN)


@each_step("cancel")
def test_signalled_in_cancels_every_stop_is_done(step: Step, tmp_path: Path) -> None:
    # No prompt ends by itself while its Director starts again.
    with scene(tmp_path, seconds=120.0) as play:
        play.start_signalled(step)
        play.begin(children=12)
        play.gpus.wait_seen(one_runs_and_one_waits)
        with play.signalled() as is_to_come:
            group = play.group_id
            while True:
                until(lambda: [len(gpu.standing()) for gpu in play.gpus] == [2, 2, 2])
                play.gpus.fault("interrupt_lost", count=2)
                answer = play.ask_again("DELETE", f"/api/job-groups/{group}")
                assert answer.json()["cancelled"] is True
                play.gpus.wait_idle()
                if not is_to_come():
                    break
                group = play.submit(12)
        assert play.end() == {"cancelled": 12}
        check_stopped(play)


@each_step("timeout")
def test_signalled_in_timeouts_only_stuck_jobs_time_out(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, environment={"PLUG_TIMEOUT": "2"}) as play:
        play.start_signalled(step)
        play.gpus.fault("stuck", of=1, mark='"director"', after=3, count=5)
        play.begin()
        with play.signalled():
            pass
        assert play.end() == {"completed": CHILDREN - 5, "timeout": 5}
        play.check_executed(CHILDREN)


@each_step("retry")
def test_signalled_in_retries_each_retry_is_done_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start()
        failing, executed = 9, 30
        _complete_one_of_each(play, failing)
        play.begin(children=30, runs=99)
        play.director.wait_ended(play.group_id)
        stop_in_order(play.director)
        play.start_signalled(step)
        assert play.watcher is not None
        path = f"/api/job-groups/{play.group_id}"
        with play.signalled() as is_to_come:
            run = 1
            while run < play.watcher.runs:
                executed += 3 * failing
                if is_to_come():
                    failing -= 1
                    _complete_one_of_each(play, failing)
                else:
                    play.watcher.runs = run + 1
                play.ask_again("POST", f"{path}/retry", json={"run": run})
                run += 1
                until(lambda: play.ask_again("GET", path).json()["completed_at"])
        assert play.end() == {"completed": 30}
        play.check_executed(executed)


def _complete_one_of_each(play: Scene, failing: int) -> None:
    """Have so many prompts of each backend fail after the next one."""
    if failing:
        play.gpus.fault("node_error", mark='"director"', message="no", after=1, count=failing)


@each_step("move")
def test_signalled_in_moves_every_job_is_rendered_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=1.0) as play:
        play.start_signalled(step)
        play.begin(children=36)
        with play.signalled() as is_to_come:
            group, moved = play.group_id, ""
            while is_to_come():
                if play.ask_again("GET", f"/api/job-groups/{group}").json()["completed_at"]:
                    group = play.submit(36)
                with suppress(httpx.TransportError):
                    moved = _move_another(play, group, moved)
        assert play.end() == {"completed": 36}
        play.check_executed(36 * play.groups)


def _move_another(play: Scene, group: str, moved: str) -> str:
    """Move a job that is in the queue of a backend, and was not moved just now; return its id."""
    for child in reversed(play.director.group(group)["child_jobs"]):
        job, reason = child["job_id"], child["waiting_reason"] or ""
        if reason.startswith("In the queue of") and job != moved:
            target = next(gpu for gpu in play.gpus.ids if gpu != child["backend_id"])
            body = {"backend_id": target}
            play.director.ask("POST", f"/api/job-groups/{group}/jobs/{job}/move", json=body)
            return str(job)
    return moved


@each_step("recovery")
def test_signalled_while_it_recovers(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(STEPS["life"]["after the intent"])
        play.begin()
        play.director.wait_killed()
        play.gpus.fault("reset_http", route="/prompt", method="POST", count=2)
        play.start_signalled(step)
        with play.signalled():
            pass
        assert play.end() == {"completed": CHILDREN}
        play.check_executed(CHILDREN)


@each_step("capture")
def test_signalled_in_captures_nothing_is_lost(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.start_signalled(step)
        play.begin(children=12)
        play.repeat_until_signalled(children=12)
        rows = "SELECT id FROM jobgroups_jobgroup"
        for row in play.director.rows(rows):
            until(lambda group=row["id"]: _are_captured(play, group))
        check_storage(play.director)
        assert play.end() == {"completed": 12}
        files = play.director.rows("SELECT id FROM jobgroups_storedfile")
        assert len(files) == 12 * play.groups


def _are_captured(play: Scene, group_id: str) -> bool:
    """Whether each job of a group has ended, and its file is captured."""
    jobs = play.ask_again("GET", f"/api/job-groups/{group_id}").json()["child_jobs"]
    return all(
        job["outputs"] and all(file["captured"] for file in job["outputs"]["images"])
        for job in jobs
    )
