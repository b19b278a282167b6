"""Output to a closed pipe, a full disk, or no output at all: never a traceback."""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from director.client import Director, Unreachable
from tests.cli.conftest import Desk
from tests.harness.servers import free_port

_FULL = Path("/dev/full")


def _into_a_closed_pipe(desk: Desk, *words: str) -> tuple[int, str]:
    with desk.start(*words, environment={"DIRECTOR_DATA_DIR": str(desk.folder / "data")}) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        return process.wait(60), said


def test_save_into_a_closed_pipe_reports_no_unsaved_file(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2")
    assert _into_a_closed_pipe(desk, "save", group_id, "--to", "out") == (141, "")


@pytest.mark.parametrize("words", [["doctor"], ["manage", "check"], ["--help"], ["list"]])
def test_closed_pipe_ends_the_command(desk: Desk, words: list[str]) -> None:
    assert _into_a_closed_pipe(desk, *words) == (141, "")


def test_closed_pipe_does_not_end_the_server(desk: Desk, tmp_path: Path) -> None:
    port = str(free_port())
    environment = {"DIRECTOR_DATA_DIR": str(tmp_path / "data"), "DIRECTOR_DISCOVER": "0"}
    with desk.start("serve", "--port", port, environment=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        with Director(f"http://localhost:{port}") as director:
            until_it_answers(director)
            assert director.health().checks["runner"]["status"] == "ok"
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 0, said
    assert "Broken" not in said
    assert "defect" not in said


def until_it_answers(director: Director) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if director.health().checks["runner"]["status"] == "ok":
                return
        except Unreachable:
            pass
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.skipif(not _FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["backends"], ["--help"], ["doctor"]])
def test_full_disk_is_an_error(desk: Desk, words: list[str]) -> None:
    environment = {"DIRECTOR_DATA_DIR": str(desk.folder / "data")}
    with _FULL.open("w") as full, desk.start(*words, stdout=full, environment=environment) as process:
        assert process.stderr is not None
        assert process.stderr.read() == ("Error: The output cannot be written: No space left on device.\n")
        assert process.wait(60) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="for a POSIX shell")
def test_exit_status_needs_no_output(desk: Desk) -> None:
    script = f'exec "{sys.executable}" -m director "$@" >&-'
    with desk.start("backends", argv=["/bin/sh", "-c", script, "sh"]) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="for a POSIX shell")
def test_missing_standard_input_is_an_error(desk: Desk) -> None:
    script = f'exec "{sys.executable}" -m director "$@" <&-'
    with desk.start("submit", "-", "--all", argv=["/bin/sh", "-c", script, "sh"]) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "Error: Standard input is closed.\n")


def test_ctrl_c_ends_a_management_command_without_a_traceback(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        environment = {"DIRECTOR_DATA_DIR": str(desk.folder / "data")}
        with desk.start("doctor", "--port", port, environment=environment) as process:
            silent.settimeout(60)
            asking, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            asking.close()
    assert (process.returncode, said) == (130, "")
