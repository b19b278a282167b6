"""Director processes that are killed at every step of a job's life, in a capture and in the
retention.
"""

import sqlite3
from contextlib import closing, suppress
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
from tests.harness.director import Step, directing
from tests.harness.graphs import picture
from tests.harness.machines import simulated
from tests.harness.processes import PROCESSES, stop_in_order
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

only_as_one_process = pytest.mark.parametrize("processes", ["1"], indirect=True)


@pytest.fixture(autouse=True, params=["1", "3"])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of how many processes ``serve`` is; of three, the one that comes to the step is killed and
    the others go on.
    """
    monkeypatch.setenv(PROCESSES, request.param)


@in_life
def test_killed_in_a_childs_life_every_child_completes(
    step: Step, in_pool: bool, tmp_path: Path
) -> None:
    # The shorter the prompts, the more of their writes meet in one transaction.
    with scene(tmp_path, seconds=0.0 if step.at.endswith("attempts_store") else 0.12) as play:
        play.director.start(step)
        play.begin(in_pool=in_pool)
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN}
        play.check_executed(CHILDREN)


@pytest.mark.parametrize("moment", ["uncommitted", "after"])
def test_killed_as_outputs_are_kept_before_the_end(moment: str, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(Step("jobgroups.services.attempts:attempt_outputs_stored", moment, 8))
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


@each_step("unsure")
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
        # A prompt that was claimed behind the uncertain one of its workflow is not sent.
        assert {one["state"] for one in ends} - {"not_sent"} == {"success", "never_accepted"}


@each_step("cancel")
def test_killed_in_a_cancel_the_stop_is_still_pending(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=30.0) as play:
        play.director.start(step)
        play.begin(children=12)
        play.gpus.wait_seen(one_runs_and_one_waits)
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
        check_stopped(play)


@each_step("timeout")
def test_killed_in_a_timeout_only_one_job_times_out(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, environment={"PLUG_TIMEOUT": "2"}) as play:
        play.director.start(step)
        play.gpus.fault("stuck", of=1, mark='"director"', after=3)
        play.begin()
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN - 1, "timeout": 1}
        # The kill may meet a POST to another backend, and a busy machine may not connect in time.
        states = play.director.rows(
            "SELECT state, count(*) AS n FROM jobgroups_attempt"
            " WHERE state NOT IN ('never_accepted', 'not_sent') GROUP BY 1"
        )
        assert {one["state"]: one["n"] for one in states} == {"success": CHILDREN - 1, "timeout": 1}


@each_step("retry")
def test_killed_in_a_retry_the_retry_is_done_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(step)
        play.gpus.fault("node_error", mark='"director"', message="bad latent", count=2)
        play.begin(children=12, runs=2)
        play.director.wait_ended(play.group_id)
        for _ in range(2):
            # The second one repeats a request without a response: the retry is done once.
            play.request("POST", "/retry", json={"run": 1})
            if play.director.starts == 1:
                play.restart_when_killed()
        assert play.end() == {"completed": 12}
        play.check_executed(12 + 6)


@each_step("move")
def test_killed_in_a_move_every_job_is_rendered_once(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path, seconds=2.0) as play:
        play.director.start(step)
        play.begin(children=9)
        job, target = _moved_until_killed(play)
        play.restart_when_killed()
        # Repeats a request without a response. Meanwhile the job may run or have ended.
        move(play, job, target)
        assert play.end() == {"completed": 9}
        play.check_executed(9)


def _moved_until_killed(play: Scene) -> tuple[str, str]:
    """Move jobs from the backends' queues until the Director is killed; return the last job and
    target.

    A prompt that starts before its removal stays, and the next job is moved.
    """
    job, target = "", ""
    # A job may start before its move: the move is refused, and is not the step.
    running = until(
        lambda: [one for one in play.group()["child_jobs"] if one["status"] == "running"]
    )[0]
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
        return play.director.was_killed

    until(is_killed)
    return job, target


def move(play: Scene, job: str, target: str) -> None:
    answer = play.request("POST", f"/jobs/{job}/move", json={"backend_id": target})
    assert answer is None or answer.status_code in (200, 409), answer.text


@each_step("recovery")
def test_killed_again_while_it_recovers(step: Step, tmp_path: Path) -> None:
    with scene(tmp_path) as play:
        play.director.start(STEPS["life"]["after the intent"])
        play.begin()
        play.director.wait_killed()
        play.director.start(step, wait=False)
        play.restart_when_killed()
        assert play.end() == {"completed": CHILDREN}
        # Three processes start the killed one again themselves.
        assert play.director.starts == (2 if play.director.is_supervised else 3)


CAPTURES = "jobgroups.services.captures"


@each_step("capture")
def test_kill_in_a_capture_loses_nothing(tmp_path: Path, step: Step) -> None:
    with simulated(tmp_path, count=1) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start(step)
        director.wait_online()
        group = director.submit(picture(), gpus.ids * 4)
        director.restart_when_killed()

        def captured() -> list[bool]:
            jobs = director.group(group)["child_jobs"]
            return [
                file["captured"]
                for job in jobs
                for file in (job["outputs"] or {}).get("images", ())
            ]

        until(lambda: captured() == [True] * 4, state=captured)
        check_storage(director)
        stop_in_order(director)
        assert len(director.rows("SELECT * FROM jobgroups_storedfile")) == 4


PURGE_STEPS = {
    "before the first group": (Step("jobgroups.services.purge:groups_delete", "before"), 3, 3),
    "before the commit of a group": (
        Step("jobgroups.services.purge:groups_delete", "uncommitted", 2),
        2,
        2,
    ),
    "between a group and its files": (
        Step("jobgroups.services.purge:groups_delete", "after", 2),
        1,
        2,
    ),
    "between the rows of files and the files": (Step(f"{CAPTURES}:_delete_rows", "after"), 2, 3),
}


@only_as_one_process  # which the test reads before the restart
@pytest.mark.parametrize(("step", "groups", "files"), PURGE_STEPS.values(), ids=PURGE_STEPS.keys())
def test_kill_in_the_retention_leaves_nothing(
    tmp_path: Path, step: Step, groups: int, files: int
) -> None:
    with simulated(tmp_path, count=1) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        young, *_ = [director.submit(picture(), gpus.ids) for _ in range(3)]
        until(lambda: len(director.rows("SELECT * FROM jobgroups_storedfile")) == 3)
        director.wait_settled()
        stop_in_order(director)
        with closing(sqlite3.connect(director.data / "director.sqlite3")) as database:
            # A group of so many jobs has a transaction of its own.
            database.execute(
                "UPDATE jobgroups_jobgroup SET created_at = ?1, completed_at = ?1, total_count = "
                "400 WHERE id <> ?2",
                ["2026-01-01 00:00:00", young],
            )
            database.commit()
        director.start(step, wait=False, DIRECTOR_RETENTION_DAYS="30")
        director.wait_killed()
        assert len(director.rows("SELECT * FROM jobgroups_jobgroup")) == groups
        assert len(list((director.data / "files" / "results").iterdir())) == files
        director.start(DIRECTOR_RETENTION_DAYS="30")
        until(
            lambda: (
                [row["id"] for row in director.rows("SELECT id FROM jobgroups_jobgroup")] == [young]
            )
        )
        until(lambda: len(director.rows("SELECT * FROM jobgroups_storedfile")) == 1)
        check_storage(director)
        stop_in_order(director)
        assert len(director.rows("SELECT * FROM jobgroups_capture")) == 1
        assert director.rows("PRAGMA foreign_key_check") == []
