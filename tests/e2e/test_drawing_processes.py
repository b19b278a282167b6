"""The processes that draw for a `serve`: a picture bomb, killed ones, and a `serve` that is killed."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.graphs import black_png, picture
from tests.harness.machines import simulated
from tests.harness.processes import Served
from tests.harness.waits import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found as Linux has them")


def drawing(parent: int) -> list[int]:
    """Return the processes of a `serve` that draw, also after its end."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"jobgroups.outputs.draw" in words and os.getsid(int(folder.name)) == parent:
                found.append(int(folder.name))
    return found


def test_bomb_and_killed_processes_cost_no_job_and_no_other_picture(tmp_path: Path) -> None:
    memory = {"DIRECTOR_FILES_MEMORY_BYTES": str(200 * 2**20), "DIRECTOR_CAPTURE": "0"}
    with simulated(tmp_path, count=1, seconds=0.1) as gpus:
        served = Served(tmp_path, gpus.urls, environment=memory)
        try:
            served.wait_online()
            group_id = served.submit(picture(), gpus.ids * 2)
            jobs = served.wait_ended(group_id)["child_jobs"]
            paths = [f"/api/job-groups/{group_id}/jobs/{job['job_id']}/outputs/0?w=160" for job in jobs]
            name = jobs[0]["outputs"]["images"][0]["filename"]
            (bomb,) = next(iter(gpus)).outputs.rglob(name)
            moment = bomb.stat().st_mtime
            bomb.write_bytes(black_png(8_000, 8_000, rows=8_000))
            os.utime(bomb, (moment, moment))
            answer = served.ask("GET", paths[0])
            assert (answer.status_code, answer.json()["code"]) == (404, "no_thumbnail")
            assert "memory" in answer.json()["detail"]
            assert served.ask("GET", paths[1]).status_code == 200

            for process in drawing(served.process.pid):
                os.kill(process, signal.SIGKILL)
            assert served.ask("GET", paths[1].replace("160", "320")).status_code == 200
            assert served.wait_ended(served.submit(picture(), gpus.ids))["status"] == "completed"

            (process,) = drawing(served.process.pid)
            os.kill(served.process.pid, signal.SIGKILL)  # itself alone
            served.process.wait()
            until(lambda: not drawing(served.process.pid), 20.0)
        finally:
            served.close()
