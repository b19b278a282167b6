"""Tests of ``tests/db`` on a PostgreSQL of their own, for breakages that SQLite, with one writer, hides.

``make test-postgres`` runs the same tests, so these are slow ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.processes import ROOT
from tests.harness.servers import Postgres, needs_servers

pytestmark = [pytest.mark.timeout(180), needs_servers, pytest.mark.slow]


def run(server: Postgres, folder: Path, *files: str) -> None:
    """Run test files against the server, and hold that they pass and that not all are skipped."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DIRECTOR_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=inherited | {"DIRECTOR_DATA_DIR": str(folder / "data"), "DIRECTOR_DATABASE_URL": server.url("director")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def test_leases_on_postgresql(server: Postgres, tmp_path: Path) -> None:
    run(server, tmp_path, "tests/db/test_leasing.py", "tests/db/test_lease_fences.py")


def test_attempts_on_postgresql(server: Postgres, tmp_path: Path) -> None:
    run(server, tmp_path, "tests/db/test_attempt_services.py", "tests/db/test_late_ends.py")


def test_all_at_once_on_postgresql(server: Postgres, tmp_path: Path) -> None:
    run(server, tmp_path, "tests/db/test_all_at_once.py", "tests/db/test_events.py")


def test_cut_off_by_postgresql(server: Postgres, tmp_path: Path) -> None:
    run(server, tmp_path, "tests/db/test_cut_off.py")
