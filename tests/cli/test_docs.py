"""Every example of docs/cli.md runs, in the page's order."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backends.simulator.threaded import SimulatorThread
from director.cli.app import _CLIENT, _LOCAL
from director.cli.exit_status import Status
from tests.cli.conftest import Desk
from tests.harness.processes import ROOT

_PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
#: tests/e2e/test_demo.py runs the demo.
_EXAMPLES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", _PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("director demo")
]
#: Commands that run until a signal, and their output when they are ready.
_LONG = {"serve": "Director is ready", "simulate": "simulated ComfyUI at"}
_GROUP, _JOB = "jg_0c1d9a77e3f2", "j_91ce44d07b3a"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``director`` in it, for PATH."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "director"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m director "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


def _in_shell(desk: Desk, shell: Path, line: str) -> subprocess.Popen[str]:
    path = f"{shell}:/usr/bin:/bin"
    return subprocess.Popen(
        ["/bin/sh", "-c", f"exec {line}" if line.startswith("director") else line],
        cwd=desk.folder,
        env=desk.environment(PATH=path, DIRECTOR_DATA_DIR=str(desk.folder / "data"), DIRECTOR_DISCOVER="0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _prepared(desk: Desk, line: str) -> str:
    """Replace the ids of the page by those of a group with a failed job."""
    if _GROUP in line and "move" in line.split():
        # The job is queued on a backend that is paused until the line has run.
        desk.run("backends", "pause", "gpu-1")
        group_id = desk.json("submit", "workflow.json", "-b", "gpu-1")["job_group_id"]
        job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
        line = line.replace(_GROUP, group_id).replace(_JOB, job)
    elif _GROUP in line:
        group_id = desk.group("gpu-1", "gpu-2", fails=[1])
        job = desk.json("show", group_id)["child_jobs"][1]["job_id"]
        line = line.replace(_GROUP, group_id).replace(_JOB, job)
    return line


def _ends(line: str) -> set[int]:
    """Return the allowed exit statuses: a watched group has a failed job here."""
    if re.match(r"director (watch|doctor)", line):
        return {int(Status.OK), int(Status.FAILED)}
    return {int(Status.OK)}


def _run_long(desk: Desk, shell: Path, line: str, ready: str) -> None:
    process = _in_shell(desk, shell, f"{line} --port 0")
    try:
        assert process.stdout is not None
        for said in process.stdout:
            if ready in said:
                break
        else:
            raise AssertionError(f"{line} was never ready: {process.communicate()}")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors


@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a POSIX shell")
@pytest.mark.timeout(600)
def test_every_example_runs(desk: Desk, shell: Path) -> None:
    assert len(_EXAMPLES) > 40
    desk.run("submit", "workflow.json", "-b", "gpu-1", "--save", "made")
    [image] = (desk.folder / "made").iterdir()
    shutil.copy(image, desk.folder / "image.png")
    (desk.folder / "prompt.txt").write_text("a red fox\n", encoding="utf-8")
    with SimulatorThread(seconds=0.2) as attic:
        for line in _EXAMPLES:
            words = line.split()
            if words[:1] == ["director"] and words[1] in _LONG:
                _run_long(desk, shell, line, _LONG[words[1]])
                continue
            address = attic.url.removeprefix("http://")
            ours = _prepared(desk, line.replace("192.168.100.6:8188", address))
            if words[0] == "director" and words[1] in _CLIENT and "watch" not in words:
                desk.run(*shlex.split(ours)[1:])
            else:
                process = _in_shell(desk, shell, ours)
                out, errors = process.communicate(timeout=120)
                assert process.returncode in _ends(line), f"{line}\n{out}\n{errors}"
                assert "Traceback" not in errors, f"{line}\n{errors}"
            if "move" in words:
                desk.run("backends", "resume", "gpu-1")
            if "retry" in words or "move" in words:
                desk.run("watch", desk.json("list", "-n", "1")[0]["job_group_id"])


def test_page_lists_every_exit_status() -> None:
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", _PAGE, re.MULTILINE)}
    assert listed == {int(status) for status in Status}


def test_page_has_every_command() -> None:
    for name in [*_CLIENT, *_LOCAL]:
        assert f"director {name}" in _PAGE, name
