"""``serve --no-runner`` and ``runner`` as separate processes: their work, their starts and their orderly ends."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, Served, refused, stop_in_order
from tests.harness.servers import Postgres, needs_servers, own_redis, postgres
from tests.harness.watcher import Watcher

pytestmark = pytest.mark.timeout(180)

#: Seconds within which a process ends.
SOON = 5.0
GPUS = {"count": 2, "seconds": 1.0, "preview_fps": 4.0}


@pytest.fixture
def split(tmp_path: Path, gpus: Machines) -> Iterator[ProcessFarm]:
    """SQLite and no Redis, nothing started yet."""
    made = ProcessFarm(tmp_path, gpus)
    yield made
    made.close()


def received_kinds(farm: ProcessFarm, group_id: str) -> list[str]:
    """Return the types that a client with previews receives, up to the group's end."""
    url = farm.web.url.replace("http", "ws", 1)
    frames: list[dict[str, Any]] = []
    with connect(f"{url}/ws/job-groups/{group_id}?previews=1", proxy=None) as socket:
        while not frames or frames[-1]["type"] != "group_complete":
            frames.append(json.loads(socket.recv(timeout=60)))
    return [frame["type"] for frame in frames]


@needs_servers
def test_group_is_rendered_by_another_process_and_streamed_live(farm: ProcessFarm) -> None:
    """Both start over an empty database: one creates the tables, the other waits."""
    runner = farm.runner("gpu-room", wait=False)
    farm.web.start()
    runner.wait_ready()
    farm.web.wait_online()
    assert farm.check("channel_layer")["status"] == "ok"
    group_id = farm.web.submit(picture(), farm.gpus.ids)
    kinds = received_kinds(farm, group_id)
    assert kinds[0] == "initial_state"
    assert kinds.count("child_completed") == 2
    assert kinds.count("child_progress") >= 4
    assert kinds.count("child_preview") >= 2
    farm.check_completed_once(group_id)
    stop_in_order(runner, farm.web)


@needs_servers
def test_runner_name_is_unique_over_all_machines(farm: ProcessFarm, url: str) -> None:
    first = farm.runner("gpu-room")
    elsewhere = first.folder / "another-machine"
    text = refused(elsewhere, "runner", "--name", "gpu-room", DIRECTOR_DATABASE_URL=url)
    assert "A runner named gpu-room is already running with this database" in text
    assert "--name" in text
    first.kill()
    stop_in_order(farm.runner("gpu-room"))


NOWHERE = {"DIRECTOR_DATABASE_URL": "postgres://ada:secret@127.0.0.1:1/director"}
NO_POSTGRESQL = r"PostgreSQL does not answer \(.*Connection refused\)"
NO_TABLES = "The database is not migrated to this version. Waiting for"
#: Process that waits, what it prints, and the signal that ends it.
WAITING = {
    "runner, no PostgreSQL": (["runner"], NOWHERE, NO_POSTGRESQL, signal.SIGTERM),
    "web, no tables": (["serve", "--no-migrate", *WEB], {}, NO_TABLES, signal.SIGTERM),
}


@pytest.mark.parametrize(("words", "variables", "printed", "number"), WAITING.values(), ids=WAITING)
def test_process_that_waits_for_its_database_prints_why_and_ends_on_a_signal(
    words: list[str], variables: dict[str, str], printed: str, number: int, tmp_path: Path
) -> None:
    settings = {"DIRECTOR_DATA_DIR": str(tmp_path / "data"), "DIRECTOR_DISCOVER": "0", **variables}
    process = Launched(tmp_path, words, settings)
    process.start(wait=False)
    try:
        process.wait_printed(printed, within=10.0)
        assert ("Its address is in DIRECTOR_DATABASE_URL" in process.printed()) is bool(variables)
        assert "secret" not in process.printed()
        stop_in_order(process, number=number, within=SOON)
    finally:
        process.close()


def test_web_continues_when_a_runner_has_created_the_tables(split: ProcessFarm, tmp_path: Path) -> None:
    waiting = Served(tmp_path, arguments=["--no-migrate", *WEB], start=False)
    waiting.start(wait=False)
    try:
        waiting.wait_printed("The database is not migrated")
        runner = split.runner("any")
        waiting.wait_ready()
        stop_in_order(runner, waiting)
    finally:
        waiting.close()


@needs_servers
def test_refusal_of_postgresql_is_reported_at_once(server: Postgres, tmp_path: Path) -> None:
    text = refused(tmp_path, "runner", DIRECTOR_DATABASE_URL=server.url("nosuch"))
    assert 'PostgreSQL refuses: database "nosuch" does not exist.' in text
    assert "DIRECTOR_DATABASE_URL" in text


@needs_servers
@pytest.mark.parametrize(
    "what",
    [
        "PostgreSQL frozen",
        "Redis frozen",
        pytest.param("PostgreSQL stopped", marks=pytest.mark.slow),
        pytest.param("Redis stopped", marks=pytest.mark.slow),
    ],
)
def test_both_processes_end_soon_if_a_service_hangs_and_lose_nothing(what: str, tmp_path: Path, gpus: Machines) -> None:
    with postgres() as server, own_redis() as redis_server:
        settings = {"DIRECTOR_DATABASE_URL": server.create("director")}
        farm = ProcessFarm(tmp_path, gpus, **settings, DIRECTOR_REDIS_URL=redis_server.url)
        try:
            runner = farm.runner("gpu-room")
            farm.web.start()
            farm.web.wait_online()
            group_id = farm.web.submit(picture(), gpus.ids * 2)
            gpus.wait_kind("started", 2)
            service = server if what.startswith("PostgreSQL") else redis_server
            (service.freeze if what.endswith("frozen") else service.stop)()
            # The first renders end now, and their results cannot be stored or read.
            gpus.wait_kind("ended", 2)
            stop_in_order(runner, farm.web, within=SOON)
            if server.is_running:
                server.thaw()
            else:
                server.start()
            redis_server.stop()
            redis_server.start()
            farm.web.start()
            farm.runner("gpu-room")
            farm.check_completed_once(group_id)
        finally:
            farm.close()


def test_runner_beside_a_web_on_sqlite_works_and_both_name_what_is_missing(split: ProcessFarm) -> None:
    """The runner is first in an empty folder."""
    runner = split.runner("any")
    split.web.start()
    for one in (runner, split.web):
        assert "Without DIRECTOR_REDIS_URL" in one.printed()
    split.web.wait_online()
    layer = split.check("channel_layer")
    assert layer["status"] == "degraded"
    assert "DIRECTOR_REDIS_URL" in layer["detail"]
    group_id = split.web.submit(picture(), split.gpus.ids)
    kinds = received_kinds(split, group_id)
    assert kinds.count("child_completed") == 2
    assert not {"child_progress", "child_preview"} & set(kinds)
    split.check_completed_once(group_id)
    stop_in_order(runner, split.web, within=SOON)


def test_sqlite_database_has_one_runner(split: ProcessFarm, tmp_path: Path) -> None:
    runner = split.runner("any")
    text = refused(tmp_path, "runner", "--name", "another")
    assert "A runner is already running with the database" in text
    assert "serve --no-runner" in text
    assert "A runner is already running" in refused(tmp_path, "serve", "--port", "0")
    stop_in_order(runner)


def start_busy(director: Director, gpus: Machines) -> str:
    """Start, submit a group, and wait until each backend has a running and a pending prompt of it."""
    director.start()
    director.wait_online()
    group_id = director.submit(picture(), gpus.ids * 2)
    gpus.wait_kind("accepted", 6)
    gpus.wait_kind("started", 3)
    return group_id


def finish(director: Director, gpus: Machines, group_id: str, completed: int) -> None:
    """Wait until the restarted Director has stored each result, and check the laws."""
    director.wait_settled()
    stop_in_order(director)
    laws.check(director.data, gpus.seen())
    assert laws.statuses(director.data, group_id) == {"completed": completed}


@pytest.mark.parametrize(
    ("number", "again_after"), [(signal.SIGTERM, None), (signal.SIGINT, 0.1)], ids=["once-SIGTERM", "twice-SIGINT"]
)
def test_renders_continue_and_watchers_resume(number: int, again_after: float | None, tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=3.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = start_busy(director, gpus)
        watchers = [Watcher(director, group_id) for _ in range(25)]
        for watcher in watchers:
            assert watcher.started.wait(10)
        stop_in_order(director, number=number, within=SOON, again_after=again_after)
        gpus.wait_idle()
        kinds = [entry["kind"] for entry in gpus.seen()]
        assert kinds.count("ended") == 6
        assert not {"deleted", "interrupted"} & set(kinds)
        assert laws.statuses(director.data, group_id)["completed"] == 0
        director.start()
        for watcher in watchers:
            watcher.wait_ended()
            assert watcher.close_codes == [4012]
        finish(director, gpus, group_id, completed=6)


STALLS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "hanging": [("hang_http", {"count": 0})],
    "silent": [("stall_sockets", {}), ("hang_http", {"count": 0})],
    "pouring": [("endless", {"count": 0, "megabytes_per_second": 2.0})],
    "not closing": [("stall_sockets", {})],
}


@pytest.mark.parametrize(
    "name", ["hanging", "pouring", *(pytest.param(one, marks=pytest.mark.slow) for one in ("silent", "not closing"))]
)
def test_a_backend_that_stalls_delays_no_end(name: str, tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=1.0) as gpus, directing(tmp_path, gpus.urls) as director:
        group_id = start_busy(director, gpus)
        for fault, options in STALLS[name]:
            gpus.fault(fault, **options)
        # The lookups, every half second, are caught in the stall by the end of a render.
        gpus.wait_kind("fault", 1)
        gpus.wait_kind("ended", 1)
        stop_in_order(director, within=SOON)
        gpus.clear_faults()
        gpus.wait_idle()
        director.start()
        finish(director, gpus, group_id, completed=6)
