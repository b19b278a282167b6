"""The processes that draw for a `serve`: a picture bomb, killed ones, and a `serve` that is killed."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness.graphs import black_png, picture
from tests.harness.machines import Machines, simulated
from tests.harness.processes import PROCESSES, Served
from tests.harness.waits import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are found as Linux has them"
)


def drawing(parent: int) -> list[int]:
    """Return the processes of a `serve` that draw, also after its end."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"jobgroups.outputs.draw" in words and os.getsid(int(folder.name)) == parent:
                found.append(int(folder.name))
    return found


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Machines]:
    with simulated(tmp_path, count=1, seconds=0.1) as running:
        yield running


@contextmanager
def served(
    tmp_path: Path, gpus: Machines, **environment: str
) -> Iterator[tuple[Served, list[dict[str, Any]], list[str]]]:
    """Give a `serve` with two completed jobs, and the addresses of their thumbnails."""
    director = Served(tmp_path, gpus.urls, environment={"DIRECTOR_CAPTURE": "0", **environment})
    try:
        director.wait_online()
        group_id = director.submit(picture(), gpus.ids * 2)
        jobs = director.wait_ended(group_id)["child_jobs"]
        yield (
            director,
            jobs,
            [f"/api/job-groups/{group_id}/jobs/{job['job_id']}/outputs/0?w=160" for job in jobs],
        )
    finally:
        director.close()


def test_bomb_costs_no_job_and_no_other_picture(tmp_path: Path, gpus: Machines) -> None:
    with served(tmp_path, gpus, DIRECTOR_FILES_MEMORY_BYTES=str(200 * 2**20)) as (
        director,
        jobs,
        paths,
    ):
        (bomb,) = next(iter(gpus)).outputs.rglob(jobs[0]["outputs"]["images"][0]["filename"])
        moment = bomb.stat().st_mtime
        bomb.write_bytes(black_png(8_000, 8_000, rows=8_000))
        os.utime(bomb, (moment, moment))
        answer = director.ask("GET", paths[0])
        assert (answer.status_code, answer.json()["code"]) == (404, "no_thumbnail")
        assert "memory" in answer.json()["detail"]
        assert director.ask("GET", paths[1]).status_code == 200
        assert director.wait_ended(director.submit(picture(), gpus.ids))["status"] == "completed"


@pytest.mark.parametrize("processes", [pytest.param("1", marks=pytest.mark.slow), "3"])
def test_killed_process_costs_no_picture_and_none_is_left_of_a_killed_serve(
    tmp_path: Path, gpus: Machines, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROCESSES, processes)
    with served(tmp_path, gpus) as (director, _, paths):
        assert director.ask("GET", paths[0]).status_code == 200
        (process,) = drawing(director.process.pid)
        os.kill(process, signal.SIGKILL)
        assert director.ask("GET", paths[1]).status_code == 200
        (again,) = drawing(director.process.pid)
        assert again != process
        os.kill(director.process.pid, signal.SIGKILL)  # itself alone
        director.process.wait()
        until(lambda: not drawing(director.process.pid))
