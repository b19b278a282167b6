"""``serve --no-runner`` and ``runner`` as separate processes: their work, their starts and their
orderly ends.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, refused, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers
from tests.harness.watcher import Watcher

pytestmark = pytest.mark.timeout(180)

#: Seconds within which a process ends: 5 on an idle machine, but a process that waited for a
#: service would never end.
SOON = 20.0
GPUS = {"count": 2, "seconds": 1.0, "preview_fps": 4.0}


def received_kinds(farm: ProcessFarm, group_id: str) -> list[str]:
    """Return the types that a client with previews receives, up to the group's end."""
    url = farm.web.url.replace("http", "ws", 1)
    frames: list[dict[str, Any]] = []
    with connect(f"{url}/ws/job-groups/{group_id}?previews=1", proxy=None) as socket:
        while not frames or frames[-1]["type"] != "group_complete":
            frames.append(json.loads(socket.recv(timeout=60)))
    return [frame["type"] for frame in frames]


@needs_servers
@pytest.mark.parametrize("template", ["template0"])
def test_group_is_rendered_by_another_process_whose_name_is_unique(
    farm: ProcessFarm, url: str
) -> None:
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
    elsewhere = runner.folder / "another-machine"
    text = refused(elsewhere, "runner", "--name", "gpu-room", DIRECTOR_DATABASE_URL=url)
    assert "A runner named gpu-room is already running with this database" in text
    assert "--name" in text
    runner.kill()
    stop_in_order(farm.runner("gpu-room"), farm.web)


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
        process.wait_printed(printed)
        assert ("Its address is in DIRECTOR_DATABASE_URL" in process.printed()) is bool(variables)
        assert "secret" not in process.printed()
        stop_in_order(process, number=number, within=SOON)
    finally:
        process.close()


@needs_servers
def test_refusal_of_postgresql_is_reported_at_once(server: Postgres, tmp_path: Path) -> None:
    text = refused(tmp_path, "runner", DIRECTOR_DATABASE_URL=server.url("nosuch"))
    assert 'PostgreSQL refuses: database "nosuch" does not exist.' in text
    assert "DIRECTOR_DATABASE_URL" in text


@needs_servers
@pytest.mark.parametrize(
    ("what", "services"),
    [
        ("freeze", ["PostgreSQL", "Redis"]),
        *(
            pytest.param("freeze", [name], marks=pytest.mark.slow)
            for name in ("PostgreSQL", "Redis")
        ),
        *(pytest.param("stop", [name], marks=pytest.mark.slow) for name in ("PostgreSQL", "Redis")),
    ],
)
def test_both_processes_end_soon_if_a_service_hangs_and_lose_nothing(
    what: str, services: list[str], farm: ProcessFarm, server: Postgres, redis_server: Redis
) -> None:
    runner = farm.runner("gpu-room", wait=False)
    farm.web.start()
    runner.wait_ready()
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 2)
    farm.gpus.wait_kind("started", 2)
    try:
        for name in services:
            getattr({"PostgreSQL": server, "Redis": redis_server}[name], what)()
        # The first renders end now, and their results cannot be stored or read.
        farm.gpus.wait_kind("ended", 2)
        stop_in_order(runner, farm.web, within=SOON)
    finally:
        server.thaw() if server.is_running else server.start()
        redis_server.stop()
        redis_server.start()
    runner = farm.runner("gpu-room", wait=False)
    farm.web.start()
    runner.wait_ready()
    farm.check_completed_once(group_id)


def test_runner_creates_the_tables_and_works_beside_a_web_on_sqlite(
    tmp_path: Path, gpus: Machines
) -> None:
    """The web waits for the tables. Each process names what is missing, and the database has no
    second runner.
    """
    farm = ProcessFarm(tmp_path, gpus, web=("--no-migrate", *WEB))
    try:
        farm.web.start(wait=False)
        farm.web.wait_printed("The database is not migrated")
        runner = farm.runner("any")
        farm.web.wait_ready()
        for one in (runner, farm.web):
            assert "Without DIRECTOR_REDIS_URL" in one.printed()
        farm.web.wait_online()
        layer = farm.check("channel_layer")
        assert layer["status"] == "degraded"
        assert "DIRECTOR_REDIS_URL" in layer["detail"]
        text = refused(tmp_path, "runner", "--name", "another")
        assert "A runner is already running with the database" in text
        assert "serve --no-runner" in text
        assert "A runner is already running" in refused(tmp_path, "serve", "--port", "0")
        group_id = farm.web.submit(picture(), gpus.ids)
        kinds = received_kinds(farm, group_id)
        assert kinds.count("child_completed") == 2
        assert not {"child_progress", "child_preview"} & set(kinds)
        farm.check_completed_once(group_id)
        stop_in_order(runner, farm.web, within=SOON)
    finally:
        farm.close()


def start_busy(director: Director, gpus: Machines) -> str:
    """Start, submit a group, and wait until each backend has a running and a pending prompt of it."""
    director.start()
    director.wait_online()
    group_id = director.submit(picture(), gpus.ids * 2)
    gpus.wait_kind("accepted", 2 * len(gpus.ids))
    gpus.wait_kind("started", len(gpus.ids))
    return group_id


def finish(director: Director, gpus: Machines, group_id: str, completed: int) -> None:
    """Wait until the restarted Director has stored each result, and check the laws."""
    director.wait_settled()
    stop_in_order(director)
    laws.check(director.data, gpus.seen())
    assert laws.statuses(director.data, group_id) == {"completed": completed}


@pytest.mark.parametrize(
    ("number", "again_after"),
    [(signal.SIGINT, 0.1), pytest.param(signal.SIGTERM, None, marks=pytest.mark.slow)],
    ids=["twice-SIGINT", "once-SIGTERM"],
)
def test_renders_continue_and_watchers_resume(
    number: int, again_after: float | None, tmp_path: Path
) -> None:
    with simulated(tmp_path, seconds=0.5) as gpus, directing(tmp_path, gpus.urls) as director:
        gpus.fault("stuck", step=4)
        group_id = start_busy(director, gpus)
        watchers = [Watcher(director, group_id) for _ in range(8)]
        for watcher in watchers:
            assert watcher.started.wait(60)
        stop_in_order(director, number=number, within=SOON, again_after=again_after)
        gpus.clear_faults()
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


#: The faults of each backend: HTTP that hangs, all that is silent, a body without an end, a socket
#: that does not close.
STALLS: list[dict[str, dict[str, object]]] = [
    {"hang_http": {"count": 0}},
    {"stall_sockets": {}, "hang_http": {"count": 0}},
    {"endless": {"count": 0, "megabytes_per_second": 2.0}},
    {"stall_sockets": {}},
]


def test_backends_that_stall_delay_no_end(tmp_path: Path) -> None:
    with (
        simulated(tmp_path, count=len(STALLS), seconds=1.0) as gpus,
        directing(tmp_path, gpus.urls) as director,
    ):
        group_id = start_busy(director, gpus)
        for index, faults in enumerate(STALLS):
            for fault, options in faults.items():
                gpus.fault(fault, of=index, **options)

        def are_caught(seen: list[dict[str, Any]]) -> bool:
            """Return whether a lookup, every half second, is caught in each stall, by the end of a
            render.
            """
            caught = {
                (entry["backend"], entry["name"]) for entry in seen if entry["kind"] == "fault"
            }
            return len(caught) == sum(map(len, STALLS))

        gpus.wait_seen(are_caught)
        gpus.wait_kind("ended", len(STALLS))
        stop_in_order(director, within=SOON)
        gpus.clear_faults()
        gpus.wait_idle()
        director.start()
        finish(director, gpus, group_id, completed=2 * len(STALLS))
