"""``serve`` is killed in the middle of a capture and of the retention: no output is lost or half, and no file is left."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.director import Director, Step, directing
from tests.harness.graphs import picture
from tests.harness.processes import stop_in_order
from tests.harness.simulators import simulated
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

FILES = "jobgroups.services.stored_files"
CAPTURES = "jobgroups.services.captures"
STEPS = {
    "before the first byte": Step("jobgroups.runner.captures:IncomingFile", "after", 2),
    "while it is received": Step(f"{FILES}:IncomingFile.write", "before", 2),
    "before the mark of its row": Step(f"{CAPTURES}:capture_store", "before", 2),
    "before the rename": Step(f"{FILES}:move_into_storage", "before", 2),
    "after the rename": Step(f"{FILES}:move_into_storage", "after", 2),
    "before the commit": Step(f"{CAPTURES}:_refer", "uncommitted", 2),
    "after the commit": Step(f"{CAPTURES}:_refer", "after", 2),
}


def check(director: Director) -> None:
    """Hold that the storage has exactly the content of the rows, once the next start has cleaned."""
    rows = director.rows("SELECT blake3, sha256, id, size_bytes FROM jobgroups_storedfile")
    expected = {f"results/{row['blake3']}-{row['id']}": (row["sha256"], row["size_bytes"]) for row in rows}
    folder = director.data / "files"

    def left() -> set[str]:
        files = (one for one in folder.rglob("*") if one.is_file())
        found = (one for one in files if one.suffix != ".lock" and one.parent.name != "runners")
        return {str(one.relative_to(folder)) for one in found} ^ expected.keys()

    until(lambda: not left(), 20.0, left)
    for name, known in expected.items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == known


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_kill_in_a_capture_loses_nothing(tmp_path: Path, step: Step) -> None:
    with simulated(tmp_path, count=1) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start(step)
        director.wait_online()
        group = director.submit(picture(), gpus.ids * 4)
        director.wait_killed()
        director.start()

        def captured() -> list[bool]:
            jobs = director.ask("GET", f"/api/job-groups/{group}").json()["child_jobs"]
            return [file["captured"] for job in jobs for file in (job["outputs"] or {}).get("images", ())]

        until(lambda: captured() == [True] * 4, 40.0, captured)
        check(director)
        stop_in_order(director)
        assert len(director.rows("SELECT * FROM jobgroups_storedfile")) == 4


PURGE_STEPS = {
    "before the first group": (Step("jobgroups.services.purge:_delete", "before"), 3, 3),
    "before the commit of a group": (Step("jobgroups.services.purge:_delete", "uncommitted", 2), 2, 2),
    "between a group and its files": (Step("jobgroups.services.purge:_delete", "after", 2), 1, 2),
    "between the rows of files and the files": (Step(f"{CAPTURES}:_delete_rows", "after"), 2, 3),
}


@pytest.mark.parametrize(("step", "groups", "files"), PURGE_STEPS.values(), ids=PURGE_STEPS.keys())
def test_kill_in_the_retention_leaves_nothing(tmp_path: Path, step: Step, groups: int, files: int) -> None:
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
                "UPDATE jobgroups_jobgroup SET created_at = ?1, completed_at = ?1, total_count = 400 WHERE id <> ?2",
                ["2026-01-01 00:00:00", young],
            )
            database.commit()
        director.start(step, wait=False, DIRECTOR_RETENTION_DAYS="30")
        director.wait_killed()
        assert len(director.rows("SELECT * FROM jobgroups_jobgroup")) == groups
        assert len(list((director.data / "files" / "results").iterdir())) == files
        director.start(DIRECTOR_RETENTION_DAYS="30")
        until(lambda: [row["id"] for row in director.rows("SELECT id FROM jobgroups_jobgroup")] == [young])
        until(lambda: len(director.rows("SELECT * FROM jobgroups_storedfile")) == 1)
        check(director)
        stop_in_order(director)
        assert len(director.rows("SELECT * FROM jobgroups_capture")) == 1
        assert director.rows("PRAGMA foreign_key_check") == []
