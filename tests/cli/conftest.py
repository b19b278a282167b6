"""The real command, as a process, against a real Director with three simulated ComfyUIs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backends.simulator.threaded import SimulatorThread
from director.client import Director
from director.demo.workflow import text_to_picture
from tests.served import ROOT, Served, serving

#: Seconds for a command that takes one on an idle machine.
PATIENCE_S = 60.0
NAMES = ("gpu-1", "gpu-2", "gpu-3")


@dataclass
class Desk:
    """Somebody at a shell: a folder with a workflow in it, and a Director that is running.

    Attributes:
        folder: where commands are run.
        variables: of the environment, for all of them.
    """

    folder: Path
    url: str
    sims: SimulatorThread
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str | None) -> dict[str, str]:
        """Return the environment of a command; None unsets a variable."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
        ours = {"PYTHONPATH": str(ROOT), "DIRECTOR_URL": self.url, **self.variables}
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
        """Run a command to its end; fail if it ends with another status, or with a traceback."""
        ended = subprocess.run(
            [sys.executable, "-m", "director", *words],
            cwd=self.folder,
            env=self.environment(**variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        said = f"{words}\n{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == status, f"status {ended.returncode}: {said}"
        assert "Traceback" not in ended.stderr, said
        return ended

    def out(self, *words: str, **options: Any) -> str:
        """Return what a command prints on standard output."""
        return self.run(*words, **options).stdout

    def said(self, *words: str, **options: Any) -> str:
        """Return what a command says on standard error."""
        return self.run(*words, **options).stderr

    def json(self, *words: str, **options: Any) -> Any:
        """Return the JSON that a command prints with ``--json``."""
        return json.loads(self.out(*words, "--json", **options))

    def lines(self, *words: str, **options: Any) -> list[dict[str, Any]]:
        """Return the JSON lines that a command prints with ``--json``."""
        return [json.loads(line) for line in self.out(*words, "--json", **options).splitlines()]

    def group(self, *backends: str, fails: Sequence[int] = ()) -> str:
        """Render a group to its end and return its id; of ``fails``, the backends' numbers, none."""
        with Director(self.url) as director:
            # A fault hits whatever is rendered next: what other tests left running must be over.
            for status in ("pending", "running"):
                for group in director.list(status=status):
                    director.wait(group.job_group_id, timeout=PATIENCE_S)
            for number in fails:
                self.sims.fault("out_of_memory", on=number)
            made = director.submit(text_to_picture(), backends or NAMES)
            ended = director.wait(made.job_group_id, timeout=PATIENCE_S)
        assert ended.failed_count == len(fails), ended
        return ended.job_group_id


@pytest.fixture(scope="session")
def sims() -> Iterator[SimulatorThread]:
    """Three ComfyUIs that paint for half a second."""
    with SimulatorThread(3, seconds=0.5) as running:
        yield running


@pytest.fixture(scope="session")
def served(sims: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One Director for all tests; it knows the three by name."""
    with serving(tmp_path_factory.mktemp("director")) as running:
        for name, url in zip(NAMES, sims.urls, strict=True):
            body = {"url": url, "backend_id": name, "tags": ["all", f"{name[-1]}4gb"]}
            assert running.ask("POST", "/api/backends", json=body).status_code == 201
        running.wait_online()
        yield running


@pytest.fixture
def desk(served: Served, sims: SimulatorThread, tmp_path: Path) -> Desk:
    """A shell in a folder of its own, with ``workflow.json``."""
    (tmp_path / "workflow.json").write_text(json.dumps(text_to_picture()), encoding="utf-8")
    return Desk(tmp_path, served.url, sims)
