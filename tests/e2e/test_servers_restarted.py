"""PostgreSQL and Redis restart under load: what the processes report meanwhile, and that nothing is
lost.
"""

import datetime as dt
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.harness.graphs import picture
from tests.harness.process_farm import WEB, ProcessFarm
from tests.harness.processes import Launched, LaunchedRunner, Served, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers
from tests.harness.waits import until
from tests.harness.watcher import Watcher

pytestmark = [pytest.mark.timeout(300), needs_servers, pytest.mark.slow]

#: Seconds within which a stream receives an event whose notification was lost.
HEALED = 15.0
GPUS = {"count": 2, "seconds": 1.0}


@pytest.fixture
def farm(farm: ProcessFarm) -> ProcessFarm:
    farm.web.start()
    farm.runner("room-1")
    farm.web.wait_online()
    return farm


def lateness(stream: Watcher) -> float:
    """Return the longest time in seconds between a child's end and its event."""
    return max(
        received - dt.datetime.fromisoformat(frame["completed_at"]).timestamp()
        for received, frame in stream.frames
        if frame["type"] == "child_completed"
    )


def streamed(farm: ProcessFarm, each: int) -> tuple[str, Watcher]:
    group_id = farm.web.submit(picture(), farm.gpus.ids * each)
    stream = Watcher(farm.web, group_id)
    until(lambda: stream.count("child_started"))
    return group_id, stream


def test_while_redis_restarts_events_are_late_and_nothing_is_lost(
    farm: ProcessFarm, redis_server: Redis
) -> None:
    group_id, stream = streamed(farm, each=5)
    redis_server.stop()
    down = until(lambda: (c := farm.check("channel_layer"))["status"] != "ok" and c)
    assert down == {
        "status": "degraded",
        "detail": "Redis does not answer; events arrive late until it does.",
    }
    ended = stream.count("child_completed")
    until(lambda: stream.count("child_completed") >= ended + 3)
    redis_server.start()
    until(lambda: farm.check("channel_layer")["status"] == "ok")
    received = stream.count("child_progress")
    until(lambda: stream.count("child_progress") > received)
    stream.wait_ended()
    assert lateness(stream) < HEALED
    assert stream.connections == 1
    farm.check_completed_once(group_id)


def test_while_postgresql_restarts_writes_are_told_when_to_come_back_and_nothing_is_lost(
    farm: ProcessFarm, server: Postgres
) -> None:
    group_id, stream = streamed(farm, each=4)
    server.stop()
    # Long enough that pauses between attempts to connect which double would exceed the wait below.
    end = time.monotonic() + 40.0
    while (refusal := _submit_once(farm)).status_code == 503 and time.monotonic() < end:
        time.sleep(0.2)
    assert refusal.status_code == 503, refusal.text
    assert refusal.json()["code"] == "database_unavailable"
    assert int(refusal.headers["Retry-After"]) >= 1
    health = farm.web.ask("GET", "/api/health")
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "down")
    server.start()
    made = until(lambda: (a := _submit_once(farm)).status_code != 503 and a)
    stream.wait_ended()
    assert stream.connections == 1
    groups = [group_id, made.json()["job_group_id"]]
    assert len(farm.web.ask("GET", "/api/job-groups").json()["results"]) == 2
    farm.check_completed_once(*groups)
    stop_in_order(farm.web)


def test_while_postgresql_is_read_only_that_is_reported_and_nothing_is_lost(
    farm: ProcessFarm, server: Postgres
) -> None:
    group_id, stream = streamed(farm, each=4)

    def allow_writes(*, allowed: bool) -> None:
        with server.connect("postgres") as database:
            database.execute("SET default_transaction_read_only = off")
            value = "off" if allowed else "on"
            database.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            database.execute("SELECT pg_reload_conf()")

    allow_writes(allowed=False)
    try:
        down = until(lambda: (c := farm.check("database"))["status"] != "ok" and c)
        assert down["detail"].startswith("The database refuses writes: nothing is stored")
        refused = _submit_once(farm)
        assert (refused.status_code, refused.json()["detail"][:27]) == (
            503,
            "The database refuses writes",
        )

        def reasons() -> list[str | None]:
            group = farm.web.ask("GET", f"/api/job-groups/{group_id}").json()
            return [child["waiting_reason"] for child in group["child_jobs"]]

        until(lambda: down["detail"].startswith(reasons()[-1] or "-"))
        (runner,) = (one for one in farm._launched if isinstance(one, LaunchedRunner))
        assert runner.printed().count("read-only transaction") < 20
    finally:
        allow_writes(allowed=True)
    until(lambda: farm.check("runner")["status"] == "ok")
    stream.wait_ended()
    farm.check_completed_once(group_id)
    stop_in_order(farm.web)


def test_restart_of_postgresql_fails_at_most_one_request(
    farm: ProcessFarm, server: Postgres
) -> None:
    group_id = farm.web.submit(picture(), farm.gpus.ids)

    def status(number: int) -> int:
        # A group is read on connections that their threads keep, and the list on the pool's.
        return farm.web.ask(
            "GET", f"/api/job-groups/{group_id if number % 2 else ''}".rstrip("/")
        ).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(status, range(32))) == {200}
    server.stop()
    server.start()
    assert sum(status(one) != 200 for one in range(8)) <= 1


def _submit_once(farm: ProcessFarm) -> httpx.Response:
    body = {"workflow_json": picture(), "backend_ids": farm.gpus.ids}
    return farm.web.ask("POST", "/api/job-group", json=body, headers={"Idempotency-Key": "once"})


def _waits_for_the_migration(holder: psycopg.Connection[Any], process: Launched) -> None:
    """Another process migrates, and this one waits for the end of it."""
    subject = "comfyui-director: tables"
    holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [subject])
    process.start(wait=False)
    process.wait_printed("Another process migrates the database")


def _is_migrating(holder: psycopg.Connection[Any], process: Launched) -> None:
    """A lock holds up one of the migration's statements."""
    holder.execute(
        "CREATE TABLE django_migrations (id bigserial PRIMARY KEY, app varchar(255) NOT NULL,"
        " name varchar(255) NOT NULL, applied timestamptz NOT NULL)"
    )
    holder.commit()
    holder.execute("LOCK TABLE django_migrations")
    process.start(wait=False)
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(holder.info.dsn, autocommit=True) as database:
        until(lambda: database.execute(query).fetchall())


@pytest.mark.parametrize("template", ["template0"])
@pytest.mark.parametrize(
    ("command", "moment"), [("web", _waits_for_the_migration), ("runner", _is_migrating)]
)
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
        _ensure_running(server)
        process.close()


def _ensure_running(server: Postgres) -> None:
    """Start the server for the next test, also after a failure."""
    if not server.is_running:
        server.start()


def test_requests_are_answered_while_postgresql_hangs_and_nothing_is_lost(
    farm: ProcessFarm, server: Postgres
) -> None:
    group_id, stream = streamed(farm, each=4)
    paths = ("/", "/api/job-groups", "/api/queue", f"/api/job-groups/{group_id}")
    with ThreadPoolExecutor(len(paths)) as threads, httpx.Client(base_url=farm.web.url) as client:
        assert all(client.get(path).status_code == 200 for path in paths * 2)
        server.freeze()
        try:
            # Clients wait for 30 s.
            said = list(threads.map(lambda path: client.get(path, timeout=29), paths))
        finally:
            server.thaw()
    assert [answer.status_code for answer in said] == [503] * len(paths)
    stream.wait_ended()
    farm.check_completed_once(group_id)
