"""Upgrades under load: each process is restarted in turn, and clients notice nothing."""

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.e2e.upgrade.newer import MIGRATION, newer_release
from tests.harness import laws
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.process_farm import WEB
from tests.harness.processes import LaunchedRunner, Served, stop_in_order
from tests.harness.servers import needs_servers
from tests.harness.waits import until
from tests.harness.watcher import Watcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), needs_servers]
BACKENDS = 8
GPUS = {"count": BACKENDS, "seconds": 0.1}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    """A web alone, over SQLite, with a backend that was never probed."""
    with simulated(tmp_path, count=1) as gpus:
        settings = {"DIRECTOR_ACCEPT_WITHOUT_RUNNER": "1"}
        made = Served(tmp_path, gpus.urls, arguments=WEB, environment=settings)
        try:
            yield made
        finally:
            made.close()


def test_web_answers_its_requests_before_it_ends(web: Served) -> None:
    """It stops listening at once, and each answer is its connection's last."""
    answers: list[httpx.Response] = []
    (backend,) = web.ask("GET", "/api/backends").json()["backends"]
    body = {"workflow_json": picture(), "backend_ids": [backend["backend_id"]]}
    submitting = threading.Thread(
        target=lambda: answers.append(web.ask("POST", "/api/job-group", json=body))
    )
    with (
        closing(sqlite3.connect(web.data / "director.sqlite3", isolation_level=None)) as writer,
        httpx.Client(base_url=web.url, trust_env=False) as kept,
    ):
        assert "connection" not in kept.get("/api/job-groups").headers
        writer.execute("BEGIN IMMEDIATE")
        submitting.start()
        time.sleep(0.5)
        web.process.send_signal(signal.SIGTERM)
        until(lambda: not _listens(web))
        late = kept.get("/api/job-groups")
        assert (late.status_code, late.headers["Connection"]) == (200, "close")
        time.sleep(0.5)
        assert web.runs, web.printed()
        writer.execute("ROLLBACK")
    submitting.join(60.0)
    (submitted,) = answers
    assert (submitted.status_code, submitted.headers["Connection"]) == (201, "close")
    assert web.process.wait(30.0) == 0, web.printed()
    assert "Traceback" not in web.printed(), web.printed()


def _listens(web: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(web)), timeout=0.2).close()
    except OSError:
        return False
    return True


def test_web_answers_accepted_connections_before_it_ends(web: Served) -> None:
    """Also those that the kernel has accepted and the web has not."""
    os.killpg(web.process.pid, signal.SIGSTOP)
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(web)), timeout=60.0))
            for _ in range(30)
        ]
        for one in waiting:
            one.sendall(b"GET /api/job-groups HTTP/1.1\r\nHost: localhost\r\n\r\n")
        web.process.send_signal(signal.SIGTERM)
        os.killpg(web.process.pid, signal.SIGCONT)
        answers = [one.makefile("rb").read() for one in waiting]
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
    assert web.process.wait(30.0) == 0, web.printed()


def port_of(web: Served) -> int:
    return int(web.url.rpartition(":")[2])


class Releases:
    """A web and a runner of two releases over one database, and the groups that are watched."""

    def __init__(self, gpus: Machines, settings: dict[str, str], folder: Path) -> None:
        self.gpus = gpus
        self.groups: list[str] = []
        self.watchers: list[Watcher] = []
        settings |= {"DIRECTOR_BACKENDS": ",".join(gpus.urls), "DIRECTOR_TIME_SCALE": "0.3"}
        newer = [str(newer_release(folder / "newer") / "manage.py")]
        for name in ("old-web", "old-runner", "new-web", "new-runner"):
            (folder / name).mkdir()
        self.old_web = Served(
            folder / "old-web", arguments=WEB, environment=settings, start=False, keeps_port=True
        )
        self.new_web = Served(
            folder / "new-web",
            arguments=["--no-migrate", *WEB],
            environment=settings,
            program=newer,
            start=False,
        )
        self.old_runner = LaunchedRunner(
            folder / "old-runner", "--name", "old-runner", environment=settings
        )
        self.new_runner = LaunchedRunner(
            folder / "new-runner", "--name", "new-runner", environment=settings, program=newer
        )

    def submit(self, web: Served, *watched: Served) -> None:
        """Submit a group, watch it at some webs, and wait until it has started on each backend."""
        self.groups.append(web.submit(picture(), self.gpus.ids * 4))
        self.watchers += [Watcher(one, self.groups[-1]) for one in watched]
        under_way = len(self.gpus.seen())
        self.gpus.wait_kind("started", BACKENDS, after=under_way)

    def close(self) -> None:
        for one in (self.old_web, self.new_web, self.old_runner, self.new_runner):
            one.close()


@pytest.fixture
def releases(gpus: Machines, settings: dict[str, str], tmp_path: Path) -> Iterator[Releases]:
    made = Releases(gpus, settings, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_two_releases_work_side_by_side_and_the_old_one_may_return(
    releases: Releases, gpus: Machines, url: str
) -> None:
    """The new release adds a column and a table while the old one works."""
    old_web, old_runner = releases.old_web, releases.old_runner
    new_web, new_runner = releases.new_web, releases.new_runner
    old_web.start()
    old_runner.start()
    old_web.wait_online()
    releases.submit(old_web, old_web)
    new_web.start(wait=False)
    new_web.wait_printed("The database is not migrated to this version")
    new_runner.start()
    new_web.wait_ready()
    releases.submit(old_web, old_web, new_web)
    releases.submit(new_web, old_web, new_web)
    stop_in_order(old_web, old_runner)
    releases.submit(new_web, new_web)
    # Back again, without touching the tables.
    for returning in (old_web, old_runner):
        returning.start()
        assert f"A newer version has migrated this database (jobgroups {MIGRATION})" in (
            returning.printed()
        )
    for watcher in releases.watchers:
        watcher.wait_ended()
    stop_in_order(new_web, new_runner)
    releases.submit(old_web)
    jobs = []
    for group_id in releases.groups:
        group = old_web.wait_ended(group_id)
        assert group["status"] == "completed"
        jobs += [child["job_id"] for child in group["child_jobs"]]
    assert laws.executed_once(gpus.seen()) == sorted(jobs)
    with psycopg.connect(url) as database:
        rows = database.execute("SELECT id, shelf FROM jobgroups_jobgroup").fetchall()
    shelves = [dict(rows)[group_id] for group_id in releases.groups]
    # The first group's row is older than the column.
    assert shelves == ["top", None, "top", "top", None]
    stop_in_order(old_web, old_runner)
