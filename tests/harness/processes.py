"""A Director of a test's own: its commands as processes, which can be killed and started again."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx

from tests.harness.waits import until

ROOT = Path(__file__).resolve().parents[2]


class Launched:
    """A long-running command, its present or last process, and what that printed.

    Args:
        folder: for its logs, one a start.
        words: the command and its arguments.
        environment: its settings; what the person who runs the tests has set does not leak in.
        program: what Python runs, instead of ``manage.py``.
        has_stdin: whether the test writes to its standard input, and closes it.
    """

    #: What it prints when it is ready; a group is what the tests want to know of it.
    ready: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        program: Sequence[str] = ("manage.py",),
        has_stdin: bool = False,
    ) -> None:
        self.folder = folder
        self.starts = 0
        self.process: subprocess.Popen[bytes]
        self._words = words
        self._program = program
        self._stdin = subprocess.PIPE if has_stdin else subprocess.DEVNULL
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
        self.environment = inherited | {"PYTHONUNBUFFERED": "1", **environment}

    def start(self, *, wait: bool = True, **variables: str) -> None:
        """Start it, with more variables for this life; wait until it reports that it is ready.

        Raises:
            AssertionError: it ended, or was not ready in time.
        """
        self.starts += 1
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program, *self._words],
                cwd=ROOT,
                env=self.environment | variables,
                stdin=self._stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    @property
    def _log(self) -> Path:
        return self.folder / f"{self._words[0]}-{self.starts}.log"

    def printed(self) -> str:
        """Return what its present or last process has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, within: float = 40.0) -> None:
        """Wait until it reports that it is ready."""
        self.wait_printed(self.ready, within)

    def wait_printed(self, what: re.Pattern[str] | str, within: float = 20.0) -> re.Match[str]:
        """Wait until it has printed something; fail if it ends before."""
        end = time.monotonic() + within
        while True:
            code = self.process.poll()
            found = re.search(what, self.printed())
            if found:
                return found
            assert code is None, f"{self._words[0]} ended with {code}:\n{self.printed()}"
            assert time.monotonic() < end, f"not {what!r} within {within} s:\n{self.printed()}"
            time.sleep(0.02)

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.starts > 0 and self.process.poll() is None

    def kill(self) -> None:
        """End it as a power cut does.

        Raises:
            AssertionError: it had ended before.
        """
        assert self.process.poll() is None, f"it had ended:\n{self.printed()}"
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM, *, within: float = 15.0, again_after: float | None = None) -> int:
        """Ask it to end, if wanted once more after some seconds, and return its exit status."""
        self.process.send_signal(number)
        if again_after is not None:
            time.sleep(again_after)
            self.process.send_signal(number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {within} s:\n{self.printed()}") from None

    def close(self) -> None:
        """Leave nothing running."""
        if self.runs:
            self.kill()


class LaunchedRunner(Launched):
    """``runner`` as a process. Not started yet."""

    ready = re.compile(r"Runner (\S+) is ready")

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, ["runner", *arguments], settings_of(folder, environment=environment))


class Served(Launched):
    """``serve`` as a process, and where it answers.

    Args:
        folder: for its data folder and its logs.
        backends: addresses to register.
        arguments: of ``serve``.
        environment: more variables.
        program: what Python runs, instead of ``manage.py``.
        start: whether to start it at once.
        keeps_port: whether it listens where it did before when it is started again.
        has_stdin: whether the test writes to its standard input, and closes it.
    """

    ready = re.compile(r"Director is ready at (http://\S+)")

    def __init__(
        self,
        folder: Path,
        backends: Sequence[str] = (),
        *,
        arguments: Sequence[str] = ("--port", "0"),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("manage.py",),
        start: bool = True,
        keeps_port: bool = False,
        has_stdin: bool = False,
    ) -> None:
        variables = settings_of(folder, backends, environment=environment)
        words = ["serve", *arguments]
        super().__init__(folder, words, variables, program=program, has_stdin=has_stdin)
        self.data = Path(variables["DIRECTOR_DATA_DIR"])
        self.url = ""
        self._keeps_port = keeps_port
        if start:
            self.start()

    def wait_ready(self, within: float = 40.0) -> None:
        """Wait until it reports that it is ready, and keep its URL."""
        self.url = self.wait_printed(self.ready, within)[1]
        if self._keeps_port:
            port = str(urlsplit(self.url).port)
            self._words = [port if word == "0" else word for word in self._words]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make one request, on a connection of its own."""
        return httpx.request(method, f"{self.url}{path}", trust_env=False, timeout=20.0, **options)

    def submit(self, workflow: Mapping[str, Any], backend_ids: Sequence[str], **fields: Any) -> str:
        """Submit a group, and return its id once it was promised."""
        body = {"workflow_json": workflow, "backend_ids": backend_ids, **fields}
        answer = self.ask("POST", "/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        group_id: str = answer.json()["job_group_id"]
        return group_id

    def wait_online(self, within: float = 20.0) -> None:
        """Wait until every registered backend is online."""

        def statuses() -> set[str]:
            rows = self.ask("GET", "/api/backends").json()["backends"]
            return {row["status"] for row in rows}

        until(lambda: statuses() <= {"online", "busy"}, within, statuses)


def refused(folder: Path, *words: str, **environment: str) -> str:
    """Start a command that must refuse, and return what it said."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=inherited | settings_of(folder) | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip()


def settings_of(
    folder: Path, backends: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the settings of a Director whose data folder is in ``folder``; it discovers nothing."""
    return {
        "DIRECTOR_DATA_DIR": str(folder / "data"),
        "DIRECTOR_BACKENDS": ",".join(backends),
        "DIRECTOR_DISCOVER": "0",
        **(environment or {}),
    }


@contextmanager
def serving(
    folder: Path, backends: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serve, with every backend online; end it in order, and fail after an unexpected error."""
    served = Served(folder, backends, environment=environment)
    try:
        served.wait_online()
        yield served
    finally:
        stop_in_order(served)


def stop_in_order(served: Launched) -> None:
    """End a process as its user does, and check its exit status and that its log has no traceback."""
    code = served.stop()
    assert code == 0, f"it ended with {code}:\n{served.printed()}"
    assert "Traceback" not in served.printed(), served.printed()


@functools.cache
def migrated() -> Path:
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
