"""A full disk, a read-only data folder, a clock that jumps: reported, and nothing is lost."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.faults.disk import SmallDisk, small_disk
from tests.e2e.faults.preload import library, needs_preload
from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.processes import stop_in_order
from tests.harness.waits import until
from tests.harness.watcher import Watcher

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

needs_mount = pytest.mark.skipif(shutil.which("mount") is None, reason="mount is needed")
DAY = 86_400


@contextmanager
def on_a_small_disk(folder: Path, seconds: float) -> Iterator[tuple[Director, Machines, SmallDisk]]:
    """Give a Director, not yet started, whose data folder is a separate disk."""
    with (
        simulated(folder, seconds=seconds) as gpus,
        small_disk(folder / "data") as disk,
        directing(folder, gpus.urls) as director,
    ):
        yield director, gpus, disk


def submit_and_start(director: Director, gpus: Machines, each: int) -> str:
    group_id = director.submit(picture(), gpus.ids * each)
    gpus.wait_kind("started", len(gpus.ids))
    return group_id


def runner_status(director: Director) -> str:
    return str(director.ask("GET", "/api/health").json()["checks"]["runner"]["status"])


def finish(director: Director, gpus: Machines, **ends: dict[str, int]) -> None:
    """Wait until everything has ended, and check the laws and the statuses of each group."""
    director.wait_settled()
    stop_in_order(director)
    laws.check(director.data, gpus.seen())
    for group_id, expected in ends.items():
        assert laws.statuses(director.data, group_id) == expected


@needs_mount
def test_full_disk_is_reported_and_work_continues_when_it_has_space(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.4) as (director, gpus, disk):
        director.start()
        director.wait_online()
        group_id = submit_and_start(director, gpus, each=4)
        watcher = Watcher(director, group_id)
        assert watcher.started.wait(60)
        disk.fill()
        director.wait_printed("database or disk is full")
        body = {"workflow_json": picture(), "backend_ids": gpus.ids}
        for _ in range(2):
            refused = director.ask("POST", "/api/job-group", json=body)
            assert refused.status_code == 503, refused.text
            assert refused.json()["code"] == "database_unavailable"
            assert "disk with the data folder is full" in refused.json()["detail"]
            # Without a heartbeat, too.
            until(lambda: runner_status(director) == "down", 30)
        assert director.ask("GET", f"/api/job-groups/{group_id}").status_code == 200
        # Prompts at the backends continue; their results are kept until they can be stored.
        gpus.wait_idle()
        assert director.runs
        disk.free()
        until(lambda: runner_status(director) != "down", 30)
        second = director.submit(picture(), gpus.ids)
        watcher.wait_ended()
        finish(director, gpus, **{group_id: {"completed": 12}, second: {"completed": 3}})


@needs_mount
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "ended in order"])
def test_end_on_a_full_disk_loses_nothing(is_killed: bool, tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.4) as (director, gpus, disk):
        director.start()
        director.wait_online()
        group_id = submit_and_start(director, gpus, each=4)
        disk.fill()
        director.wait_printed("database or disk is full")
        if is_killed:
            director.kill()
        else:
            assert director.stop(within=20.0) == 0, director.printed()
        gpus.wait_idle()
        disk.free()
        director.start()
        finish(director, gpus, **{group_id: {"completed": 12}})


@needs_mount
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_start_on_an_unusable_disk_is_refused(is_full: bool, tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.1) as (director, _gpus, disk):
        (disk.fill if is_full else disk.make_read_only)()
        director.start(wait=False)
        assert director.process.wait(60) == 1
        printed = director.printed()
        assert "Traceback" not in printed, printed
        if not is_full:
            text = f"The data folder {director.data} cannot be used: Read-only file system."
            assert text in printed
            return
        assert "full" in printed or "No space left" in printed
        disk.free()
        director.start()
        assert director.stop() == 0


@contextmanager
def on_a_separate_clock(folder: Path) -> Iterator[tuple[Director, Machines, Path]]:
    """Give a running Director, and the file with the seconds by which its clock is ahead."""
    offset = folder / "offset"
    offset.write_text("0")
    environment = {"LD_PRELOAD": str(library("clock")), "CLOCK_OFFSET_FILE": str(offset)}
    with (
        simulated(folder, seconds=0.5) as gpus,
        directing(folder, gpus.urls, environment) as director,
    ):
        director.start()
        director.wait_online()
        yield director, gpus, offset


@needs_preload
@pytest.mark.parametrize(
    "jump", [DAY, -DAY, 365 * DAY], ids=["a day ahead", "a day back", "a year ahead"]
)
def test_clock_that_jumps_ends_no_job(jump: int, tmp_path: Path) -> None:
    with on_a_separate_clock(tmp_path) as (director, gpus, offset):
        group_id = submit_and_start(director, gpus, each=5)
        watcher = Watcher(director, group_id)
        offset.write_text(str(jump))
        body = {"workflow_json": picture(), "backend_ids": gpus.ids}

        def accepted() -> str | None:
            """The last heartbeat may look old until the next one."""
            answer = director.ask("POST", "/api/job-group", json=body)
            assert answer.status_code in (201, 503), answer.text
            found: str | None = answer.json().get("job_group_id")
            return found

        second = until(accepted)
        offset.write_text(str(jump // 2))
        watcher.wait_ended()
        finish(director, gpus, **{group_id: {"completed": 15}, second: {"completed": 3}})


@needs_preload
def test_clock_that_jumps_back_between_two_starts_ends_no_job(tmp_path: Path) -> None:
    with on_a_separate_clock(tmp_path) as (director, gpus, offset):
        group_id = submit_and_start(director, gpus, each=5)
        director.kill()
        offset.write_text(str(-DAY))
        director.start()
        finish(director, gpus, **{group_id: {"completed": 15}})


@needs_preload
def test_day_between_two_starts_times_out_queued_jobs_and_keeps_rendered_ones(
    tmp_path: Path,
) -> None:
    """A process cannot distinguish a clock that jumped from a day that passed."""
    with on_a_separate_clock(tmp_path) as (director, gpus, offset):
        group_id = submit_and_start(director, gpus, each=5)
        director.kill()
        gpus.wait_idle()
        offset.write_text(str(DAY))
        director.start()
        rendered = sum(e.get("outcome") == "success" for e in gpus.seen())
        assert rendered >= 3
        ends = {"completed": rendered, "timeout": 15 - rendered}
        finish(director, gpus, **{group_id: ends})
