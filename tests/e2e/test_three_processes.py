"""``serve`` as three processes: what each does if another, or the one that supervises them, ends,
stops or is slow.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_own_keys import allow, ended, submit
from tests.harness import laws
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.processes import (
    MIGRATED,
    PROCESSES,
    ROOT,
    Served,
    is_alive,
    migrated_postgres,
    stop_in_order,
)
from tests.harness.servers import needs_servers, postgres
from tests.harness.waits import until
from tests.harness.watcher import Watcher

pytestmark = pytest.mark.timeout(300)

SOON = 20.0  #: Seconds within which processes end: 5 on an idle machine.


@pytest.fixture(autouse=True)
def three_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES, "3")


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with simulated(tmp_path_factory.mktemp("gpus"), seconds=0.5, preview_fps=4.0) as running:
        yield running


@pytest.fixture(scope="module")
def only_director(tmp_path_factory: pytest.TempPathFactory, gpus: Machines) -> Iterator[Director]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROCESSES, "3")
        with directing(tmp_path_factory.mktemp("director"), gpus.urls) as director:
            yield director
            if director.runs:
                stop_in_order(director, within=SOON)


@pytest.fixture
def director(only_director: Director) -> Director:
    """The Director of all tests, started again where it has ended. Those that need its first
    processes are first in this file.
    """
    if not only_director.runs:
        only_director.start()
    only_director.wait_online()
    until(lambda: "Alive processes of `files`: 1" in check(only_director, "captures")["detail"])
    return only_director


@contextmanager
def working(director: Director, gpus: Machines, *, jobs: int) -> Iterator[Watcher]:
    """Watch a group that is being rendered; at the end check that no job of this Director was lost
    or doubled.
    """
    before = len(gpus.seen())
    group_id = director.submit(picture(), (gpus.ids * jobs)[:jobs])
    watcher = Watcher(director, group_id)
    gpus.wait_kind("started", len(gpus.ids), after=before)
    yield watcher
    watcher.wait_ended()
    director.wait_settled()
    gpus.wait_idle()
    laws.check(director.data, gpus.seen())
    assert "Traceback" not in director.printed(), director.printed()
    assert laws.statuses(director.data, group_id) == {"completed": jobs}
    assert laws.executed_once(gpus.seen()) == sorted(
        row["id"] for row in director.rows("SELECT id FROM jobgroups_childjob")
    )
    stored = laws.stored_events(director.data, group_id)
    assert watcher.events == stored[-len(watcher.events) :]


def processes(director: Director) -> list[int]:
    return [director.process.pid, *director.children().values()]


def kill(director: Director, name: str) -> int:
    """Kill a process of ``serve``, wait until it was started again, and return the id of the killed
    one.
    """
    killed = director.children()[name]
    os.kill(killed, signal.SIGKILL)
    until(lambda: director.children().get(name, killed) != killed)
    return killed


def check(director: Director, name: str = "processes") -> dict[str, str]:
    answer: dict[str, str] = director.ask("GET", "/api/health").json()["checks"][name]
    return answer


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of the sockets of a process."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(link.readlink()))
    return {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def test_group_with_previews_is_rendered_and_nobody_can_connect_to_the_pairs(
    director: Director, gpus: Machines
) -> None:
    gpus.fault("slow", seconds=20.0, count=2)
    with working(director, gpus, jobs=6) as watcher:
        until(lambda: check(director) == {"status": "ok", "detail": "Alive: web, runner, files."})
        assert check(director, "channel_layer")["status"] == "ok"
        assert check(director, "runner")["status"] == "ok"
        port = int(director.url.rpartition(":")[2])
        inodes = set[str]().union(*map(sockets_of, processes(director)))
        tables = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()
        ]
        listening = {
            row[1].rpartition(":")[2] for row in tables if row[3] == "0A" and row[9] in inodes
        }
        assert listening == {f"{port:04X}"}
        # Flag 10000: it accepts connections. A name: others can find it.
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        ours = [row for row in rows if row[6] in inodes]
        assert len(ours) >= 4
        assert not [row for row in ours if row[3] == "00010000" or len(row) > 7]
        metrics = director.ask("GET", "/metrics").text
        until(lambda: watcher.count("child_progress") > 4)
        gpus.clear_faults()
        # Submissions that arrive at once share a commit in the writer of the web.
        assert re.search(r'director_database_seconds_count\{[^}]*"web-db"', metrics)


@pytest.mark.parametrize(
    "name", ["runner", *(pytest.param(name, marks=pytest.mark.slow) for name in ("web", "files"))]
)
def test_stopped_process_delays_no_other_and_goes_on(
    name: str, director: Director, gpus: Machines
) -> None:
    seen = len(gpus.seen())
    with working(director, gpus, jobs=30) as watcher:
        pid = director.children()[name]
        os.kill(pid, signal.SIGSTOP)
        try:
            if name != "runner":
                # What the runner sends does not stop it.
                gpus.wait_kind("ended", 15, after=seen)
            if name != "web":
                assert director.ask("GET", f"/api/job-groups/{watcher.group_id}").status_code == 200
                time.sleep(3.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert director.children()[name] == pid


def test_all_end_with_the_supervisor_and_the_port_is_free_at_once(
    director: Director, gpus: Machines
) -> None:
    with working(director, gpus, jobs=12):
        pids, web = processes(director), director.children()["web"]
        os.kill(web, signal.SIGSTOP)
        os.kill(director.process.pid, signal.SIGKILL)
        director.process.wait()
        # A busy web has the port for a while.
        threading.Timer(1.0, os.kill, [web, signal.SIGCONT]).start()
        director.start()
        assert not any(map(is_alive, pids))


def test_killed_process_is_started_again_while_the_other_goes_on(
    director: Director, gpus: Machines
) -> None:
    with working(director, gpus, jobs=24) as watcher:
        before = director.children()
        os.kill(before["runner"], signal.SIGKILL)
        assert director.ask("GET", f"/api/job-groups/{watcher.group_id}").status_code == 200
        detail = until(
            lambda: (found := check(director))["status"] == "degraded" and found["detail"]
        )
        assert re.match(r"runner ended unexpectedly at \S+Z \(signal 9\), 1 × in all\. It ", detail)
        assert director.children()["web"] == before["web"]
        runner = until(lambda: director.children().get("runner"))
        assert watcher.connections == 1
        # A connection waits for the next web.
        os.kill(before["web"], signal.SIGKILL)
        assert director.ask("GET", "/api/backends").status_code == 200
        assert "web ended unexpectedly at " in check(director)["detail"]
        assert director.children()["runner"] == runner
    assert "runner: ended unexpectedly (signal 9); starting it again in 0 s" in director.printed()
    assert watcher.connections == 2


def test_key_of_a_submitter_reaches_the_runner_and_ctrl_c_ends_all_in_order(
    director: Director, gpus: Machines
) -> None:
    allow(director, gpus.ids[0])
    assert ended(director, submit(director, 1))["status"] == "succeeded"
    pids, before = processes(director), director.printed()
    for _ in range(2):
        os.killpg(director.process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert director.process.wait(SOON) == 0
    assert not any(map(is_alive, pids))
    assert director.printed() == before


def test_process_whose_supervisor_was_killed_at_its_start_imports_nothing() -> None:
    """On a busy machine the imports take 20 s, for which it would have the ports."""
    command = [sys.executable, "-m", "director", "runner", "--inherited", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(SOON) == -signal.SIGTERM


def test_web_that_cannot_start_ends_serve_with_its_error(tmp_path: Path) -> None:
    """Another program listens on the port, which ``serve`` has bound, before the web does."""
    script = (
        "import socket, sys; from director.server import listen, supervise\n"
        "bind, other = listen.bind_sockets, socket.socket()\n"
        "def stolen(host, port):\n"
        "    sockets = bind(host, port); other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, "
        "1)\n"
        "    other.bind(sockets[0].getsockname()); other.listen(); return sockets\n"
        "listen.bind_sockets = stolen; sys.argv[0] = 'manage.py'\n"
        "from director.__main__ import main; main()\n"
    )
    with directing(tmp_path, []) as director:
        director._program = ("-c", script)
        director.start(wait=False)
        assert director.process.wait(60) == 1
    errors = [line for line in director.printed().splitlines() if line.startswith("CommandError")]
    assert len(errors) == 1
    assert errors[0].startswith("CommandError: Cannot listen on 127.0.0.1 port ")
    assert "Traceback" not in director.printed()


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["web"], ["runner"], ["files"], ["web", "runner", "files"]], ids="-".join
)
def test_stopped_process_delays_the_end_by_no_more_than_the_exit_timer(
    names: list[str], tmp_path: Path
) -> None:
    with simulated(tmp_path, count=1) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        # Each has its handlers of signals, the last one when its heartbeat is stored.
        until(lambda: "Alive processes of `files`: 1" in director.ask("GET", "/api/health").text)
        pids = processes(director)
        for name in names:
            os.kill(director.children()[name], signal.SIGSTOP)
        began = time.monotonic()
        assert director.stop(within=SOON) == 0
        assert 4.5 < time.monotonic() - began < SOON
        assert not any(map(is_alive, pids))
        assert director.printed().count("is killed") == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["web", "runner", "files"])
def test_process_that_gets_sigterm_is_started_again(
    name: str, director: Director, gpus: Machines
) -> None:
    with working(director, gpus, jobs=12):
        ended = director.children()[name]
        os.kill(ended, signal.SIGTERM)
        until(lambda: director.children().get(name, ended) != ended)
        until(lambda: f"{name} ended unexpectedly" in check(director)["detail"])


@pytest.mark.slow
def test_processes_that_are_killed_at_once_come_back(director: Director, gpus: Machines) -> None:
    with working(director, gpus, jobs=30):
        for _ in range(3):
            before = director.children()
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            until(
                lambda before=before: (
                    len(now := director.children()) == 3
                    and not set(now.values()) & set(before.values())
                )
            )
            director.wait_online()


def repeat(work: Callable[[], Any], stop: threading.Event) -> threading.Thread:
    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("name", ["web", "runner"])
def test_submissions_are_stored_or_not_whichever_process_is_killed_again_and_again(
    name: str, tmp_path: Path
) -> None:
    """Each submission has a key of its own, and what has no answer is sent again: it exists once."""
    with simulated(tmp_path, seconds=0.05) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        created: dict[str, str] = {}
        stop = threading.Event()

        def submit_one() -> None:
            # A quick machine would submit more than the backends render in time.
            time.sleep(0.1)
            key = f"key-{len(created)}"
            body = {"workflow_json": picture(), "backend_ids": gpus.ids}
            with suppress(httpx.TransportError):
                answer = director.ask(
                    "POST", "/api/job-group", json=body, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 201:
                    created[key] = answer.json()["job_group_id"]
                else:
                    assert answer.status_code == 503, answer.text

        thread = repeat(submit_one, stop)
        for _ in range(5):
            time.sleep(1.0)
            kill(director, name)
        before = len(created)
        until(lambda: len(created) > before + 3)
        stop.set()
        thread.join()
        director.wait_settled()
        stop_in_order(director, within=SOON)
        laws.check(director.data, gpus.seen())
        groups = [row["id"] for row in director.rows("SELECT id FROM jobgroups_jobgroup")]
        assert set(created.values()) <= set(groups)
        assert len(groups) <= len(created) + 1
        assert len(laws.executed_once(gpus.seen())) == 3 * len(groups)


@needs_servers
def test_three_processes_on_postgres_need_no_redis(tmp_path: Path) -> None:
    with (
        postgres(data=migrated_postgres()) as server,
        simulated(tmp_path, count=2, seconds=0.5, preview_fps=4.0) as gpus,
    ):
        environment = {"DIRECTOR_DATABASE_URL": server.create("director", MIGRATED)}
        arguments = ("--processes", "3", "--port", "0")
        served = Served(tmp_path, gpus.urls, arguments=arguments, environment=environment)
        try:
            served.wait_online()
            checks = until(
                lambda: (
                    (found := served.ask("GET", "/api/health").json())["status"] == "ok" and found
                )
            )
            assert checks["checks"]["channel_layer"]["status"] == "ok"
            gpus.fault("slow", seconds=20.0, count=0)
            watcher = Watcher(served, served.submit(picture(), gpus.ids * 2))
            # Progress is in no event of the database: it came over the pairs.
            until(lambda: watcher.count("child_progress") > 4)
            gpus.clear_faults()
            watcher.wait_ended()
            killed = served.children()["runner"]
            os.kill(killed, signal.SIGKILL)
            until(lambda: served.children().get("runner", killed) != killed)
            served.wait_ended(served.submit(picture(), gpus.ids))
            stop_in_order(served, within=SOON)
        finally:
            served.close()
        jobs = 3 * len(gpus.ids)
        assert len(laws.executed_once(gpus.seen())) == jobs
