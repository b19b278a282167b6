"""A Director of a test's own: its commands as processes, which can be killed and started again."""

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx
from filelock import FileLock

from tests.harness.servers import free_port, postgres
from tests.harness.waits import NO_TLS, until

ROOT = Path(__file__).resolve().parents[2]
#: How many processes a ``serve`` of the tests is, unless a test says it: one starts in half the CPU
#: time.
PROCESSES = "DIRECTOR_TEST_PROCESSES"
#: The variable with the folder that the processes of a test run share.
SHARED = "DIRECTOR_TEST_SHARED"


class Launched:
    """A long-running command, its present or last process, and what that printed.

    The settings of the person who runs the tests do not leak into its ``environment``. ``program``
    is what Python runs; with ``has_stdin``, the test writes to its standard input.
    """

    #: What it prints when it is ready; a group is what the tests want to know of it.
    ready: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    cwd: ClassVar[Path] = ROOT

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
        """Start it, with more variables for this life; wait until it reports that it is ready."""
        self.starts += 1
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.cwd,
                env=self.environment | variables,
                stdin=self._stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def _command(self) -> list[str]:
        return [sys.executable, *self._program, *self._words]

    @property
    def _log(self) -> Path:
        return self.folder / f"{Path(self._words[0]).name}-{self.starts}.log"

    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, within: float = 90.0) -> None:
        self.wait_printed(self.ready, within)

    def wait_printed(self, what: re.Pattern[str] | str, within: float = 90.0) -> re.Match[str]:
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
        return self.starts > 0 and self.process.poll() is None

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process.poll() is None, f"it had ended:\n{self.printed()}"
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(
        self,
        number: int = signal.SIGTERM,
        *,
        within: float = 30.0,
        again_after: float | None = None,
    ) -> int:
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
        if self.runs:
            self.kill()


class LaunchedRunner(Launched):
    """``runner`` as a process. Not started yet."""

    ready = re.compile(r"Runner (\S+) is ready")

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("manage.py",),
    ) -> None:
        variables = settings_of(folder, environment=environment)
        super().__init__(folder, ["runner", *arguments], variables, program=program)


class LaunchedFiles(Launched):
    """``files`` as a process. Not started yet."""

    ready = re.compile(r"The files process is ready")

    def __init__(self, folder: Path, *, environment: Mapping[str, str]) -> None:
        super().__init__(folder, ["files"], settings_of(folder, environment=environment))


_COMMANDS = frozenset({"serve", "runner", "files"})


class Served(Launched):
    """``serve`` as a process, and where it answers; with ``keeps_port``, there again after each
    start.

    With ``start``, it finds the tables in its data folder: to create them takes as long as all the
    rest of a start.
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
        port = str(free_port()) if keeps_port else "0"
        if not {"--no-runner", "--processes"} & set(arguments):
            arguments = ("--processes", os.environ.get(PROCESSES, "1"), *arguments)
        self.is_supervised = "3" in arguments
        words = ["serve", *(port if word == "0" else word for word in arguments)]
        super().__init__(folder, words, variables, program=program, has_stdin=has_stdin)
        self.data = Path(variables["DIRECTOR_DATA_DIR"])
        self.url = ""
        if start:
            if "DIRECTOR_DATABASE_URL" not in variables and not self.data.exists():
                shutil.copytree(migrated(), self.data)
            self.start()

    def wait_ready(self, within: float = 90.0) -> None:
        self.url = self.wait_printed(self.ready, within)[1]

    def wait_url(self) -> str:
        return self.url

    def children(self) -> dict[str, int]:
        """Return the ids of the processes that ``serve`` has started: web, runner, files."""
        found = {}
        with suppress(FileNotFoundError):
            for pid in (
                Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
                .read_text()
                .split()
            ):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                # Until a new process has its program, it has the command line of its parent.
                if "--inherited" in words:
                    found |= {
                        {"serve": "web"}.get(word, word): int(pid)
                        for word in words
                        if word in _COMMANDS
                    }
        return found

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make one request, on a connection of its own."""
        url = f"{self.wait_url()}{path}"
        return httpx.request(method, url, trust_env=False, verify=NO_TLS, timeout=60.0, **options)

    def submit(self, workflow: Mapping[str, Any], backend_ids: Sequence[str], **fields: Any) -> str:
        body = {"workflow_json": workflow, "backend_ids": backend_ids, **fields}
        answer = self.ask("POST", "/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        group_id: str = answer.json()["job_group_id"]
        return group_id

    def group(self, group_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/api/job-groups/{group_id}").json()
        return found

    def wait_ended(self, group_id: str, within: float = 90.0) -> dict[str, Any]:
        """Return a group once it has ended."""
        until(lambda: self.group(group_id)["completed_at"], within)
        return self.group(group_id)

    def wait_online(self, within: float = 90.0) -> None:
        def statuses() -> set[str]:
            rows = self.ask("GET", "/api/backends").json()["backends"]
            return {row["status"] for row in rows}

        until(lambda: statuses() <= {"online", "busy"}, within, statuses)


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def python(
    *words: str, within: float = 120.0, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end, in the source tree ``cwd`` and without this
    process's settings.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def refused(folder: Path, *words: str, **environment: str) -> str:
    done = python("manage.py", *words, **settings_of(folder) | environment)
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


def stop_in_order(
    *processes: Launched,
    number: int = signal.SIGTERM,
    within: float = 30.0,
    again_after: float | None = None,
) -> None:
    """End processes side by side by one signal or two, and check time, exit status and logs."""

    def stop(one: Launched) -> int:
        return one.stop(number, within=within, again_after=again_after)

    with ThreadPoolExecutor() as threads:
        codes = list(threads.map(stop, processes))
    for one, code in zip(processes, codes, strict=True):
        assert code == 0, f"it ended with {code}:\n{one.printed()}"
        assert "Traceback" not in one.printed(), one.printed()


@functools.cache
def migrated() -> Path:
    """Return a data folder whose database is up to date, made once a run.

    To migrate takes as long as all the rest of a start.
    """
    folder = shared_folder() / "migrated"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            new = folder.with_suffix(".new")
            new.mkdir()
            done = python("manage.py", "migrate", "-v", "0", DIRECTOR_DATA_DIR=str(new))
            assert done.returncode == 0, done.stderr
            new.rename(folder)
    return folder


#: The database in the data folder of ``migrated_postgres``.
MIGRATED = "migrated"


@functools.cache
def migrated_postgres() -> Path:
    """Return the data folder of a stopped PostgreSQL with a migrated database, made once a run."""
    folder = shared_folder() / "postgres"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            with postgres() as server:
                done = python(
                    "manage.py",
                    "migrate",
                    "-v",
                    "0",
                    DIRECTOR_DATA_DIR=str(shared_folder()),
                    DIRECTOR_DATABASE_URL=server.create(MIGRATED),
                )
                assert done.returncode == 0, done.stderr
                server.stop("fast")
                server.data.rename(folder)
    return folder


def shared_folder() -> Path:
    """Return a folder that the processes of a test run share, made by the first."""
    if SHARED not in os.environ:
        # PostgreSQL, which does not run as root, reads it; root's other temporary folders are
        # closed.
        place = "/tmp" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
        os.environ[SHARED] = tempfile.mkdtemp(prefix="director-shared-", dir=place)
        Path(os.environ[SHARED]).chmod(0o755)
        atexit.register(shutil.rmtree, os.environ[SHARED], ignore_errors=True)
    return Path(os.environ[SHARED])


def filled(folder: Path, script: str, *, within: float = 120.0, **environment: str) -> str:
    """Fill the database of a Director that is to be in a folder by a script, and return its output."""
    shutil.copytree(migrated(), folder / "data")
    settings = {
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "director.settings")
    }
    settings |= {"DIRECTOR_DATA_DIR": str(folder / "data"), **environment}
    done = python("-c", f"import django; django.setup()\n{script}", within=within, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout
