"""``serve`` is killed in the middle of a capture and of a deletion: no output is lost or half, and no file is left."""

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


def test_kill_in_a_deletion_leaves_no_file(tmp_path: Path) -> None:
    with simulated(tmp_path, count=1) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        director.submit(picture(), gpus.ids * 2)
        until(lambda: len(director.rows("SELECT * FROM jobgroups_storedfile")) == 2)
        stop_in_order(director)
        # As a purge does; the runner deletes the files when it starts.
        with closing(sqlite3.connect(director.data / "director.sqlite3")) as database:
            database.execute("DELETE FROM jobgroups_capture")
            database.commit()
        director.start(Step(f"{CAPTURES}:_delete_rows", "after"), wait=False)
        director.wait_killed()
        assert director.rows("SELECT * FROM jobgroups_storedfile") == []
        assert len(list((director.data / "files" / "results").iterdir())) == 2
        director.start()
        check(director)
        stop_in_order(director)
