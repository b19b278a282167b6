"""A Director as a process that may be killed at a step, and started again over what it has left."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.served import ROOT

_READY = re.compile(r"Director is ready at (http://\S+)")
#: The runner's times, shortened: an uncertain prompt is looked for 3 s instead of 30.
TIME_SCALE = "0.1"


@dataclass(frozen=True, slots=True)
class Step:
    """Where the plug is pulled: see ``plug``."""

    at: str
    moment: str
    call: int = 1


class Director:
    """One data folder, and the process that serves it now.

    Args:
        folder: for the data folder and the logs.
        backends: addresses to register.
        environment: more variables of every start.
    """

    def __init__(
        self, folder: Path, backends: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._backends = backends
        self._environment = environment or {}
        self._url: str | None = None
        self._url_known = threading.Condition()

    # --- its lives --------------------------------------------------------------------------------

    def start(self, step: Step | None = None, *, wait: bool = True) -> None:
        """Start ``serve``; with a step, one that kills itself there."""
        self.starts += 1
        self._note.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.killing.plug", "serve", "--port", "0"],
                cwd=ROOT,
                env=self._variables(step),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self._wait_ready()

    def _variables(self, step: Step | None) -> dict[str, str]:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
        variables |= {
            "DIRECTOR_DATA_DIR": str(self.data),
            "DIRECTOR_BACKENDS": ",".join(self._backends),
            "DIRECTOR_DISCOVER": "0",
            "DIRECTOR_TIME_SCALE": TIME_SCALE,
            "PYTHONUNBUFFERED": "1",
            "PLUG_NOTE": str(self._note),
        }
        if step is not None:
            variables |= {"PLUG_STEP": step.at, "PLUG_MOMENT": step.moment}
            variables |= {"PLUG_CALL": str(step.call)}
        return variables | self._environment

    @property
    def _log(self) -> Path:
        return self.folder / f"serve-{self.starts}.log"

    @property
    def _note(self) -> Path:
        return self.folder / "killed-at"

    def printed(self) -> str:
        """Return what its present or last process has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _wait_ready(self, within: float = 40.0) -> None:
        end = time.monotonic() + within
        while (found := _READY.search(self.printed())) is None:
            assert self.process is not None
            if self.process.poll() is not None:
                if self.process.returncode == -signal.SIGKILL and self._note.exists():
                    return  # as ordered, before it was ready
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.printed()}")
            assert time.monotonic() < end, f"not ready within {within} s:\n{self.printed()}"
            time.sleep(0.01)
        with self._url_known:
            self._url = found[1]
            self._url_known.notify_all()

    def wait_url(self, within: float = 60.0) -> str:
        """Return where it answers; while it is down, wait for its next start."""
        with self._url_known:
            assert self._url_known.wait_for(lambda: self._url is not None, within), "no Director"
            assert self._url is not None
            return self._url

    def wait_killed(self, within: float = 40.0) -> None:
        """Wait until it has pulled its own plug; fail if it never came to the step."""
        assert self.process is not None
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it never came to the step:\n{self.printed()}") from None
        self._forget_url()
        assert code == -signal.SIGKILL, f"ended with {code}:\n{self.printed()}"
        assert self._note.exists(), "somebody else killed it"

    def kill(self) -> None:
        """Pull the plug from outside."""
        assert self.process is not None
        self._forget_url()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(
        self,
        number: int = signal.SIGTERM,
        *,
        within: float = 20.0,
        again_after: float | None = None,
    ) -> int:
        """Ask it to end, if wanted once more after some seconds, and return its exit status."""
        assert self.process is not None
        self._forget_url()
        self.process.send_signal(number)
        if again_after is not None:
            time.sleep(again_after)
            self.process.send_signal(number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within} s:\n{self.printed()}") from None

    def _forget_url(self) -> None:
        with self._url_known:
            self._url = None

    def close(self) -> None:
        """Leave nothing running."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    # --- what is asked of it ----------------------------------------------------------------------

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make one request, on a connection of its own."""
        return httpx.request(
            method, f"{self.wait_url()}{path}", trust_env=False, timeout=20.0, **options
        )

    def submit(self, workflow: dict[str, Any], backend_ids: list[str], **fields: Any) -> str:
        """Submit a group, and return its id once it was promised."""
        body = {"workflow_json": workflow, "backend_ids": backend_ids, **fields}
        answer = self.ask("POST", "/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        group_id: str = answer.json()["job_group_id"]
        return group_id

    def wait_online(self, within: float = 20.0) -> None:
        """Wait until every backend is online."""
        end = time.monotonic() + within
        while True:
            rows = self.ask("GET", "/api/backends").json()["backends"]
            if rows and all(row["status"] in ("online", "busy") for row in rows):
                return
            assert time.monotonic() < end, rows
            time.sleep(0.02)

    # --- what it has left on disk -----------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Read its database file."""
        return rows(self.data, query, *values)

    def wait_settled(self, within: float = 40.0) -> None:
        """Wait until every group has ended and no attempt is active: all stops were honoured."""
        wait_settled(self, within)


def rows(data: Path, query: str, *values: Any) -> list[sqlite3.Row]:
    """Read the database file of a data folder."""
    with closing(sqlite3.connect(data / "director.sqlite3", timeout=20.0)) as database:
        database.row_factory = sqlite3.Row
        return database.execute(query, values).fetchall()


def wait_settled(director: Director, within: float) -> None:
    """Wait until every group of a Director has ended and no attempt is active."""
    end = time.monotonic() + within
    while True:
        left = director.rows(
            "SELECT id, status FROM jobgroups_jobgroup WHERE completed_at IS NULL"
            " UNION ALL SELECT prompt_id, state FROM jobgroups_attempt WHERE ended_at IS NULL"
        )
        if not left:
            return
        assert time.monotonic() < end, (
            f"not settled: {[tuple(one) for one in left[:10]]}\n{director.printed()[-3000:]}"
        )
        time.sleep(0.05)


@functools.cache
def _migrated() -> Path:
    """Return a data folder whose database is up to date, made once a run to save each test a second."""
    folder = Path(tempfile.mkdtemp(prefix="director-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v", "0"],
        cwd=ROOT,
        env=variables | {"DIRECTOR_DATA_DIR": str(folder)},
        check=True,
    )
    return folder


@contextmanager
def directing(
    folder: Path, backends: list[str], environment: dict[str, str] | None = None
) -> Iterator[Director]:
    """Give a Director that was not started yet; kill what is left of it at the end."""
    director = Director(folder, backends, environment)
    shutil.copytree(_migrated(), director.data, dirs_exist_ok=True)
    try:
        yield director
    finally:
        director.close()
