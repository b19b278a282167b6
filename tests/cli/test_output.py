import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from director.client import Director, Unreachable
from tests.cli.conftest import Desk
from tests.harness.servers import free_port
from tests.harness.waits import until

_FULL = Path("/dev/full")


@pytest.mark.parametrize("line", ["doctor", "list", "save GROUP --to out"])
def test_closed_pipe_ends_the_command_without_a_message(
    desk: Desk, failed_group: str, line: str
) -> None:
    words = line.replace("GROUP", failed_group).split()
    environment = {"DIRECTOR_DATA_DIR": str(desk.folder / "data")}
    with desk.start(*words, environment=environment) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 141)


def test_closed_pipe_does_not_end_the_server(desk: Desk) -> None:
    port = str(free_port())
    environment = {"DIRECTOR_DATA_DIR": str(desk.folder / "data"), "DIRECTOR_DISCOVER": "0"}
    with desk.start("serve", "--port", port, environment=environment) as process:
        process.stdout.close()
        with Director(f"http://localhost:{port}") as director:

            def runs() -> bool:
                with suppress(Unreachable):
                    return director.health().checks["runner"]["status"] == "ok"
                return False

            until(runs)
        process.terminate()
        said = process.stderr.read()
        assert process.wait(60) == 0, said
    assert "Broken" not in said
    assert "defect" not in said


@pytest.mark.skipif(not _FULL.exists(), reason="needs /dev/full")
def test_full_disk_is_an_error(desk: Desk) -> None:
    with _FULL.open("w") as full, desk.start("backends", stdout=full) as process:
        assert process.stderr.read() == (
            "Error: The output cannot be written: No space left on device.\n"
        )
        assert process.wait(60) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="for a POSIX shell")
@pytest.mark.parametrize(
    ("words", "closed", "ends"),
    [
        (["backends"], ">&-", (0, "")),
        (["submit", "-", "--all"], "<&-", (2, "Error: Standard input is closed.\n")),
    ],
)
def test_closed_standard_stream_is_no_traceback(
    desk: Desk, words: list[str], closed: str, ends: tuple[int, str]
) -> None:
    script = f'exec "{sys.executable}" -m director "$@" {closed}'
    with desk.start(*words, argv=["/bin/sh", "-c", script, "sh"]) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == ends


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
