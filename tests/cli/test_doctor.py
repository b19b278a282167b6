import datetime as dt
import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from backends.comfyui.answers import Device, SystemStats
from backends.comfyui.client import ComfyClient
from backends.models import Backend
from backends.simulator import Simulator
from director.doctor import checks, report
from director.doctor.checks import Finding, Level
from director.doctor.report import _Answer, _finding, _sharing
from director.management.commands.doctor import Command
from tests.harness.processes import Served, python, stop_in_order
from tests.harness.simulator_thread import SimulatorThread

_SECRET = "hunter2-hunter2-hunter2"


def _doctor(folder: Path, *words: str, **variables: str) -> str:
    """Run the command as a process; return its output. At least one problem is expected."""
    variables = {"DIRECTOR_DATA_DIR": str(folder / "data"), **variables}
    ended = python("-m", "director", "doctor", *words, **variables)
    assert ended.returncode == 1, f"{ended.stdout}\n{ended.stderr}"
    assert _SECRET not in ended.stdout + ended.stderr
    return ended.stdout


def _by_subject(output: str) -> dict[str, Any]:
    return {one["subject"]: one for one in json.loads(output)["findings"]}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A Director with a good, an old, a very old and an offline backend: its folder and port."""
    folder = tmp_path_factory.mktemp("doctor")
    with (
        SimulatorThread(version="0.33.0", vram_gb=24.0) as good,
        SimulatorThread(version="0.3.50") as old,
        SimulatorThread(version="0.3.40") as ancient,
    ):
        served = Served(folder)
        urls = [good.url, old.url, ancient.url, "http://localhost:9"]
        for name, url in zip(("good", "old", "ancient", "away"), urls, strict=True):
            body = {"url": url, "backend_id": name, "headers": {"Authorization": _SECRET}}
            assert served.ask("POST", "/api/backends", json=body).status_code == 201
        yield folder, served.url.rsplit(":", 1)[1]
        stop_in_order(served)


def test_report_names_each_part_and_no_secret(farm: tuple[Path, str]) -> None:
    folder, port = farm
    variables = {"DIRECTOR_URL": "http://localhost:9820", "DIRECTOR_SUBMITTER": "ada@studio"}
    output = _doctor(folder, "--json", "--port", port, DIRECTOR_TOKEN=_SECRET, **variables)
    found = _by_subject(output)
    good, old = found["Backend good"], found["Backend old"]
    assert (good["level"], good["todo"]) == ("ok", "")
    assert "ComfyUI 0.33.0, cuda:0 Simulated 24 GB (24 GB), previews on, idle." in good["said"]
    assert (old["level"], "cannot be stopped" in old["said"]) == ("warning", True)
    assert found["Backend ancient"]["level"] == "problem"
    assert "too old" in found["Backend ancient"]["said"]
    assert found["Backend away"]["level"] == "problem"
    assert "director backends disable away" in found["Backend away"]["todo"]
    assert "answers and is degraded." in found[f"Port {port}"]["said"]
    assert "away" in found[f"Port {port}"]["said"]
    assert found["Settings"]["said"] == "Set: DIRECTOR_DATA_DIR, DIRECTOR_TOKEN."
    assert found["ffmpeg"]["level"] == ("ok" if shutil.which("ffmpeg") else "note")
    for subject in (
        "Python",
        "Settings",
        "Data folder",
        "Database",
        "Channel layer",
        "Runner",
        "Storage",
    ):
        assert found[subject]["level"] == "ok", found[subject]


def test_director_elsewhere_is_checked_by_what_it_reports(farm: tuple[Path, str]) -> None:
    folder, port = farm
    ended = python("-m", "director", "doctor", "--json", "--server", f"localhost:{port}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = _by_subject(ended.stdout)
    assert (found["Director"]["level"], found["Database"]["level"]) == ("ok", "ok")
    assert (found["Backends"]["level"], "away" in found["Backends"]["said"]) == ("warning", True)
    for url, said in (("localhost:9", "No answer from"), ("ftp://farm", "is not an address")):
        away = _by_subject(_doctor(folder, "--json", "--server", url))["Director"]
        assert (away["level"], said in away["said"]) == ("problem", True), away


def test_report_is_readable_in_a_terminal() -> None:
    out = io.StringIO()
    away = Finding(
        Level.PROBLEM, "http://localhost:9 does not answer.", "Is ComfyUI\nrunning there?"
    )
    Command(stdout=out)._print({"Python": Finding(Level.OK, "3.11"), "Backend away": away})
    assert out.getvalue().splitlines()[1:] == [
        "ok       Python: 3.11",
        "problem  Backend away: http://localhost:9 does not answer.",
        "         → Is ComfyUI",
        "         → running there?",
        "",
        "Problems: 1. Warnings: 0.",
    ]


def test_before_the_first_start_nothing_is_made(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DIRECTOR_DATA_DIR = tmp_path / "data"
    settings.DIRECTOR_ON_SQLITE = True
    monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / "data" / "db.sqlite3"))
    assert checks.database().level is Level.NOTE
    assert "serve makes it" in checks.data_folder().said
    assert list(tmp_path.iterdir()) == []


def test_wrong_setting_is_reported(settings: Any) -> None:
    settings.DIRECTOR_UNKNOWN_SETTINGS = ["DIRECTOR_BACKEND"]
    found = checks.variables()
    assert (found.level, "did you mean DIRECTOR_BACKENDS?" in found.said) == (Level.WARNING, True)
    settings.DIRECTOR_UNKNOWN_SETTINGS = []
    settings.DIRECTOR_BACKENDS = ["gpu-1:8188", f"http://ann:{_SECRET}@gpu-2:port"]
    found = checks.variables()
    assert found.level is Level.PROBLEM
    assert found.said.startswith("DIRECTOR_BACKENDS: address 2: ")
    assert _SECRET not in found.said


@pytest.mark.parametrize(
    ("urls", "secret", "count"),
    [(["https://a.example"], "", 1), ([], "", 0), (["x"], "whsec_x", 0)],
)
@pytest.mark.django_db
def test_farm_with_webhooks_needs_one_secret(
    settings: Any, monkeypatch: pytest.MonkeyPatch, urls: list[str], secret: str, count: int
) -> None:
    settings.DIRECTOR_ON_SQLITE, settings.DIRECTOR_WEBHOOK_URLS = False, urls
    monkeypatch.setenv("DIRECTOR_WEBHOOK_SECRET", secret)
    found = checks.webhooks()
    assert [one.level for one in found.values()] == [Level.WARNING] * count
    settings.DIRECTOR_ON_SQLITE = True
    assert checks.webhooks() == {}


def test_missing_ffmpeg_is_a_note(settings: Any) -> None:
    settings.FFMPEG = None
    found = checks.ffmpeg()
    assert (found.level, found.todo) == (
        Level.NOTE,
        "Install ffmpeg with ffprobe, and restart serve and runners.",
    )
    settings.FFMPEG = "/opt/ffmpeg"
    assert checks.ffmpeg().level is Level.OK


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that is never writable")
def test_data_folder_that_is_not_writable_is_a_problem(settings: Any) -> None:
    # Also for root, whom permissions do not stop.
    settings.DIRECTOR_DATA_DIR = Path("/proc")
    assert checks.data_folder().said.startswith("/proc cannot be written: ")
    settings.DIRECTOR_DATA_DIR = Path("/proc/nobody/data")
    assert "cannot be made: /proc cannot be written" in checks.data_folder().said


def test_check_of_the_data_folder_leaves_nothing_in_it(tmp_path: Path, settings: Any) -> None:
    settings.DIRECTOR_DATA_DIR = tmp_path / "file"
    settings.DIRECTOR_DATA_DIR.touch()
    found = checks.data_folder()
    assert (found.level, "is not a folder" in found.said) == (Level.PROBLEM, True)
    settings.DIRECTOR_DATA_DIR.unlink()
    settings.DIRECTOR_DATA_DIR = tmp_path
    assert checks.data_folder().level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_unreachable_database_is_a_problem(tmp_path: Path) -> None:
    url = f"postgres://director:{_SECRET}@127.0.0.1:9/director"
    found = _by_subject(_doctor(tmp_path, "--json", DIRECTOR_DATABASE_URL=url))["Database"]
    assert found["said"].startswith("PostgreSQL director at 127.0.0.1:9 does not open: ")


@pytest.mark.django_db
def test_absent_tables_are_a_note_and_those_of_another_release_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(connection.introspection, "table_names", list)
        found = checks.database()
    assert (found.level, found.todo) == (Level.NOTE, "director serve")
    assert found.said.endswith("it has no tables yet: serve makes them.")
    MigrationRecorder(connection).record_applied("jobgroups", "9999_from_tomorrow")
    assert "a newer release has used it (jobgroups 9999_from_tomorrow)" in checks.database().said
    MigrationRecorder.Migration.objects.filter(app="jobgroups").delete()
    found = checks.database()
    assert "older release" in found.said
    assert found.todo.startswith("director serve")


@pytest.mark.django_db
def test_database_that_refuses_writes_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_read_only", lambda: True)
    found = checks.database()
    assert (found.level, "refuses writes" in found.said) == (Level.PROBLEM, True)
    assert "DIRECTOR_DATABASE_URL to the primary server" in found.todo


@pytest.mark.django_db
def test_absent_runner_is_a_problem_and_absent_backends_are_a_warning(
    tmp_path: Path, settings: Any
) -> None:
    settings.DIRECTOR_DATA_DIR = tmp_path
    found = report.run_checks(9)
    assert found["Runner"].level is Level.PROBLEM
    assert "director serve" in found["Runner"].todo
    assert found["Backends"].level is Level.WARNING
    assert "director backends add" in found["Backends"].todo


def test_invalid_port_is_refused() -> None:
    for port in ("0", "65536", "-1", "http"):
        with pytest.raises(CommandError, match=f"'{port}' is not a port from 1 to 65535"):
            call_command("doctor", f"--port={port}")


def test_port_of_another_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_ANSWER_TIMEOUT_S", 0.3)
    with SimulatorThread() as other:
        found = checks.port(int(other.url.rsplit(":", 1)[1]))
        assert found.said == "Another program than a Director answers."
    with socket.create_server(("127.0.0.1", 0)) as silent:
        number = silent.getsockname()[1]
        found = checks.port(number)
        assert (found.level, "does not answer" in found.said) == (Level.PROBLEM, True)
    found = checks.port(number)
    assert (found.level, "doctor --port" in found.todo) == (Level.NOTE, True)


def _of(
    skew: float | None = 0.0,
    arguments: tuple[str, ...] = ("--preview-method", "auto"),
    version: str = "0.33.0",
    editor: str = "",
    **row: Any,
) -> Finding:
    device = Device(name="cuda:0", vram_total=24 * 2**30)
    stats = SystemStats(version=version, devices=(device,), arguments=arguments, editor=editor)
    backend = Backend(id="gpu-1", url="http://gpu-1:8188", **row)
    return _finding(backend, _Answer(stats, 0, skew))


def test_wrong_clock_is_a_warning() -> None:
    said = {3600.0: "3600 s ahead", -90.0: "90 s behind", None: "", 0.0: "", 59.0: "", -59.0: ""}
    for skew, text in said.items():
        found = _of(skew)
        assert found.level is (Level.WARNING if text else Level.OK)
        assert f"Its clock is {text}" in found.said or not text


def test_editor_that_is_too_old_for_a_backend_is_a_warning() -> None:
    pytest.importorskip("comfyui_frontend_package")
    found = _of(editor="99.1.0")
    assert (found.level, "requires version 99.1.0" in found.said) == (Level.WARNING, True)
    assert "'comfyui-frontend-package>=99.1.0'" in found.todo
    assert _of(editor="1.49.6").level is Level.OK


def test_previews_are_read_from_the_arguments_of_comfyui() -> None:
    option = "--preview-method"
    shown = {(option, "latent2rgb"): True, (f"{option}=taesd",): True, (): False}
    shown |= {(option, "none"): False, (option,): False}
    for arguments, has in shown.items():
        found = _of(arguments=arguments, version="0.3.64")
        assert ("previews on" in found.said, f"{option} auto" in found.todo) == (has, not has)
    # The Director requests them with the prompt.
    assert "previews on" in _of(arguments=(), version="0.5.0").said


def test_disabled_and_quarantined_backends_have_a_remedy() -> None:
    assert _of(enabled=False).todo == "director backends enable gpu-1"
    found = _of(quarantined_at=dt.datetime.now(dt.UTC), quarantine_reason="3 failures in 10 min")
    assert "quarantined: 3 failures in 10 min." in found.said
    assert found.todo == "director backends release gpu-1"


def test_problems_of_a_backend_are_ordered_worst_first() -> None:
    found = _of(-90.0, (), "0.3.64", hold="pause", changed_reason="driver update.")
    assert found.level is Level.WARNING
    clock, hold = found.said.index("90 s behind"), found.said.index(": driver update.")
    assert clock < hold
    assert found.todo.splitlines() == [
        "Synchronize its clock by NTP.",
        "director backends resume gpu-1",
        "Update ComfyUI there.",
        "For live previews start ComfyUI there with --preview-method auto.",
    ]


async def test_clock_of_a_backend_is_read_from_its_responses() -> None:
    async with Simulator() as sim, ComfyClient(sim.url) as comfy:
        clock = await comfy.clock()
    assert abs((clock - dt.datetime.now(dt.UTC)).total_seconds()) < 60


def test_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nstudio:/farm "
        f"{str(tmp_path / 'a b').replace(' ', chr(92) + '040')} nfs4 rw 0 0\n",
        encoding="utf-8",
    )
    assert checks.file_system(tmp_path / "a b" / "data", mounts) == "nfs4"
    assert checks.file_system(tmp_path / "c", mounts) == "ext4"
    assert checks.file_system(tmp_path, tmp_path / "absent") == ""


def test_backend_that_may_share_a_database_of_assets_has_a_remedy() -> None:
    rows = [Backend(id=f"gpu-{n}", name=f"gpu-{n}", url=f"http://gpu:{8188 + n}") for n in range(3)]
    rows.append(Backend(id="far", url="http://other:8188"))
    for version, arguments, shares in (
        ("0.33.0", (), False),
        ("0.33.0", ("--enable-assets",), True),
        ("0.45.0", (), True),
        ("0.45.0", ("--disable-assets",), False),
    ):
        stats = SystemStats(version=version, devices=(), arguments=arguments)
        answers = {
            "gpu-0": "refused",
            "gpu-1": _Answer(stats, 0, 0),
            "gpu-2": "refused",
            "far": _Answer(stats, 0, 0),
        }
        sharing = _sharing(rows[0], rows, answers)
        assert sharing == (["gpu-1"] if shares else [])
        assert ("--database-url" in _finding(rows[0], "refused", sharing).todo) == shares
