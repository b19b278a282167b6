"""The commands against a real Director with three simulated ComfyUIs."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from director.cli import app
from director.client import Director
from director.demo.workflow import text_to_image
from tests.harness.processes import ROOT, Served, serving
from tests.harness.simulator_thread import SimulatorThread

#: Seconds for a command that takes one on an idle machine.
PATIENCE_S = 60.0
NAMES = ("gpu-1", "gpu-2", "gpu-3")
#: A workflow with an input file.
LOAD = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "other.png"}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@dataclass
class Desk:
    """A shell: a folder with a workflow in it, and a running Director."""

    folder: Path
    url: str
    sims: SimulatorThread

    def environment(self, **more: str | None) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
        ours = {"PYTHONPATH": str(ROOT), "DIRECTOR_URL": self.url}
        return {k: v for k, v in {**inherited, **ours, **more}.items() if v is not None}

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command whose output is read by the test; ``argv``: what starts it."""
        more = options.pop("environment", {})
        argv = options.pop("argv", [sys.executable, "-m", "director"])
        return subprocess.Popen(
            [*argv, *words],
            cwd=self.folder,
            env=self.environment(PYTHONUNBUFFERED="1", **more),
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(
        self, *words: str, status: int = 0, stdin: str = "", **variables: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, one of the client in this process; fail for another status."""
        if app.is_for(words):
            ended = in_this_process(words, self.folder, self.environment(**variables), stdin)
        else:
            with self.start(*words, environment=variables, stdin=subprocess.DEVNULL) as process:
                out, err = process.communicate(timeout=PATIENCE_S)
            ended = subprocess.CompletedProcess(words, process.returncode, out, err)
        shown = f"{words}\n{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == status, f"status {ended.returncode}: {shown}"
        assert "Traceback" not in ended.stderr, shown
        return ended

    def out(self, *words: str, **options: Any) -> str:
        return self.run(*words, **options).stdout

    def said(self, *words: str, **options: Any) -> str:
        return self.run(*words, **options).stderr

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.out(*words, "--json", **options))

    def lines(self, *words: str, **options: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out(*words, "--json", **options).splitlines()]

    def newest(self) -> str | None:
        """Return the id of the newest group."""
        return next((str(group["job_group_id"]) for group in self.json("list", "-n", "1")), None)

    def group(self, *backends: str, fails: Sequence[int] = ()) -> str:
        """Run a group to its end and return its id; jobs on the backends with numbers ``fails``
        fail.
        """
        return run_group(self.url, self.sims, backends or NAMES, fails)


def run_group(
    url: str, sims: SimulatorThread, backends: Sequence[str], fails: Sequence[int] = ()
) -> str:
    with Director(url) as director:
        # A fault applies to the next prompt: what other tests left running must be over.
        for status in ("pending", "running") if fails else ():
            for group in director.list(status=status):
                director.wait(group.job_group_id, timeout=PATIENCE_S)
        for number in fails:
            sims.fault("out_of_memory", on=number)
        made = director.submit(text_to_image(), backends)
        ended = director.wait(made.job_group_id, timeout=PATIENCE_S)
    assert ended.failed_count == len(fails), ended
    return ended.job_group_id


def in_this_process(
    words: Sequence[str], folder: Path, environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of the client to its end, as if this process had been started for it."""
    standard = {
        name: io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
        for name, content in (("stdin", stdin.encode()), ("stdout", b""), ("stderr", b""))
    }
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        for name, stream in standard.items():
            patch.setattr(sys, name, stream)
        status = app.run(words)
    for stream in standard.values():
        stream.seek(0)
    out, err = standard["stdout"].read(), standard["stderr"].read()
    return subprocess.CompletedProcess(words, status, out, err)


@pytest.fixture(scope="session")
def sims() -> Iterator[SimulatorThread]:
    """Three ComfyUIs that run a prompt in 0.2 s."""
    with SimulatorThread(3, seconds=0.2) as running:
        yield running


@pytest.fixture(scope="session")
def served(sims: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("director")) as running:
        for name, url in zip(NAMES, sims.urls, strict=True):
            body = {"url": url, "backend_id": name, "tags": ["all", f"{name[-1]}4gb"]}
            assert running.ask("POST", "/api/backends", json=body).status_code == 201
        running.wait_online()
        yield running


@pytest.fixture(scope="session")
def failed_group(served: Served, sims: SimulatorThread) -> str:
    """A group whose job on gpu-1 completed and whose job on gpu-2 failed. Tests only read it."""
    return run_group(served.url, sims, ["gpu-1", "gpu-2"], fails=[1])


@pytest.fixture
def desk(served: Served, sims: SimulatorThread, tmp_path: Path) -> Desk:
    """A shell in a folder of its own, with ``workflow.json``."""
    (tmp_path / "workflow.json").write_text(json.dumps(text_to_image()), encoding="utf-8")
    return Desk(tmp_path, served.url, sims)
