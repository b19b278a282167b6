"""``manage.py demo``: its output, its files and the end of its processes."""

from __future__ import annotations

import hashlib
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.e2e.demo_process import (
    NEEDS_PROC,
    PATIENCE_S,
    ROOT,
    command,
    interrupt,
    only,
    processes_of,
    serving,
    wait_until_gone,
)

pytestmark = pytest.mark.skipif(NEEDS_PROC, reason="looks for left processes in /proc")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run a complete demo with ``--once``."""
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(
        command(folder, "--once"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return folder, ended


def test_once_ends_with_status_0(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, ended = once
    assert ended.returncode == 0, ended.stdout
    assert "CHECK FAILED" not in ended.stdout


def test_once_leaves_eight_different_pngs(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Three of group 1, two of group 2, three of group 3."""
    folder, _ = once
    images = [path.read_bytes() for path in (folder / "images").iterdir()]
    assert len(images) == 8
    assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in images)
    assert len({hashlib.sha256(content).digest() for content in images}) == 8


def test_once_stores_two_completed_groups_and_a_partly_completed_one_between(
    once: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = once
    with closing(sqlite3.connect(folder / "director.sqlite3")) as database:
        rows = database.execute(
            "SELECT status, completed_count, failed_count FROM jobgroups_jobgroup ORDER BY created_at"
        ).fetchall()
    assert rows == [("completed", 3, 0), ("partial_complete", 2, 1), ("completed", 3, 0)]


def test_once_shows_the_table_the_folder_and_the_address(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = once
    assert ended.stdout.count("completed │") == 8, ended.stdout
    assert "ComfyUIError: CUDA out of memory" in ended.stdout
    assert f"Images: {folder / 'images'}" in ended.stdout
    assert re.search(r"Director: http://localhost:\d+", ended.stdout)


def test_once_shows_the_progress_of_every_child(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, ended = once
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        assert re.search(rf"{name}: \d+ % KSampler \d+/20", ended.stdout), ended.stdout


def test_once_kills_its_director_while_jobs_run(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The kill is after the three starts and before the first end; a second process continues."""
    folder, ended = once
    third = ended.stdout.partition("3. Longer jobs")[2]
    before, killed, after = third.partition("The Director's process was killed.")
    assert killed, ended.stdout
    assert [before.count(word) for word in (": started", ": completed")] == [3, 0]
    assert [after.count(word) for word in (": started", ": completed")] == [0, 3]
    assert "the stream resumes with ?since=4" in after
    log = (folder / "director.log").read_text(encoding="utf-8")
    assert log.count("Director is ready at") == 2, log


def test_once_stores_one_attempt_for_every_child_of_the_killed_director(
    once: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """The second process follows the prompts of the first one and sends none again."""
    folder, _ = once
    with closing(sqlite3.connect(folder / "director.sqlite3")) as database:
        rows = database.execute(
            "SELECT count(*), count(DISTINCT attempt.child_id), min(attempt.state)"
            " FROM jobgroups_attempt AS attempt"
            " JOIN jobgroups_childjob AS child ON child.id = attempt.child_id"
            " JOIN jobgroups_jobgroup AS job_group ON job_group.id = child.group_id"
            " GROUP BY job_group.id ORDER BY job_group.created_at"
        ).fetchall()
    assert rows[2] == (3, 3, "success")


def test_once_leaves_no_process(once: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = once
    assert processes_of(folder) == {}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_demo_serves_until_it_is_interrupted(sent: signal.Signals, tmp_path: Path) -> None:
    """Admin and static files are served with DEBUG off. The exit status is 0."""
    with serving(tmp_path) as demo:
        address = demo.read_until(r"Director: (http://localhost:\d+)")[1]
        demo.read_until("press Ctrl-C")
        with httpx.Client(base_url=address, trust_env=False) as http:
            page = http.get("/admin/login/")
            assert page.status_code == 200
            sheet = re.search(r'href="(/static/admin/css/base[^"]*\.css)"', page.text)
            assert sheet is not None
            style = http.get(sheet[1])
            assert (style.status_code, style.headers["content-type"]) == (200, 'text/css; charset="utf-8"')
            health = http.get("/api/health").json()
            assert health["checks"]["runner"]["status"] == "ok"
        interrupt(demo.process.pid, sent)
        assert demo.end() == 0, demo.said
    assert processes_of(tmp_path) == {}


def test_interrupt_before_the_restart_leaves_no_process(tmp_path: Path) -> None:
    with serving(tmp_path) as demo:
        demo.read_until("The Director's process was killed")
        interrupt(demo.process.pid, signal.SIGINT)
        assert demo.end() == 130, demo.said
    assert "The Director was restarted" not in demo.said
    assert processes_of(tmp_path) == {}


def test_interrupt_during_jobs_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C while jobs run: status 130, as in shells."""
    with serving(tmp_path) as demo:
        demo.read_until("gpu-1: started")
        interrupt(demo.process.pid, signal.SIGINT)
        assert demo.end() == 130, demo.said
    assert processes_of(tmp_path) == {}


def test_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    """After SIGKILL the closed standard input ends the child processes."""
    with serving(tmp_path) as demo:
        demo.read_until("gpu-1: started")
        assert len(processes_of(tmp_path)) == 2
        interrupt(demo.process.pid, signal.SIGKILL)
        demo.process.wait(PATIENCE_S)
        wait_until_gone(tmp_path)
    assert processes_of(tmp_path) == {}


def test_unexpected_end_of_the_director_fails_the_demo(tmp_path: Path) -> None:
    with serving(tmp_path) as demo:
        demo.read_until("gpu-1: started")
        interrupt(only(tmp_path, "child_process serve"), signal.SIGKILL)
        assert demo.end() == 1, demo.said
    # Either the end of the process or the end of the stream is detected first.
    assert re.search(r"Director ended with status -9|event stream was closed", demo.said)
    assert "Traceback" not in demo.said
    assert processes_of(tmp_path) == {}


def test_unexpected_end_of_the_simulators_fails_the_demo(tmp_path: Path) -> None:
    with serving(tmp_path) as demo:
        demo.read_until("gpu-1: started")
        interrupt(only(tmp_path, "simulate"), signal.SIGKILL)
        assert demo.end() == 1, demo.said
    assert "Simulators ended with status -9" in demo.said
    assert "Traceback" not in demo.said
    assert processes_of(tmp_path) == {}
