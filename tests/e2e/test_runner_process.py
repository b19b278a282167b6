"""``serve --no-runner`` and ``runner`` as separate processes: their work, their starts and their ends."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.harness.graphs import picture
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, Served, refused, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers, own_redis, postgres
from tests.harness.simulators import Gpus, simulated

pytestmark = pytest.mark.timeout(180)

#: Seconds within which a process ends.
SOON = 5.0


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Gpus]:
    with simulated(tmp_path, count=2, seconds=1.0, preview_fps=4.0) as running:
        yield running


@pytest.fixture
def split(tmp_path: Path, gpus: Gpus) -> Iterator[ProcessFarm]:
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


def wait_all_started(gpus: Gpus) -> None:
    gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 2)


# --- a farm -----------------------------------------------------------------------------------------


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
    farm.check_executed_once(group_id)
    stop_in_order(runner, farm.web)


@needs_servers
def test_killed_runner_is_replaced_and_nothing_is_lost_or_doubled(farm: ProcessFarm) -> None:
    farm.web.start()
    first = farm.runner("gpu-room")
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 3)
    wait_all_started(farm.gpus)
    first.kill()
    second = farm.runner("gpu-room")
    assert farm.wait_complete(group_id)["status"] == "completed"
    farm.check_executed_once(group_id)
    assert farm.check("runner")["status"] == "ok"
    stop_in_order(second)
    assert farm.check("runner") == {
        "status": "down",
        "detail": "No runner is registered; start one with `serve` or `runner`.",
    }


@needs_servers
def test_runner_name_is_unique_over_all_machines(farm: ProcessFarm, url: str) -> None:
    first = farm.runner("gpu-room")
    elsewhere = first.folder / "another-machine"
    text = refused(elsewhere, "runner", "--name", "gpu-room", DIRECTOR_DATABASE_URL=url)
    assert "A runner named gpu-room is already running with this database" in text
    assert "--name" in text
    first.kill()
    stop_in_order(farm.runner("gpu-room"))


# --- start and end ----------------------------------------------------------------------------------

NOWHERE = {"DIRECTOR_DATABASE_URL": "postgres://ada:secret@127.0.0.1:1/director"}
NO_POSTGRESQL = r"PostgreSQL does not answer \(.*Connection refused\)"
NO_TABLES = "The database is not migrated to this version. Waiting for"
#: Process that waits, what it prints, and the signal that ends it.
WAITING = {
    "runner, no PostgreSQL": (["runner"], NOWHERE, NO_POSTGRESQL, signal.SIGTERM),
    "web, no PostgreSQL": (["serve", *WEB], NOWHERE, NO_POSTGRESQL, signal.SIGINT),
    "runner, no tables": (["runner", "--no-migrate"], {}, NO_TABLES, signal.SIGINT),
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


def hang(what: str, server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    if what == "backends hang":
        gpus.fault("stall_sockets")
        gpus.fault("hang_http", count=0)
    else:
        service = server if what.startswith("PostgreSQL") else redis_server
        (service.freeze if what.endswith("frozen") else service.stop)()


@needs_servers
@pytest.mark.parametrize(
    "what",
    [
        "PostgreSQL frozen",
        "Redis frozen",
        pytest.param("PostgreSQL stopped", marks=pytest.mark.slow),
        pytest.param("Redis stopped", marks=pytest.mark.slow),
        pytest.param("backends hang", marks=pytest.mark.slow),
    ],
)
def test_both_processes_end_soon_if_a_service_hangs_and_lose_nothing(what: str, tmp_path: Path, gpus: Gpus) -> None:
    with postgres() as server, own_redis() as redis_server:
        settings = {"DIRECTOR_DATABASE_URL": server.create("director")}
        farm = ProcessFarm(tmp_path, gpus, **settings, DIRECTOR_REDIS_URL=redis_server.url)
        try:
            runner = farm.runner("gpu-room")
            farm.web.start()
            farm.web.wait_online()
            group_id = farm.web.submit(picture(), gpus.ids * 2)
            wait_all_started(gpus)
            hang(what, server, redis_server, gpus)
            # The first renders end now, and their results cannot be stored or read.
            gpus.wait_seen(lambda seen: sum(e["kind"] == "ended" for e in seen) >= 2)
            stop_in_order(runner, farm.web, within=SOON)
            gpus.clear_faults()
            if server.is_running:
                server.thaw()
            else:
                server.start()
            redis_server.stop()
            redis_server.start()
            farm.web.start()
            farm.runner("gpu-room")
            assert farm.wait_complete(group_id)["status"] == "completed"
            farm.check_executed_once(group_id)
        finally:
            farm.close()


# --- SQLite, without Redis --------------------------------------------------------------------------


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
    split.check_executed_once(group_id)
    stop_in_order(runner, split.web, within=SOON)


def test_sqlite_database_has_one_runner(split: ProcessFarm, tmp_path: Path) -> None:
    runner = split.runner("any")
    text = refused(tmp_path, "runner", "--name", "another")
    assert "A runner is already running with the database" in text
    assert "serve --no-runner" in text
    assert "A runner is already running" in refused(tmp_path, "serve", "--port", "0")
    stop_in_order(runner)
