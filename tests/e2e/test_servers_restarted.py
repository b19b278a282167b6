"""PostgreSQL and Redis restart under load: what is said meanwhile, and that nothing is lost of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from websockets.sync.client import connect

from tests.harness import laws
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, LaunchedRunner, Served, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers
from tests.harness.simulators import Gpus, picture, simulated
from tests.harness.waits import until
from tests.ws.client_state import ClientState

pytestmark = [pytest.mark.timeout(180), needs_servers, pytest.mark.slow]

#: Seconds within which a stream is healed from the rows.
HEALED = 5.0


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Gpus]:
    with simulated(tmp_path, count=2, seconds=1.0) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, gpus: Gpus, url: str, redis_server: Redis) -> Iterator[ProcessFarm]:
    made = ProcessFarm(tmp_path, gpus, DIRECTOR_DATABASE_URL=url, DIRECTOR_REDIS_URL=redis_server.url)
    try:
        made.web.start()
        made.runner("room-1")
        made.web.wait_online()
        yield made
    finally:
        made.close()


class Stream:
    """One connection to a group's stream, read in a thread; it is never opened again."""

    def __init__(self, farm: ProcessFarm, group_id: str) -> None:
        self.state = ClientState()
        self.frames: list[tuple[float, dict[str, Any]]] = []
        self._failure: BaseException | None = None
        self._url = f"{farm.web.url.replace('http', 'ws', 1)}/ws/job-groups/{group_id}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with connect(self._url, proxy=None, close_timeout=1) as socket:
                while not self.kinds("group_complete"):
                    frame = json.loads(socket.recv(timeout=60))
                    self.frames.append((time.time(), frame))
                    self.state.take(frame)
        except BaseException as failure:  # noqa: BLE001 handed to the test's thread
            self._failure = failure

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Return the frames of a kind."""
        return [frame for _, frame in list(self.frames) if frame["type"] == kind]

    def wait_ended(self, within: float = 60.0) -> None:
        """Wait until it has told the group's end."""
        self._thread.join(within)
        assert not self._thread.is_alive(), self.frames[-3:]
        if self._failure is not None:
            raise AssertionError("the stream broke off") from self._failure

    def lateness(self) -> float:
        """Return by how many seconds the latest event came after its child's end at the backend."""
        return max(
            came - _moment(frame["completed_at"]) for came, frame in self.frames if frame["type"] == "child_completed"
        )


def _moment(text: str) -> float:
    import datetime as dt

    return dt.datetime.fromisoformat(text).timestamp()


def submitted(farm: ProcessFarm, each: int) -> tuple[str, Stream]:
    """Submit a group, and watch it until it is under way."""
    group_id = farm.web.submit(picture(), farm.gpus.ids * each)
    stream = Stream(farm, group_id)
    until(lambda: stream.kinds("child_started"))
    return group_id, stream


def ended_well(farm: ProcessFarm, group_id: str) -> None:
    """Hold that every child was rendered, each once."""
    group = farm.wait_complete(group_id)
    assert group["status"] == "completed"
    assert laws.executed_once(farm.gpus.seen()) == sorted(one["job_id"] for one in group["child_jobs"])


def test_without_redis_streams_are_healed_from_the_rows_and_go_live_again_with_it(
    farm: ProcessFarm, redis_server: Redis
) -> None:
    """Nobody reloads a page: it is one connection from beginning to end."""
    group_id, stream = submitted(farm, each=5)
    redis_server.stop()
    down = until(lambda: (c := farm.check("channel_layer"))["status"] != "ok" and c, within=10.0)
    assert down == {"status": "degraded", "detail": "Redis does not answer; events arrive late until it does."}
    ended = len(stream.kinds("child_completed"))
    until(lambda: len(stream.kinds("child_completed")) >= ended + 3, within=20.0)
    redis_server.start()
    until(lambda: farm.check("channel_layer")["status"] == "ok", within=10.0)
    heard = len(stream.kinds("child_progress"))
    until(lambda: len(stream.kinds("child_progress")) > heard, within=10.0)
    stream.wait_ended()
    assert stream.lateness() < HEALED
    ended_well(farm, group_id)


def test_while_postgresql_restarts_writes_are_told_when_to_come_back_and_nothing_is_lost(
    farm: ProcessFarm, server: Postgres
) -> None:
    group_id, stream = submitted(farm, each=4)
    server.stop()
    refusal = farm.web.ask(
        "POST",
        "/api/job-group",
        json={"workflow_json": picture(), "backend_ids": farm.gpus.ids},
        headers={"Idempotency-Key": "once"},
    )
    assert refusal.status_code == 503, refusal.text
    assert refusal.json()["code"] == "database_unavailable"
    assert int(refusal.headers["Retry-After"]) >= 1
    health = farm.web.ask("GET", "/api/health")
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "down")
    server.start()
    again = until(lambda: _submitted_now(farm), within=20.0)
    stream.wait_ended()
    for one in (group_id, again):
        farm.wait_complete(one)
    groups = farm.web.ask("GET", "/api/job-groups").json()["results"]
    assert len(groups) == 2
    everything = [farm.group(one) for one in (group_id, again)]
    assert {group["status"] for group in everything} == {"completed"}
    jobs = sorted(child["job_id"] for group in everything for child in group["child_jobs"])
    assert laws.executed_once(farm.gpus.seen()) == jobs
    assert "Traceback" not in farm.web.printed(), farm.web.printed()
    stop_in_order(farm.web)


def _submitted_now(farm: ProcessFarm) -> str | None:
    answer = farm.web.ask(
        "POST",
        "/api/job-group",
        json={"workflow_json": picture(), "backend_ids": farm.gpus.ids},
        headers={"Idempotency-Key": "once"},
    )
    if answer.status_code == 503:
        return None
    found: str = answer.json()["job_group_id"]
    return found


# --- a web that stood still ------------------------------------------------------------------------


def test_a_web_that_stood_still_in_a_transaction_says_when_to_come_back(tmp_path: Path, gpus: Gpus, url: str) -> None:
    """PostgreSQL cuts off who is idle in a transaction: after a second here, after eight else."""
    limited = f"{url}?options=-c%20idle_in_transaction_session_timeout%3D1s"
    settings = {"DIRECTOR_DATABASE_URL": limited, "DIRECTOR_ACCEPT_WITHOUT_RUNNER": "1"}
    farm = ProcessFarm(tmp_path, gpus, **settings)
    answers: list[httpx.Response] = []

    def cancel() -> None:
        answers.append(farm.web.ask("DELETE", f"/api/job-groups/{group_id}"))

    try:
        farm.web.start()
        group_id = farm.web.submit(picture(), gpus.ids)
        with psycopg.connect(url) as holder:
            holder.execute("SELECT 1 FROM jobgroups_jobgroup FOR UPDATE")
            cancelling = threading.Thread(target=cancel)
            cancelling.start()
            until(lambda: _held_up(url))
            os.killpg(farm.web.process.pid, signal.SIGSTOP)
        assert until(lambda: _idle_in_transaction(url))
        until(lambda: not _idle_in_transaction(url))
        os.killpg(farm.web.process.pid, signal.SIGCONT)
        cancelling.join(30.0)
        assert answers[0].status_code == 503, answers[0].text
        assert answers[0].json()["code"] == "database_unavailable"
        assert int(answers[0].headers["Retry-After"]) >= 1
        # PostgreSQL's message is mostly not read any more: the commit may have been cut off.
        unknown, known = "may or may not be stored", "nothing was stored"
        assert any(one in answers[0].json()["detail"] for one in (unknown, known))
        assert farm.group(group_id)["completed_at"] is None
        cancel()
        assert answers[1].status_code == 200, answers[1].text
        assert farm.group(group_id)["completed_at"] is not None
        assert "Traceback" not in farm.web.printed(), farm.web.printed()
        stop_in_order(farm.web)
    finally:
        farm.close()


def _idle_in_transaction(url: str) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'"
    with psycopg.connect(url, autocommit=True) as database:
        return [pid for (pid,) in database.execute(query)]


# --- what starts just then ------------------------------------------------------------------------


def _waits_its_turn(holder: psycopg.Connection[Any], process: Launched) -> None:
    """Another process makes the tables, and this one waits until it is done."""
    subject = "comfyui-director: tables"
    holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [subject])
    process.start(wait=False)
    process.wait_printed("Another process migrates the database")


def _is_migrating(holder: psycopg.Connection[Any], process: Launched) -> None:
    """Something holds up one of migrate's statements."""
    holder.execute(
        "CREATE TABLE django_migrations (id bigserial PRIMARY KEY, app varchar(255) NOT NULL,"
        " name varchar(255) NOT NULL, applied timestamptz NOT NULL)"
    )
    holder.commit()
    holder.execute("LOCK TABLE django_migrations")
    process.start(wait=False)
    until(lambda: _held_up(holder.info.dsn))


def _held_up(url: str) -> list[int]:
    """Return whose statements wait for a lock."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as database:
        return [pid for (pid,) in database.execute(query)]


@pytest.mark.parametrize(("command", "moment"), [("web", _waits_its_turn), ("runner", _is_migrating)])
def test_what_starts_while_postgresql_restarts_waits_in_words_and_goes_on(
    command: str,
    moment: Callable[[psycopg.Connection[Any], Launched], None],
    url: str,
    server: Postgres,
    tmp_path: Path,
) -> None:
    settings = {"DIRECTOR_DATABASE_URL": url}
    process: Launched = (
        LaunchedRunner(tmp_path, environment=settings)
        if command == "runner"
        else Served(tmp_path, arguments=WEB, environment=settings, start=False)
    )
    holder = psycopg.connect(url)
    try:
        moment(holder, process)
        server.stop()
        process.wait_printed("PostgreSQL: connection lost")
        process.wait_printed("PostgreSQL does not answer")
        server.start()
        process.wait_ready()
        stop_in_order(process)
    finally:
        holder.close()
        _start(server)
        process.close()


def test_what_waits_for_tables_outlives_a_restart_of_postgresql(url: str, server: Postgres, tmp_path: Path) -> None:
    settings = {"DIRECTOR_DATABASE_URL": url}
    arguments = ["--no-migrate", *WEB]
    web = Served(tmp_path, arguments=arguments, environment=settings, start=False)
    runner = LaunchedRunner(tmp_path, environment=settings)
    web.start(wait=False)
    try:
        web.wait_printed("The database is not migrated")
        server.stop()
        web.wait_printed("PostgreSQL does not answer")
        server.start()
        time.sleep(2.0)
        assert web.runs, web.printed()
        runner.start()
        web.wait_ready()
        stop_in_order(web)
        stop_in_order(runner)
    finally:
        _start(server)
        web.close()
        runner.close()


_HOLDING = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "director.settings"
import django
django.setup()
from director.server import startup
lock = startup.runner_lock("room-1")
startup.acquire_lock(lock, print)
print("It has looked.")
input()
startup.acquire_lock(lock, print)
print("It is held.")
input()
"""


def test_a_name_whose_lock_broke_while_it_was_taken_is_waited_for(url: str, server: Postgres, tmp_path: Path) -> None:
    settings = {"DIRECTOR_DATABASE_URL": url, "DIRECTOR_DATA_DIR": str(tmp_path)}
    process = Launched(tmp_path, ["hold"], settings, program=["-c", _HOLDING], has_stdin=True)
    process.start(wait=False)
    stdin = process.process.stdin
    assert stdin is not None
    try:
        process.wait_printed("It has looked.")
        server.stop()
        stdin.write(b"\n")
        stdin.flush()
        process.wait_printed("PostgreSQL does not answer")
        server.start()
        process.wait_printed("It is held.")
        with psycopg.connect(url, autocommit=True) as database:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert database.execute(query).fetchone() == (1,)
    finally:
        stdin.close()
        _start(server)
        process.close()


def _start(server: Postgres) -> None:
    """Have it run for the next test, whatever became of this one."""
    if not server.is_running:
        server.start()
