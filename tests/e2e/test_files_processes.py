"""Processes of `files`: killed, side by side, beside runners, with little memory, while PostgreSQL
restarts.
"""

import datetime as dt
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from PIL import Image

from tests.harness.graphs import Graph, picture
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import MIGRATED, stop_in_order
from tests.harness.servers import Postgres, needs_servers
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(300), needs_servers]

GPUS = {"count": 2, "seconds": 0.1}
#: A decoder needs 1.35 GB for an animation of so many pixels, of which a frame has 16 × 16.
SIDE = 13_000


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "data" / "files"


@pytest.fixture(params=["postgresql", "sqlite"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/rows.sqlite3"
    server: Postgres = request.getfixturevalue("server")
    return server.create(f"files_{time.time_ns()}", MIGRATED)


postgresql_only = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture
def rows(url: str) -> Callable[..., list[Any]]:
    """Return a function that executes a statement and returns its rows. PostgreSQL may restart
    between two.
    """

    def execute(statement: str, *values: object) -> list[Any]:
        if url.startswith("sqlite"):
            with closing(
                sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20, isolation_level=None)
            ) as file:
                return file.execute(statement.replace("%s", "?"), values).fetchall()
        with psycopg.connect(url, autocommit=True) as database:
            return database.execute(statement, values).fetchall()  # type: ignore[call-overload, no-any-return]

    return execute


@pytest.fixture
def make_due(rows: Callable[..., list[Any]], url: str) -> Callable[..., None]:
    """Return a function that lets all pending captures be due in so many hours."""

    def change(hours: int = 0) -> None:
        moment = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)).isoformat(" ")
        if url.startswith("sqlite"):
            moment = moment.removesuffix("+00:00")
        statement = (
            "UPDATE jobgroups_capture SET due_at = %s, tries = 0 WHERE due_at IS NOT NULL "
            "RETURNING id"
        )
        assert rows(statement, moment)

    return change


@pytest.fixture
def pending(rows: Callable[..., list[Any]]) -> Callable[[], int]:
    return lambda: len(rows("SELECT 1 FROM jobgroups_capture WHERE due_at IS NOT NULL"))


def started(farm: ProcessFarm) -> None:
    farm.web.start()
    farm.runner("room-1")
    farm.web.wait_online()


def receivers(storage: Path) -> list[Path]:
    """Return the folders of the processes that have received a file."""
    return [one for one in (storage / "incoming").glob("*") if one.is_dir()]


def receiving(storage: Path) -> list[Path]:
    """Return the files that are being received."""
    return [
        file for folder in receivers(storage) for file in folder.glob("*") if file.suffix != ".mark"
    ]


@contextmanager
def rendered(
    farm: ProcessFarm, graph: Graph, each: int, rate: float | None = None
) -> Iterator[str]:
    """Give a group whose jobs have completed. The backends give its files after the block, perhaps
    slowly.
    """
    farm.gpus.fault("status", route="/view", status=503, count=0)
    group_id = farm.web.submit(graph, farm.gpus.ids * each)
    assert farm.web.wait_ended(group_id)["status"] == "completed"
    yield group_id
    if rate is not None:
        farm.gpus.fault("slow_view", bytes_per_second=rate, count=0)
    farm.gpus.clear_faults("status")


def enlarge_files(farm: ProcessFarm, size: int) -> None:
    """Append to all pictures of the backends, so that a copy of each has several parts."""
    for gpu in farm.gpus:
        for path in gpu.outputs.rglob("*.png"):
            overwrite(path, path.read_bytes() + bytes(size))


def overwrite(path: Path, content: bytes) -> None:
    """Replace a file, with its date."""
    moment = path.stat().st_mtime
    path.write_bytes(content)
    os.utime(path, (moment, moment))


def check_stored(farm: ProcessFarm, storage: Path, group_id: str) -> None:
    """Check that each job has its file, and the storage has no other file."""
    children = farm.web.group(group_id)["child_jobs"]
    files = [file for one in children for file in one["outputs"]["images"]]
    assert len(files) == len(children)
    assert all(file["captured"] for file in files)
    assert len([one for one in (storage / "results").rglob("*") if one.is_file()]) == len(
        {one["blake3"] for one in files}
    )


@pytest.mark.slow
def test_killed_process_costs_lateness_only(
    farm: ProcessFarm,
    storage: Path,
    pending: Callable[[], int],
    make_due: Callable[..., None],
    rows: Callable[..., list[Any]],
) -> None:
    """Two copy side by side, the runner beside them does not; one is killed in mid-copy."""
    started(farm)
    with rendered(farm, picture(), each=12, rate=2**20) as group_id:
        enlarge_files(farm, 6 * 2**20)
        make_due(1)
        first, second = farm.files(), farm.files()
    make_due()
    # Each of them copies two files of each backend at once, and the runner none.
    until(lambda: len(receivers(storage)) == 2 and len(receiving(storage)) > 4)
    assert farm.check("captures")["detail"].endswith("Alive processes of `files`: 2.")
    first.kill()
    assert receiving(storage)
    farm.gpus.clear_faults()
    until(lambda: pending() == 0)
    # The runner has received nothing.
    assert len(receivers(storage)) == 2
    check_stored(farm, storage, group_id)
    # What the killed one had received goes when the next one starts.
    third = farm.files()
    until(lambda: not receiving(storage))
    until(lambda: not rows("SELECT 1 FROM jobgroups_storedfile WHERE sha256 = ''"))
    for key, digest in rows("SELECT id, sha256 FROM jobgroups_storedfile"):
        (path,) = (storage / "results").glob(f"*-{key}")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    stop_in_order(second, third)


@pytest.mark.slow
def test_runner_copies_while_no_files_process_is_alive(
    farm: ProcessFarm, storage: Path, pending: Callable[[], int]
) -> None:
    started(farm)
    files = farm.files()
    until(lambda: "Alive processes" in farm.check("captures")["detail"])
    files.kill()
    with rendered(farm, picture(), each=2) as group_id:
        pass
    assert pending() == 4
    until(lambda: pending() == 0)
    check_stored(farm, storage, group_id)
    check = farm.check("captures")
    assert (check["status"], check["detail"].endswith("; the runners copy outputs.")) == (
        "degraded",
        True,
    )


@pytest.mark.slow
@postgresql_only
def test_restart_of_postgresql_loses_no_file(
    farm: ProcessFarm,
    storage: Path,
    pending: Callable[[], int],
    make_due: Callable[..., None],
    server: Postgres,
) -> None:
    started(farm)
    files = farm.files()
    with rendered(farm, picture(), each=6, rate=2**21) as group_id:
        enlarge_files(farm, 6 * 2**20)
    make_due()
    until(lambda: receiving(storage))
    server.stop()
    server.start()
    until(lambda: pending() == 0)
    until(lambda: farm.check("captures")["status"] == "ok")
    check_stored(farm, storage, group_id)
    stop_in_order(files)


@pytest.mark.slow
def test_picture_whose_facts_need_more_memory_is_stored_without_them(
    farm: ProcessFarm, storage: Path, pending: Callable[[], int], rows: Callable[..., list[Any]]
) -> None:
    farm.web.start()
    runner = farm.runner("room-1")
    farm.web.wait_online()
    graph = picture()
    saved = next(node for node in graph.values() if node["class_type"] == "SaveImage")
    saved["class_type"] = "SaveAnimatedWEBP"
    saved["inputs"] |= {"fps": 6, "lossless": True, "quality": 80, "method": "default"}
    with rendered(farm, graph, each=1) as group_id:
        stop_in_order(runner)
        overwrite(next(next(iter(farm.gpus)).outputs.rglob("*.webp")), huge_animation())
    files = farm.files(DIRECTOR_FILES_MEMORY_BYTES=str(2**30))
    until(lambda: pending() == 0)
    check_stored(farm, storage, group_id)
    assert sorted(rows("SELECT width FROM jobgroups_storedfile"), key=str) == [(64,), (None,)]
    stop_in_order(files)


def huge_animation() -> bytes:
    """Return a small file that claims to have ``SIDE`` × ``SIDE`` pixels."""
    small, frames = BytesIO(), [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(small, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    content = bytearray(small.getvalue())
    size = content.index(b"VP8X") + 12
    content[size : size + 6] = 2 * (SIDE - 1).to_bytes(3, "little")
    return bytes(content)
