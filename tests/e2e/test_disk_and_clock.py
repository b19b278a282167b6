"""A full disk, a read-only data folder, a clock that jumps: told plainly, and nothing is lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.faults.disk import SmallDisk, small_disk
from tests.e2e.faults.preload import library, needs_preload
from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.simulators import Gpus, picture, simulated
from tests.harness.watcher import Watcher

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

needs_mount = pytest.mark.skipif(shutil.which("mount") is None, reason="mount is needed")
DAY = 86_400


@contextmanager
def on_a_small_disk(folder: Path, seconds: float) -> Iterator[tuple[Director, Gpus, SmallDisk]]:
    """Give a Director, not yet started, whose data folder is a disk of its own."""
    with (
        simulated(folder, seconds=seconds) as gpus,
        small_disk(folder / "data") as disk,
        directing(folder, gpus.urls) as director,
    ):
        yield director, gpus, disk


def wait_printed(director: Director, words: str, within: float = 20.0) -> None:
    """Wait until the Director's log has these words."""
    end = time.monotonic() + within
    while words not in director.printed():
        assert time.monotonic() < end, f"it never said {words!r}:\n{director.printed()}"
        time.sleep(0.02)


@needs_mount
def test_a_full_disk_is_told_and_work_goes_on_when_it_is_freed(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.4) as (director, gpus, disk):
        director.start()
        director.wait_online()
        group_id = director.submit(picture(), gpus.ids * 4)
        watcher = Watcher(director, group_id)
        assert watcher.started.wait(10)
        disk.fill()
        wait_printed(director, "database or disk is full")
        refused = director.ask("POST", "/api/job-group", json={"workflow_json": picture(), "backend_ids": gpus.ids})
        assert refused.status_code == 503, refused.text
        assert refused.json()["code"] == "database_unavailable"
        assert "disk with the data folder is full" in refused.json()["detail"]
        snapshot = director.ask("GET", f"/api/job-groups/{group_id}")
        assert snapshot.status_code == 200
        # What stands at the backends goes on; what came of it is held until it can be stored.
        gpus.wait_idle()
        assert director.process is not None
        assert director.process.poll() is None
        disk.free()
        second = director.submit(picture(), gpus.ids)
        watcher.wait_ended()
        director.wait_settled()
        assert director.stop() == 0
        assert "Traceback" not in director.printed(), director.printed()
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 12}
        assert laws.statuses(director.data, second) == {"completed": 3}


@needs_mount
@pytest.mark.parametrize("how", ["killed", "ended in order"])
def test_an_end_on_a_full_disk_loses_nothing(how: str, tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.4) as (director, gpus, disk):
        director.start()
        director.wait_online()
        group_id = director.submit(picture(), gpus.ids * 4)
        gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 3)
        disk.fill()
        wait_printed(director, "database or disk is full")
        if how == "killed":
            director.kill()
        else:
            assert director.stop(within=5.0) == 0, director.printed()
        gpus.wait_idle()
        disk.free()
        director.start()
        director.wait_settled()
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 12}


@needs_mount
def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.1) as (director, _gpus, disk):
        disk.fill()
        director.start(wait=False)
        assert director.process is not None
        assert director.process.wait(30) == 1
        assert "Traceback" not in director.printed(), director.printed()
        assert "full" in director.printed() or "No space left" in director.printed()
        disk.free()
        director.start()
        assert director.stop() == 0


@needs_mount
def test_a_read_only_data_folder_is_told_at_the_start(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, seconds=0.1) as (director, _gpus, disk):
        disk.make_read_only()
        director.start(wait=False)
        assert director.process is not None
        assert director.process.wait(30) == 1
        said = director.printed()
        assert "Traceback" not in said, said
        assert f"The data folder {director.data} cannot be used: Read-only file system." in said


@contextmanager
def on_a_clock_of_its_own(folder: Path) -> Iterator[tuple[Director, Gpus, Path]]:
    """Give a Director at work on 15 children, and the file that moves its clock by seconds."""
    offset = folder / "offset"
    offset.write_text("0")
    environment = {"LD_PRELOAD": str(library("clock")), "CLOCK_OFFSET_FILE": str(offset)}
    with simulated(folder, seconds=0.5) as gpus, directing(folder, gpus.urls, environment) as director:
        director.start()
        director.wait_online()
        yield director, gpus, offset


JUMPS = {"a day on": DAY, "a day back": -DAY, "a year on": 365 * DAY}


@needs_preload
@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS.keys())
def test_a_clock_that_jumps_ends_nothing(jump: int, tmp_path: Path) -> None:
    """Neither a child that runs nor one that waits; nor is a group refused for long."""
    with on_a_clock_of_its_own(tmp_path) as (director, gpus, offset):
        group_id = director.submit(picture(), gpus.ids * 5)
        watcher = Watcher(director, group_id)
        gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 4)
        offset.write_text(str(jump))
        second = _submitted_soon(director, gpus)
        offset.write_text(str(jump // 2))
        watcher.wait_ended()
        director.wait_settled()
        assert director.stop() == 0
        assert "Traceback" not in director.printed(), director.printed()
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 15}
        assert laws.statuses(director.data, second) == {"completed": 3}


@needs_preload
def test_a_clock_that_jumps_back_while_the_director_is_away_ends_nothing(tmp_path: Path) -> None:
    with on_a_clock_of_its_own(tmp_path) as (director, gpus, offset):
        group_id = director.submit(picture(), gpus.ids * 5)
        gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 4)
        director.kill()
        offset.write_text(str(-DAY))
        director.start()
        director.wait_online()
        director.wait_settled()
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        assert laws.statuses(director.data, group_id) == {"completed": 15}


@needs_preload
def test_a_day_away_times_out_what_waited_and_takes_up_what_was_rendered(tmp_path: Path) -> None:
    """No process can tell a clock that jumped from a day that passed: the contract's day is over."""
    with on_a_clock_of_its_own(tmp_path) as (director, gpus, offset):
        group_id = director.submit(picture(), gpus.ids * 5)
        gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 4)
        director.kill()
        gpus.wait_idle()
        offset.write_text(str(DAY))
        director.start()
        director.wait_settled()
        assert director.stop() == 0
        laws.check(director.data, gpus.seen())
        ended = laws.statuses(director.data, group_id)
        rendered = sum(e.get("outcome") == "success" for e in gpus.seen())
        assert ended == {"completed": rendered, "timeout": 15 - rendered}
        assert rendered >= 4


def _submitted_soon(director: Director, gpus: Gpus, within: float = 5.0) -> str:
    """Submit a group; a heartbeat from before the jump may look old until the next one."""
    end = time.monotonic() + within
    body = {"workflow_json": picture(), "backend_ids": gpus.ids}
    while (answer := director.ask("POST", "/api/job-group", json=body)).status_code == 503:
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)
    assert answer.status_code == 201, answer.text
    group_id: str = answer.json()["job_group_id"]
    return group_id
