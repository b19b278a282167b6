"""A PostgreSQL and a Redis of a test's own, which it may stop, freeze, kill and start again."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

_POSTGRES = "postgres"


def free_port() -> int:
    """Return a port of loopback without a listener.

    It is below the ports that systems give to clients: one of those could be taken before it is
    used.
    """
    while True:
        port = random.randint(12_000, 29_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_there(program: str) -> bool:
    """Whether a program of PostgreSQL's, or any other one, is installed."""
    return _found(program) is not None


def _found(program: str) -> str | None:
    # Debian keeps PostgreSQL's own programs off the path.
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(program, path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))


#: Where the services are required, a test that finds none of their programs fails.
needs_servers = pytest.mark.skipif(
    os.environ.get("DIRECTOR_TEST_SERVICES") != "required"
    and not (is_there("initdb") and is_there("redis-server")),
    reason="PostgreSQL's and Redis's own programs are not installed",
)


class Postgres:
    """A PostgreSQL server with a folder and a port of its own. Not started yet.

    ``data`` is the data folder of a stopped server that it begins with.
    """

    def __init__(self, *, durable: bool = False, data: Path | None = None) -> None:
        self.port = free_port()
        self._unsynced = "" if durable else "-F"
        # It refuses to run as root, and root's other temporary folders are closed to it.
        place = "/tmp" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="director-postgres-", dir=place))
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_POSTGRES)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.data = self.folder / "data"
        if data is None:
            self._run("initdb", "-U", _POSTGRES, "-A", "trust", "-N", "-D", str(self.data))
        else:
            self._run("cp", "-R", str(data), str(self.data))

    def start(self) -> None:
        places = "-c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options = f"-p {self.port} {self._unsynced} {places}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it at once, and cut off its clients."""
        self._run("pg_ctl", "-w", "-m", mode, "-D", str(self.data), "stop")

    def freeze(self) -> None:
        """Have it answer nothing more, with every connection kept open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def create(self, name: str, template: str = "template1") -> str:
        """Create a database, a copy of the template, and return its URL."""
        with self.connect(_POSTGRES) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def url(self, name: str) -> str:
        """Return a database's URL, as ``DIRECTOR_DATABASE_URL`` takes it."""
        return f"postgres://{_POSTGRES}@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(name), autocommit=True, connect_timeout=30)

    @property
    def pid(self) -> int:
        """Its main process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped, frozen or not."""
        return (self.data / "postmaster.pid").exists()

    def close(self) -> None:
        if self.is_running:
            self.thaw()
            with suppress(subprocess.CalledProcessError):
                self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        main = self.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> None:
        path = _found(program)
        assert path is not None, f"{program} is not installed"
        subprocess.run(
            [path, *arguments],
            user=_POSTGRES if os.geteuid() == 0 else None,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


class Redis:
    """A Redis server with a port of its own, which keeps nothing. Not started yet."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = _found("redis-server")
        assert path is not None, "redis-server is not installed"
        self._process = subprocess.Popen(
            [path, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60.0
        with redis.Redis.from_url(self.url) as client:
            while True:
                with suppress(redis.ConnectionError):
                    if client.ping():
                        return
                assert time.monotonic() < end, "Redis does not answer"
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Have it answer nothing more, with every connection kept open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    close = stop


@contextmanager
def postgres(*, durable: bool = False, data: Path | None = None) -> Iterator[Postgres]:
    """Run a PostgreSQL until the block ends; ``durable``: one that syncs what it commits."""
    server = Postgres(durable=durable, data=data)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def own_redis() -> Iterator[Redis]:
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()
