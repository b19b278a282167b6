"""Requests that schemathesis makes of the OpenAPI document, to a real Director with simulated
backends.

``make fuzz CASES=100000`` sends so many, in pieces with a new Director each.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.harness.graphs import text_to_image
from tests.harness.processes import ROOT, Served
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

FOLDER = Path(__file__).parent
DOCUMENT = ROOT / "docs" / "openapi.yaml"
CASES = int(os.environ.get("FUZZ_CASES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def fuzz(folder: Path, *options: str) -> int:
    """Send requests to a new Director and return their number."""
    with SimulatorThread(3, seconds=0.1, lenient=True) as simulators:
        served = Served(folder, simulators.urls, environment={"DIRECTOR_MIN_FREE_BYTES": "0"})
        try:
            served.wait_online()
            config = folder / "schemathesis.toml"
            config.write_text(
                (FOLDER / "schemathesis.toml").read_text() + _known_ids(served.url),
                encoding="utf-8",
            )
            command = [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file",
                config,
                "run",
                DOCUMENT,
            ]
            done = subprocess.run(
                [*command, "--url", served.url, "--no-color", *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            said = re.sub(r"(\S{300})\S+", r"\1…", done.stdout)  # values may be very long
            assert done.returncode == 0, said[-20_000:] + done.stderr
            assert "Internal Server Error" not in served.printed()
        finally:
            served.close()
    return int(re.search(r"(\d+) generated", done.stdout)[1])


def _known_ids(url: str) -> str:
    """Return the part of the configuration with ids that exist: of two groups, one of which ended,
    and of their jobs.
    """
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        body = {"workflow_json": text_to_image(), "backend_ids": ["*"], "count": 3}
        groups = [http.post("/api/job-group", json=body).json() for _ in range(2)]
        first = f"/api/job-groups/{groups[0]['job_group_id']}"
        until(lambda: http.get(first).json()["completed_at"])
        asset = http.post("/api/assets", files={"file": ("a.png", b"abc")}).json()
        ids = {
            "group_id": [one["job_group_id"] for one in groups],
            "job_id": [groups[0]["child_jobs"][0]["job_id"]],
            "backend_id": [
                one["backend_id"] for one in http.get("/api/backends").json()["backends"]
            ],
            "asset_id": [asset["id"]],
            "asset_hash": [asset["hash"]],
            "number": ["0"],
        }
    return "".join(
        f'[dictionaries.{name}]\nvalues = {values}\n[parameters."path.{name}"]\ndictionary = '
        f'"{name}"\nprobability = 0.6\n'
        for name, values in ids.items()
    )


@pytest.mark.timeout(300)
@pytest.mark.skipif(CASES > 0, reason="the long run follows")
def test_answers_fit_the_document(tmp_path: Path) -> None:
    assert (
        fuzz(tmp_path, "--phases", "examples,fuzzing", "-n", "2", "--generation-deterministic")
        > 150
    )


@pytest.mark.timeout(0)
@pytest.mark.skipif(CASES == 0, reason="make fuzz CASES=100000")
def test_answers_fit_the_document_for_long(tmp_path: Path) -> None:
    done = 0
    for seed in itertools.count(SEED):
        (tmp_path / str(seed)).mkdir()
        options = [
            "--seed",
            str(seed),
            "-n",
            "30",
            "--continue-on-failure",
            "--generation-database",
            "none",
        ]
        done += fuzz(tmp_path / str(seed), *options)
        print(f"{done} of {CASES} cases; the seed was {seed}", flush=True)
        if done >= CASES:
            break
