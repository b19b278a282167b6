"""On a terminal: bars that fit into it, colours unless NO_COLOR, Ctrl-C from the keyboard."""

from __future__ import annotations

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
    desk: Desk, *words: str, columns: int = 100, rows: int = 30, keys: str = "", **variables: str
) -> tuple[int, str]:
    """Run a command on a terminal of that size; return its status and all that it wrote there.

    Args:
        keys: typed once the command shows that something was started.
    """
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
            if keys and "KSampler" in said.decode(errors="replace"):
                os.write(ours, keys.encode())
                keys = ""
        return process.wait(20), said.decode(errors="replace")
    finally:
        process.kill()
        os.close(ours)


def _lines(said: str) -> list[str]:
    """Return what stood on the terminal, without control sequences."""
    return [line for part in _ANSI.sub("\n", said).splitlines() if (line := part.rstrip("\r"))]


@pytest.mark.parametrize("columns", [40, 100])
def test_bars_fit_into_the_terminal(desk: Desk, columns: int) -> None:
    words = ["submit", "workflow.json", "--all", "--count", "6", "--watch"]
    status, said = _on_terminal(desk, *words, columns=columns)
    assert status == 0, said
    bars = [line for line in _lines(said) if "━" in line or "─" in line]
    assert bars
    assert max(len(line) for line in bars) <= columns
    assert "6 completed in" in said


def test_jobs_without_a_line_are_counted(desk: Desk) -> None:
    words = ["submit", "workflow.json", "--all", "--count", "9", "--watch"]
    status, said = _on_terminal(desk, *words, rows=8)
    assert status == 0, said
    assert re.search(r"and 4 more: .*queued", said), said


def test_no_color_switches_colours_off(desk: Desk) -> None:
    words = ["submit", "workflow.json", "-b", "gpu-1", "--watch"]
    assert _COLOUR.search(_on_terminal(desk, *words)[1])
    assert not _COLOUR.search(_on_terminal(desk, *words, NO_COLOR="1")[1])
    assert _COLOUR.search(_on_terminal(desk, "list")[1])
    assert not _COLOUR.search(_on_terminal(desk, "list", NO_COLOR="1")[1])


def test_ctrl_c_on_the_keyboard_restores_the_terminal(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=3.0)
    words = ["submit", "workflow.json", "-b", "gpu-1", "--watch"]
    status, said = _on_terminal(desk, *words, keys="\x03")
    assert status == 130, said
    assert "Stopped watching. jg_" in said
    assert "Error" not in said
    assert "Watch it:  director watch jg_" in said
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"), "the cursor is still hidden"
    assert "Traceback" not in said


def test_narrow_table_cuts_no_id(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
    assert group_id in _on_terminal(desk, "list", columns=40)[1]
    assert job in _on_terminal(desk, "show", group_id, columns=40)[1]
    assert "gpu-1" in _on_terminal(desk, "backends", columns=40)[1]


def test_table_is_cut_at_the_edge_of_the_terminal(desk: Desk) -> None:
    note = "scene=" + "shot " * 30
    desk.run("submit", "workflow.json", "-b", "gpu-1", "--meta", note, "-q")
    _, said = _on_terminal(desk, "list", "-n", "1", columns=90)
    assert max(len(line) for line in _lines(said)) <= 90
    assert "…" in said
    assert note.split("=")[1].strip() in desk.out("list", "-n", "1")
