"""``director doctor``: each thing that can be wrong is told, with what to do; nothing is changed."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.comfyui.answers import Device, SystemStats
from backends.comfyui.client import ComfyClient
from backends.models import Backend
from backends.simulator import Simulator
from backends.simulator.threaded import SimulatorThread
from director.doctor.backends import _Answer, _finding
from director.doctor.findings import Finding, Level
from director.doctor.host import file_system
from tests.harness.processes import ROOT, Served, stop_in_order
from tests.harness.servers import needs_servers, postgres

_SECRET = "hunter2-hunter2-hunter2"


def _doctor(
    folder: Path, *words: str, status: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run it for the data folder in ``folder``; fail if it ends with another status."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    ended = subprocess.run(
        [sys.executable, "-m", "director", "doctor", *words],
        cwd=ROOT,
        env={**inherited, "DIRECTOR_DATA_DIR": str(folder / "data"), **variables},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == status, f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


def _findings(folder: Path, *words: str, status: int = 0, **variables: str) -> dict[str, Any]:
    """Return its findings by subject."""
    said = _doctor(folder, "--json", *words, status=status, **variables).stdout
    return {one["subject"]: one for one in json.loads(said)["findings"]}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A Director with a good backend, an old one, a very old one, and one that is away."""
    folder = tmp_path_factory.mktemp("doctor")
    with (
        SimulatorThread(preview_fps=4.0, vram_gb=24.0) as good,
        SimulatorThread(version="0.3.50") as old,
        SimulatorThread(version="0.3.40") as ancient,
    ):
        served = Served(folder)
        urls = {
            "good": good.url,
            "old": old.url,
            "ancient": ancient.url,
            "away": "http://localhost:9",
        }
        for name, url in urls.items():
            body = {"url": url, "backend_id": name, "headers": {"Authorization": _SECRET}}
            assert served.ask("POST", "/api/backends", json=body).status_code == 201
        yield served, folder
        stop_in_order(served)


def _port(served: Served) -> str:
    return served.url.rsplit(":", 1)[1]


def test_each_backend_is_asked_and_told(farm: tuple[Served, Path]) -> None:
    served, folder = farm
    found = _findings(folder, "--port", _port(served), status=1)
    good, old = found["Backend good"], found["Backend old"]
    assert (good["level"], good["todo"]) == ("ok", "")
    assert "ComfyUI 0.3.64, cuda:0 Simulated 24 GB (24 GB), previews on, idle." in good["said"]
    assert old["level"] == "warning"
    assert "cannot be stopped" in old["said"]
    assert found["Backend ancient"]["level"] == "problem"
    assert "too old" in found["Backend ancient"]["said"]
    assert found["Backend away"]["level"] == "problem"
    assert "director backends disable away" in found["Backend away"]["todo"]


def test_the_director_that_runs_is_found_and_asked(farm: tuple[Served, Path]) -> None:
    served, folder = farm
    found = _findings(folder, "--port", _port(served), status=1)
    port = found[f"Port {_port(served)}"]
    assert "answers and is degraded." in port["said"]
    assert "away" in port["said"]
    for subject in ("Python", "Data folder", "Database", "Channel layer", "Runner"):
        assert found[subject]["level"] == "ok", found[subject]


def test_a_report_has_no_secrets(farm: tuple[Served, Path]) -> None:
    served, folder = farm
    ended = _doctor(folder, "--json", "--port", _port(served), status=1, DIRECTOR_TOKEN=_SECRET)
    assert "DIRECTOR_TOKEN" in ended.stdout
    assert _SECRET not in ended.stdout + ended.stderr


def test_it_speaks_in_words(farm: tuple[Served, Path]) -> None:
    served, folder = farm
    out = _doctor(folder, "--port", _port(served), status=1).stdout
    assert "problem  Backend away: http://localhost:9 does not answer: " in out
    assert "\n         → Is ComfyUI running there" in out
    assert "Problems: " in out.splitlines()[-1]


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    found = _findings(tmp_path)
    assert found["Database"]["level"] == "note"
    assert "serve makes it" in found["Data folder"]["said"]
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_setting_is_told(tmp_path: Path) -> None:
    found = _findings(tmp_path, DIRECTOR_BACKEND="localhost:8188")["Settings"]
    assert found["level"] == "warning"
    assert "did you mean DIRECTOR_BACKENDS?" in found["said"]


def test_the_variables_of_the_command_line_are_no_misspelt_settings(tmp_path: Path) -> None:
    said = {"DIRECTOR_URL": "http://localhost:9820", "DIRECTOR_SUBMITTER": "ada@studio"}
    assert _findings(tmp_path, **said)["Settings"]["level"] == "ok"


def test_a_data_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("", encoding="utf-8")
    assert "is no folder" in _findings(tmp_path, status=1)["Data folder"]["said"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_data_folder_that_cannot_be_written_is_a_problem_whoever_runs_it(tmp_path: Path) -> None:
    """Also for root, whom permissions do not stop."""
    found = _findings(tmp_path, status=1, DIRECTOR_DATA_DIR="/proc")["Data folder"]
    assert found["said"].startswith("/proc cannot be written: ")
    found = _findings(tmp_path, status=1, DIRECTOR_DATA_DIR="/proc/nobody/data")["Data folder"]
    assert "cannot be made: /proc cannot be written" in found["said"]


def test_looking_at_the_data_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert _findings(tmp_path)["Data folder"]["level"] == "ok"
    assert list((tmp_path / "data").iterdir()) == []


def test_a_backend_in_the_settings_that_ends_every_start_is_told(tmp_path: Path) -> None:
    said = f"gpu-1:8188,http://ann:{_SECRET}@gpu-2:port"
    ended = _doctor(tmp_path, "--json", status=1, DIRECTOR_BACKENDS=said)
    found = {one["subject"]: one for one in json.loads(ended.stdout)["findings"]}["Settings"]
    assert found["level"] == "problem"
    assert found["said"].startswith("DIRECTOR_BACKENDS: address 2: ")
    assert _SECRET not in ended.stdout + ended.stderr


def test_a_database_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    url = f"postgres://director:{_SECRET}@127.0.0.1:9/director"
    ended = _doctor(tmp_path, "--json", status=1, DIRECTOR_DATABASE_URL=url)
    found = {one["subject"]: one for one in json.loads(ended.stdout)["findings"]}["Database"]
    assert found["said"].startswith("PostgreSQL director at 127.0.0.1:9 does not open: ")
    assert _SECRET not in ended.stdout + ended.stderr


@pytest.mark.postgres
@needs_servers
def test_what_postgresql_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with postgres() as server:
        url = server.url("nobody_made_it")
        found = _findings(tmp_path, status=1, DIRECTOR_DATABASE_URL=url)["Database"]
    assert 'database "nobody_made_it" does not exist' in found["said"]


def _migrated(folder: Path, *target: str) -> Path:
    (folder / "data").mkdir()
    subprocess.run(
        [sys.executable, "-m", "director", "manage", "migrate", "-v0", *target],
        cwd=ROOT,
        env={**os.environ, "DIRECTOR_DATA_DIR": str(folder / "data")},
        check=True,
        timeout=90,
    )
    return folder / "data" / "director.sqlite3"


def test_tables_of_an_older_release_are_told(tmp_path: Path) -> None:
    _migrated(tmp_path, "backends")
    found = _findings(tmp_path, status=1)["Database"]
    assert "older release" in found["said"]
    assert found["todo"].startswith("director serve")


def test_tables_of_a_newer_release_are_told(tmp_path: Path) -> None:
    database = _migrated(tmp_path)
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES (?, ?, ?)",
            ("jobgroups", "9999_from_tomorrow", "2027-01-01"),
        )
    connection.close()
    found = _findings(tmp_path, status=1)["Database"]
    assert "a newer release has used it (jobgroups 9999_from_tomorrow)" in found["said"]


def test_a_runner_that_is_absent_is_a_problem_and_no_backend_is_not(tmp_path: Path) -> None:
    _migrated(tmp_path)
    found = _findings(tmp_path, status=1)
    assert found["Runner"]["level"] == "problem"
    assert "director serve" in found["Runner"]["todo"]
    assert "director backends add" in found["Backends"]["todo"]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    said = _doctor(tmp_path, f"--port={port}", status=2).stderr
    assert f"'{port}' is no port from 1 to 65535" in said


def test_a_port_that_something_else_holds_is_told(tmp_path: Path) -> None:
    with SimulatorThread() as other:
        port = other.url.rsplit(":", 1)[1]
        found = _findings(tmp_path, "--port", port)[f"Port {port}"]
        assert found["said"] == "Something else than a Director answers."
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        found = _findings(tmp_path, "--port", port, status=1)[f"Port {port}"]
        assert "does not answer" in found["said"]


# --- one backend ----------------------------------------------------------------------------------


def _of(
    skew: float | None = 0.0, arguments: tuple[str, ...] = ("--preview-method", "auto"), **row: Any
) -> Finding:
    device = Device(name="cuda:0", vram_total=24 * 2**30)
    stats = SystemStats(version="0.3.64", devices=(device,), arguments=arguments)
    backend = Backend(id="gpu-1", url="http://gpu-1:8188", **row)
    return _finding(backend, _Answer(stats, 0, skew))


@pytest.mark.parametrize(("skew", "way"), [(3600.0, "ahead"), (-90.0, "behind")])
def test_a_clock_that_is_off_is_told(skew: float, way: str) -> None:
    found = _of(skew)
    assert found.level is Level.WARNING
    assert f"Its clock is {abs(skew):.0f} s {way}" in found.said


@pytest.mark.parametrize("skew", [None, 0.0, 59.0, -59.0])
def test_a_clock_that_is_nearly_right_is_not(skew: float | None) -> None:
    assert _of(skew).level is Level.OK


@pytest.mark.parametrize(
    ("arguments", "has"),
    [
        ((), False),
        (("--preview-method", "none"), False),
        (("--preview-method", "latent2rgb"), True),
        (("--preview-method=taesd",), True),
        (("--preview-method",), False),
    ],
)
def test_previews_are_told_by_how_comfyui_was_started(
    arguments: tuple[str, ...], has: bool
) -> None:
    found = _of(arguments=arguments)
    assert ("previews on" in found.said) is has
    assert ("--preview-method auto" in found.todo) is not has


def test_a_disabled_and_a_quarantined_one_say_how_to_get_them_back() -> None:
    assert _of(enabled=False).todo == "director backends enable gpu-1"
    found = _of(quarantined_at=dt.datetime.now(dt.UTC), quarantine_reason="3 failures in 10 min")
    assert "quarantined: 3 failures in 10 min." in found.said
    assert found.todo == "director backends release gpu-1"


def test_all_that_is_wrong_with_a_backend_is_told_the_worst_first() -> None:
    found = _of(-90.0, (), hold="pause", changed_reason="driver update.")
    assert found.level is Level.WARNING
    clock, hold = found.said.index("90 s behind"), found.said.index(": driver update.")
    assert clock < hold
    assert found.todo.splitlines() == [
        "Set that machine's clock by NTP.",
        "director backends resume gpu-1",
        "For live previews start ComfyUI there with --preview-method auto.",
    ]


async def test_the_clock_of_a_backend_is_read_from_its_answers() -> None:
    async with Simulator() as sim, ComfyClient(sim.url) as comfy:
        clock = await comfy.clock()
    assert clock is not None
    assert abs((clock - dt.datetime.now(dt.UTC)).total_seconds()) < 5


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        f"studio:/farm {str(tmp_path / 'a b').replace(' ', chr(92) + '040')} nfs4 rw 0 0\n",
        encoding="utf-8",
    )
    assert file_system(tmp_path / "a b" / "data", mounts) == "nfs4"
    assert file_system(tmp_path / "c", mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "absent") == ""
