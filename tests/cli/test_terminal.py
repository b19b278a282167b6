import os
import re
import sys
import time

import pytest

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals on Windows", allow_module_level=True)

import fcntl
import pty
import struct
import termios

from tests.cli.conftest import Desk

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38|48)[;m]")


def _on_terminal(
    desk: Desk,
    *words: str,
    columns: int = 100,
    rows: int = 30,
    keys: str = "",
    cue: str = "KSampler",
    **variables: str,
) -> tuple[int, str]:
    """Run a command on a terminal, type the keys once it shows the cue; return status and output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **variables}
    process = desk.start(
        *words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        environment=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    said = b""
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                said += os.read(ours, 65536)
            except OSError:  # the other end is closed: EIO
                break
            if keys and cue in said.decode(errors="replace"):
                os.write(ours, keys.encode())
                keys = ""
        return process.wait(60), said.decode(errors="replace")
    finally:
        process.kill()
        os.close(ours)


def _lines(said: str) -> list[str]:
    return [line for part in _ANSI.sub("\n", said).splitlines() if (line := part.rstrip("\r"))]


def test_no_color_switches_colours_off(desk: Desk) -> None:
    words = ["submit", "workflow.json", "-b", "gpu-1", "--watch"]
    assert _COLOUR.search(_on_terminal(desk, *words)[1])
    assert not _COLOUR.search(_on_terminal(desk, *words, NO_COLOR="1")[1])
    assert _COLOUR.search(_on_terminal(desk, "list")[1])
    assert not _COLOUR.search(_on_terminal(desk, "list", NO_COLOR="1")[1])


def test_removal_of_a_backend_names_what_is_lost_and_asks(desk: Desk) -> None:
    desk.run("backends", "add", "localhost:9", "--id", "attic")
    words = ["backends", "remove", "attic"]
    status, said = _on_terminal(desk, *words, keys="n\n", cue="[y/N]")
    assert (status, "Nothing was removed." in said) == (130, True)
    assert "Outputs not copied yet can no longer be loaded. Remove 1 backend?" in " ".join(
        said.split()
    )
    assert _on_terminal(desk, *words, keys="y\n", cue="[y/N]")[0] == 0
    assert "attic" not in desk.out("backends")


def test_ctrl_c_leaves_the_group_running_and_restores_the_terminal(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=3.0)
    words = ["submit", "workflow.json", "-b", "gpu-1", "--watch"]
    status, said = _on_terminal(desk, *words, keys="\x03")
    found = re.search(r"Stopped watching. (jg_\w+) continues.", said)
    assert found is not None, said
    assert (status, "Error" in said, "Traceback" in said) == (130, False, False)
    assert f"Watch it:  director watch {found[1]}" in said
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"), "the cursor is still hidden"
    assert desk.json("show", found[1])["status"] == "running"
    desk.run("cancel", found[1])


def test_table_fits_into_the_terminal_and_cuts_no_id(desk: Desk) -> None:
    note = "shot " * 30
    words = ["submit", "workflow.json", "-b", "gpu-1", "--meta", f"scene={note}", "-q"]
    group_id = desk.out(*words).strip()
    job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
    for shown, name in (("list", group_id), (f"show {group_id}", job), ("backends", "gpu-1")):
        assert name in _on_terminal(desk, *shown.split(), columns=40)[1]
    _, said = _on_terminal(desk, "list", "-n", "1", columns=90)
    assert max(len(line) for line in _lines(said)) <= 90
    assert "…" in said
    assert note.strip() in desk.out("list", "-n", "1")
