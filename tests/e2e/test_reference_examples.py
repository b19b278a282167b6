"""The examples of the API reference, run against a Director.

Only the placeholder ``{...}``, the ids and ports of the backends, and the Director's port differ.
TypeScript is compiled. A runtime without ``WebSocket`` gets one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import ROOT, Served, serving
from tests.harness.simulator_thread import SimulatorThread

REFERENCE = (ROOT / "docs" / "api-reference.md").read_text(encoding="utf-8")
IDS = ("localhost_8188", "192.168.100.6_8188", "192.168.100.7_8188")
WORKFLOW = """{
            "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20}}
        }"""


class Stage:
    """A Director over three simulated backends, and the reference's names for them."""

    def __init__(self, director: Served, backend_ids: list[str]) -> None:
        self.director = director
        self._names = {"localhost:9820": director.url.split("//", 1)[1]}
        for theirs, ours in zip(IDS, backend_ids, strict=True):
            self._names |= {f"{quote}{theirs}{quote}": f"{quote}{ours}{quote}" for quote in "\"'"}

    def example(self, language: str, containing: str) -> str:
        """Return the reference's code block that contains a text, with this stage's ids and ports."""
        blocks = re.findall(rf"```{language}\n(.*?)```", REFERENCE, re.DOTALL)
        text: str = next(block for block in blocks if containing in block)
        for theirs, ours in self._names.items():
            text = text.replace(theirs, ours)
        return text


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        SimulatorThread(count=3, seconds=0.5, lenient=True) as sims,
        serving(tmp_path_factory.mktemp("director"), sims.urls) as director,
    ):
        yield Stage(director, [f"localhost_{url.rsplit(':', 1)[1]}" for url in sims.urls])


def run(command: list[str], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_curl_examples_submit_read_and_cancel(stage: Stage, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")

    def answer(text: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            run(["bash", "-c", text.replace("curl", "curl -sS")], tmp_path)
        )
        return found

    made = answer(stage.example("bash", "-X POST http://localhost:9820/api/job-group"))
    assert made["status"] == "running"
    assert [child["status"] for child in made["child_jobs"]] == ["queued"] * 3
    assert made["child_jobs"][0]["seed"] == 42
    read, cancel = (
        stage.example("bash", text).replace("jg_abc123def456", made["job_group_id"])
        for text in ("curl http://localhost:9820/api/job-groups/jg_abc123def456\n", "-X DELETE")
    )
    assert answer(read)["total_count"] == 3
    counts = {"cancelled", "interrupted", "already_complete", "already_failed"}
    assert set(answer(cancel)) >= counts
    assert answer(cancel)["interrupted"] == 0


def test_the_python_example_polls_to_three_pictures(stage: Stage, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(stage.example("python", "async def submit_parallel_job"))
    printed = run([sys.executable, str(script)], tmp_path)
    assert "Job group created: jg_" in printed
    assert "Status: completed - 3/3 complete" in printed
    assert printed.count("    - ComfyUI_") == 3


def test_the_websocket_example_streams_to_the_end(stage: Stage, tmp_path: Path) -> None:
    text = stage.example("python", "async def submit_with_websocket")
    assert "{...}" in text
    script = tmp_path / "example.py"
    script.write_text(text.replace("{...}", WORKFLOW))
    printed = run([sys.executable, str(script)], tmp_path)
    assert "Connected to WebSocket" in printed
    assert printed.count("Completed! Seed:") == 2
    assert "Progress:" in printed
    assert printed.rstrip().endswith("Group complete: 2/2 succeeded")


def test_the_javascript_connection_example_receives_the_end(stage: Stage, tmp_path: Path) -> None:
    curl = stage.example("bash", "-X POST http://localhost:9820/api/job-group")
    body = json.loads(curl.split("-d '", 1)[1].rsplit("'", 1)[0])
    made = stage.director.submit(body.pop("workflow_json"), body.pop("backend_ids"), **body)
    text = stage.example("javascript", "new WebSocket").replace("jg_abc123def456", made)
    script = _with_websocket(tmp_path, text)
    # The example never closes its socket: a page would.
    script.write_text(
        script.read_text()
        + "\nws.addEventListener('message', (e) => {"
        + "if (JSON.parse(e.data).type === 'group_complete') ws.close(); });\n"
    )
    printed = run(["node", str(script)], tmp_path)
    assert "Connected to job group WebSocket" in printed
    assert "Received: initial_state" in printed
    assert "Received: group_complete" in printed
    assert "Disconnected:" in printed


def test_the_typescript_example_compiles_and_runs(stage: Stage, tmp_path: Path) -> None:
    text = stage.example("typescript", "submitParallelJob")
    modules = _node_modules("typescript")
    # A module, as its top-level await requires.
    (tmp_path / "example.ts").write_text(text + "\nexport {};\n")
    options = ["--target", "es2022", "--module", "esnext", "--lib", "es2022,dom", "--strict"]
    compiler = str(modules / "typescript" / "bin" / "tsc")
    run(["node", compiler, *options, "example.ts"], tmp_path)
    compiled = (tmp_path / "example.js").read_text()
    script = _with_websocket(tmp_path, compiled)
    printed = run(["node", str(script)], tmp_path)
    assert "Job group ID: jg_" in printed
    assert printed.count("Completed with 1 images") == 2
    assert "Group complete: 2/2 succeeded" in printed


def _with_websocket(folder: Path, code: str) -> Path:
    """Write a module; Node has a WebSocket only since version 22."""
    (folder / "node_modules").symlink_to(_node_modules("ws"))
    script = folder / "example.mjs"
    script.write_text("import { WebSocket as W } from 'ws';\nglobalThis.WebSocket ??= W;\n" + code)
    return script


def _node_modules(*packages: str) -> Path:
    """Return a ``node_modules`` folder that contains the packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("DIRECTOR_TEST_SERVICES") == "required":
            pytest.fail("node and npm are required")
        pytest.skip("no node and npm here")
    folder = ROOT / ".node"
    folder.mkdir(exist_ok=True)
    modules = folder / "node_modules"
    if any(not (modules / package).exists() for package in packages):
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        wanted = ["ws@8", "typescript@5"]
        done = subprocess.run(
            [*command, *wanted],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        if done.returncode != 0 and os.environ.get("DIRECTOR_TEST_SERVICES") != "required":
            pytest.skip("the npm registry does not answer")
        assert done.returncode == 0, done.stderr
    return modules
