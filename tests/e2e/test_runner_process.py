"""``serve --no-runner`` and ``runner``: web and runner as processes of their own, and how they end."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.harness import laws
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, LaunchedRunner, Served, refused, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers, own_redis, postgres
from tests.harness.simulators import Gpus, picture, simulated
from tests.harness.waits import until

pytestmark = pytest.mark.timeout(180)

#: Seconds that an end may take, whatever hangs.
SOON = 5.0


def end_soon(process: Launched, number: int = signal.SIGTERM) -> None:
    """Hold that a signal ends a process in time, in order and without a complaint."""
    began = time.monotonic()
    code = process.stop(number, within=20.0)
    took = time.monotonic() - began
    assert code == 0, process.printed()
    assert took < SOON, f"it took {took:.1f} s:\n{process.printed()}"
    assert "Traceback" not in process.printed(), process.printed()


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Gpus]:
    with simulated(tmp_path, count=2, seconds=1.5, preview_fps=4.0) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, gpus: Gpus, url: str, redis_server: Redis) -> Iterator[ProcessFarm]:
    """PostgreSQL and Redis, an empty database, nothing started yet."""
    made = ProcessFarm(tmp_path, gpus, DIRECTOR_DATABASE_URL=url, DIRECTOR_REDIS_URL=redis_server.url)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def split(tmp_path: Path, gpus: Gpus) -> Iterator[ProcessFarm]:
    """SQLite and no Redis, nothing started yet."""
    made = ProcessFarm(tmp_path, gpus)
    try:
        yield made
    finally:
        made.close()


def watch(farm: ProcessFarm, group_id: str) -> list[dict[str, Any]]:
    """Return what a client with previews is sent, up to the group's end."""
    url = farm.web.url.replace("http", "ws", 1)
    frames: list[dict[str, Any]] = []
    with connect(f"{url}/ws/job-groups/{group_id}?previews=1", proxy=None) as socket:
        while not frames or frames[-1]["type"] != "group_complete":
            frames.append(json.loads(socket.recv(timeout=60)))
    return frames


# --- a farm -----------------------------------------------------------------------------------------


@needs_servers
def test_a_group_is_rendered_by_a_runner_elsewhere_and_seen_live(farm: ProcessFarm) -> None:
    """Started together over an empty database: one of them makes the tables, the other waits."""
    runner = farm.runner("gpu-room", wait=False)
    farm.web.start()
    runner.wait_ready()
    farm.web.wait_online()
    assert farm.check("channel_layer")["status"] == "ok"
    group_id = farm.web.submit(picture(), farm.gpus.ids)
    frames = watch(farm, group_id)
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "initial_state"
    assert kinds.count("child_completed") == 2
    assert kinds.count("child_progress") >= 4
    assert kinds.count("child_preview") >= 2
    jobs = {child["job_id"] for child in farm.group(group_id)["child_jobs"]}
    assert laws.executed_once(farm.gpus.seen()) == sorted(jobs)
    stop_in_order(runner)
    stop_in_order(farm.web)


@needs_servers
def test_a_runner_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(farm: ProcessFarm) -> None:
    farm.web.start()
    refusal = farm.web.ask("POST", "/api/job-group", json={"workflow_json": picture(), "backend_ids": farm.gpus.ids})
    assert (refusal.status_code, refusal.json()["code"]) == (503, "runner_absent")
    first = farm.runner("gpu-room")
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 3)
    farm.gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 2)
    first.kill()
    down = until(lambda: (c := farm.check("runner"))["status"] == "down" and c, within=20.0)
    assert "No heartbeat since" in down["detail"]
    second = farm.runner("gpu-room")
    assert farm.wait_complete(group_id)["status"] == "completed"
    jobs = sorted(child["job_id"] for child in farm.group(group_id)["child_jobs"])
    assert laws.executed_once(farm.gpus.seen()) == jobs
    assert farm.check("runner")["status"] == "ok"
    stop_in_order(second)
    assert farm.check("runner") == {
        "status": "down",
        "detail": "No runner is registered; start one with `serve` or `runner`.",
    }


@needs_servers
def test_a_name_has_one_runner_wherever_it_runs(farm: ProcessFarm, tmp_path: Path) -> None:
    first = farm.runner("gpu-room")
    again = LaunchedRunner(tmp_path, "--name", "gpu-room", environment=first.environment)
    said = refused(
        tmp_path / "another-machine",
        "runner",
        "--name",
        "gpu-room",
        DIRECTOR_DATABASE_URL=again.environment["DIRECTOR_DATABASE_URL"],
    )
    assert "A runner named gpu-room is already running with this database" in said
    assert "--name" in said
    second = farm.runner("next-room")
    first.kill()
    third = farm.runner("gpu-room")
    for one in (second, third):
        stop_in_order(one)


@needs_servers
@pytest.mark.slow
def test_a_runner_that_stands_by_takes_over_from_one_that_dies(farm: ProcessFarm) -> None:
    farm.web.start()
    first = farm.runner("gpu-room")
    farm.web.wait_online()
    farm.runner("stand-by")
    group_id = farm.web.submit(picture(), farm.gpus.ids * 3)
    farm.gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 2)
    first.kill()
    assert farm.wait_complete(group_id)["status"] == "completed"
    jobs = sorted(child["job_id"] for child in farm.group(group_id)["child_jobs"])
    assert laws.executed_once(farm.gpus.seen()) == jobs


# --- ends, whatever hangs ---------------------------------------------------------------------------


@needs_servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", ["runner", "serve"])
def test_while_postgresql_is_away_it_is_waited_for_in_words_and_a_signal_ends_that(
    command: str, number: int, tmp_path: Path
) -> None:
    nowhere = {"DIRECTOR_DATABASE_URL": "postgres://ada:secret@127.0.0.1:1/director"}
    process: Launched = (
        LaunchedRunner(tmp_path, environment=nowhere)
        if command == "runner"
        else Served(tmp_path, environment=nowhere, start=False)
    )
    process.start(wait=False)
    try:
        process.wait_printed(r"PostgreSQL does not answer \(.*Connection refused\)", within=10.0)
        assert "Its address is in DIRECTOR_DATABASE_URL" in process.printed()
        assert "secret" not in process.printed()
        end_soon(process, number)
    finally:
        process.close()


@needs_servers
def test_what_waits_for_postgresql_goes_on_by_itself(tmp_path: Path, gpus: Gpus) -> None:
    with postgres() as server:
        database = server.create("director")
        server.stop()
        farm = ProcessFarm(tmp_path, gpus, DIRECTOR_DATABASE_URL=database)
        try:
            runner = farm.runner("gpu-room", wait=False)
            runner.wait_printed("PostgreSQL does not answer")
            server.start()
            runner.wait_ready()
            stop_in_order(runner)
        finally:
            farm.close()


@needs_servers
def test_a_database_that_refuses_is_said_at_once(server: Postgres, tmp_path: Path) -> None:
    said = refused(tmp_path, "runner", DIRECTOR_DATABASE_URL=server.url("nosuch"))
    assert 'PostgreSQL refuses: database "nosuch" does not exist.' in said
    assert "DIRECTOR_DATABASE_URL" in said


def _postgres_stopped(server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    server.stop()


def _postgres_frozen(server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    server.freeze()


def _redis_stopped(server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    redis_server.stop()


def _redis_frozen(server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    redis_server.freeze()


def _backend_hangs(server: Postgres, redis_server: Redis, gpus: Gpus) -> None:
    gpus.fault("stall_sockets")
    gpus.fault("hang_http", count=0)


@needs_servers
@pytest.mark.parametrize(
    "hang",
    [
        pytest.param(_postgres_stopped, id="postgres_stopped", marks=pytest.mark.slow),
        pytest.param(_postgres_frozen, id="postgres_frozen"),
        pytest.param(_redis_stopped, id="redis_stopped", marks=pytest.mark.slow),
        pytest.param(_redis_frozen, id="redis_frozen"),
        pytest.param(_backend_hangs, id="backend_hangs", marks=pytest.mark.slow),
    ],
)
def test_both_end_soon_whatever_hangs_and_lose_nothing(
    hang: Callable[[Postgres, Redis, Gpus], None], tmp_path: Path, gpus: Gpus
) -> None:
    with postgres() as server, own_redis() as redis_server:
        settings = {"DIRECTOR_DATABASE_URL": server.create("director")}
        farm = ProcessFarm(tmp_path, gpus, **settings, DIRECTOR_REDIS_URL=redis_server.url)
        try:
            runner = farm.runner("gpu-room")
            farm.web.start()
            farm.web.wait_online()
            group_id = farm.web.submit(picture(), gpus.ids * 2)
            gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 2)
            hang(server, redis_server, gpus)
            time.sleep(1.5)
            end_soon(runner)
            end_soon(farm.web)
            gpus.clear_faults()
            _mend(server, redis_server)
            farm.web.start()
            farm.runner("gpu-room")
            assert farm.wait_complete(group_id)["status"] == "completed"
            jobs = sorted(child["job_id"] for child in farm.group(group_id)["child_jobs"])
            assert laws.executed_once(gpus.seen()) == jobs
        finally:
            farm.close()


def _mend(server: Postgres, redis_server: Redis) -> None:
    if server.is_running:
        server.thaw()
    else:
        server.start()
    redis_server.stop()
    redis_server.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", ["runner", "serve"])
def test_without_tables_it_waits_in_words_and_a_signal_ends_that(command: str, number: int, tmp_path: Path) -> None:
    process: Launched = (
        LaunchedRunner(tmp_path, "--no-migrate")
        if command == "runner"
        else Served(tmp_path, arguments=["--no-migrate", *WEB], start=False)
    )
    process.start(wait=False)
    try:
        process.wait_printed("The database is not migrated to this version. Waiting for")
        end_soon(process, number)
    finally:
        process.close()


# --- SQLite, without Redis --------------------------------------------------------------------------


def test_on_sqlite_a_runner_beside_the_web_works_and_says_what_lacks(split: ProcessFarm) -> None:
    """The runner is first in an empty folder, and waits for no one."""
    runner = split.runner("any")
    split.web.start()
    for one in (runner, split.web):
        assert "Without DIRECTOR_REDIS_URL" in one.printed()
    split.web.wait_online()
    layer = split.check("channel_layer")
    assert layer["status"] == "degraded"
    assert "DIRECTOR_REDIS_URL" in layer["detail"]
    group_id = split.web.submit(picture(), split.gpus.ids)
    frames = watch(split, group_id)
    kinds = [frame["type"] for frame in frames]
    assert kinds.count("child_completed") == 2
    assert not {"child_progress", "child_preview"} & set(kinds)  # as it is said
    jobs = sorted(child["job_id"] for child in split.group(group_id)["child_jobs"])
    assert laws.executed_once(split.gpus.seen()) == jobs
    end_soon(runner)
    end_soon(split.web)


def test_sqlite_has_one_runner(split: ProcessFarm, tmp_path: Path) -> None:
    runner = split.runner("any")
    said = refused(tmp_path, "runner", "--name", "another")
    assert "A runner is already running with the database" in said
    assert "serve --no-runner" in said
    assert "A runner is already running" in refused(tmp_path, "serve", "--port", "0")
    stop_in_order(runner)


def test_what_waits_for_tables_goes_on_by_itself(split: ProcessFarm, tmp_path: Path) -> None:
    waiting = Served(tmp_path, arguments=["--no-migrate", *WEB], start=False)
    waiting.start(wait=False)
    try:
        waiting.wait_printed("The database is not migrated")
        runner = split.runner("any")
        waiting.wait_ready()
        stop_in_order(runner)
        stop_in_order(waiting)
    finally:
        waiting.close()


# --- what is said of slips ----------------------------------------------------------------------------


def test_a_misspelt_setting_is_said_with_the_nearest_one(tmp_path: Path) -> None:
    slips = {"DIRECTOR_BACKEND": "localhost:8188", "DIRECTOR_XYZZY": "1", "DIRECTOR_URL": "x"}
    process = LaunchedRunner(tmp_path, environment=slips)
    process.start()
    try:
        said = process.printed()
        assert "DIRECTOR_BACKEND is not a setting; did you mean DIRECTOR_BACKENDS?" in said
        assert "DIRECTOR_XYZZY is not a setting; docs/settings.md lists all settings." in said
        assert "DIRECTOR_URL" not in said
        stop_in_order(process)
    finally:
        process.close()


def test_a_command_without_tables_says_who_makes_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = refused(
        tmp_path,
        "createsuperuser",
        "--noinput",
        DJANGO_SUPERUSER_USERNAME="ada",
        DJANGO_SUPERUSER_PASSWORD="never-stored",
        DJANGO_SUPERUSER_EMAIL="ada@example.com",
    )
    assert "has no tables yet. `serve` creates them" in said


@pytest.mark.parametrize("where", ["folder", "file/below"])
def test_a_audit_log_that_cannot_be_written_is_said(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    said = refused(tmp_path, "simulate", "--port", "0", "--audit-log", str(tmp_path / where))
    assert said.startswith("Cannot start:")
    assert "--audit-log takes a file that can be written" in said
