"""Farms of processes with machines of both versions: PostgreSQL, Redis, webs and runners; and one
``serve`` with SQLite.
"""

import random
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from backends.simulator.config import RECORDED_VERSIONS
from director.server import listen
from tests.chaos import checks
from tests.harness.director import rows
from tests.harness.machines import Build, Machines, plugged_in
from tests.harness.process_farm import TIME_SCALE, WEB
from tests.harness.processes import Launched, LaunchedRunner, Served, is_alive
from tests.harness.servers import Postgres, Redis, own_redis, postgres
from tests.harness.waits import until

_MACHINES: Final = 8
#: Times of the Director, so short that an abandoned job is retried within the run.
_SETTINGS: Final = {
    "DIRECTOR_TIME_SCALE": TIME_SCALE,
    "DIRECTOR_RETRY_BACKOFF_SECONDS": "0.2",
    "DIRECTOR_MOVE_AFTER_SECONDS": "6",
    "DIRECTOR_QUARANTINE_FORGIVE_MINUTES": "0.1",
    "DIRECTOR_SECRET_KEY": "one-key-for-all-processes-of-the-farm-0123456789",
}
#: What a process logs of an error that the product does not handle.
_DEFECT: Final = re.compile(
    r".*(?:met a defect|a defect at|because of a defect|cannot be prepared"
    r"|(?i:unexpected error|internal error)).*"
)


class Farm(ABC):
    """All processes of the Director, and the machines."""

    has_leases = True  #: Whether several runners share the machines.

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.all: list[Launched] = []

    def start(self) -> None:
        """Start all at once over an empty database, and wait until every machine is online."""
        for one in self.all:
            one.start(wait=False)
        for one in self.all:
            one.wait_ready(90.0)
        for machine in self.machines:
            answer = self.ask(
                "POST", "/api/backends", json={"url": machine.url, "backend_id": machine.name}
            )
            assert answer.status_code == 201, answer.text
        self.webs[0].wait_online(60.0)

    @property
    def webs(self) -> list[Served]:
        return [one for one in self.all if isinstance(one, Served)]

    @abstractmethod
    def query(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""

    @abstractmethod
    def copy(self, folder: Path) -> None:
        """Copy the database into a folder, where the checks read it."""

    def wait_url(self) -> str:
        """Return the URL of one of the web processes."""
        return random.choice(self.webs).url

    def ask(
        self, method: str, path: str, *, within: float = 90.0, **options: Any
    ) -> httpx.Response:
        """Send a request to one of the web processes; repeat it until it is answered."""
        end = time.monotonic() + within
        while True:
            text = "no answer"
            with suppress(httpx.HTTPError):
                answer = httpx.request(
                    method, f"{self.wait_url()}{path}", trust_env=False, timeout=20.0, **options
                )
                if answer.status_code < 500:
                    return answer
                text = f"{answer.status_code}: {answer.text}"
                assert answer.status_code == 503, text
                assert answer.headers.get("Retry-After") or "runner_absent" in text, text
            assert time.monotonic() < end, f"{method} {path}: {text}"
            time.sleep(0.3)

    def printed(self) -> str:
        return "\n".join(
            f"--- {one.folder.name}\n{one.printed()[-1500:]}" for one in self.all if one.starts
        )

    def stop(self) -> None:
        """End all processes in order; fail if one of their logs has an unexpected error."""
        for one in self.all:
            assert one.stop() == 0, one.printed()
        logs = [log for one in self.all for log in sorted(one.folder.glob("*.log"))]
        defects = [
            line for log in logs for line in _DEFECT.findall(log.read_text("utf-8", "replace"))
        ]
        assert not defects, f"{len(defects)} unexpected errors: {defects[:5]}"


class PostgresFarm(Farm):
    """The names of the runners are also the names of their connections to PostgreSQL."""

    def __init__(
        self, folder: Path, server: Postgres, redis_server: Redis, machines: Machines
    ) -> None:
        super().__init__(machines)
        self.postgres, self.redis = server, redis_server
        url = server.create("director")

        def of(name: str) -> tuple[Path, dict[str, str]]:
            (folder / name).mkdir()
            database = f"{url}?application_name={name}"
            return folder / name, _SETTINGS | {
                "DIRECTOR_DATABASE_URL": database,
                "DIRECTOR_REDIS_URL": redis_server.url,
            }

        for number in (1, 2):
            place, settings = of(f"web-{number}")
            self.all.append(
                Served(place, arguments=WEB, environment=settings, start=False, keeps_port=True)
            )
            place, settings = of(f"runner-{number}")
            self.all.append(LaunchedRunner(place, "--name", place.name, environment=settings))

    def start(self) -> None:
        super().start()
        with self.connect() as database:
            database.execute(Path(__file__).with_name("watch.sql").read_bytes())

    def connect(self) -> psycopg.Connection[Any]:
        return self.postgres.connect("director")

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as database:
            return database.execute(query).fetchall()

    def copy(self, folder: Path) -> None:
        with self.connect() as database:
            checks.copy(database, folder)


class SqliteFarm(Farm):
    """One ``serve``, which starts web, runner and files."""

    has_leases = False

    def __init__(self, folder: Path, machines: Machines) -> None:
        super().__init__(machines)
        (folder / "serve").mkdir()
        self.serve = Served(
            folder / "serve",
            arguments=("--processes", "3", "--port", "0"),
            environment=_SETTINGS,
            start=False,
            keeps_port=True,
        )
        self.all.append(self.serve)
        self._seen: set[int] = set()

    def pids(self, names: str) -> list[int]:
        """Return the ids of processes, once all of them run."""

        def found() -> list[int | None]:
            known = self.serve.children() | {"serve": self.serve.process.pid}
            self._seen |= set(known.values())
            return [known.get(name) for name in names.split()]

        pids: list[int] = until(lambda: None not in (pids := found()) and pids, 90.0, self.printed)
        return pids

    def query(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in rows(self.serve.data, query)]

    def copy(self, folder: Path) -> None:
        with (
            closing(sqlite3.connect(self.serve.data / checks.DATABASE)) as database,
            closing(sqlite3.connect(folder / checks.DATABASE)) as copied,
        ):
            database.backup(copied)

    def stop(self) -> None:
        """Check also that no process is left, and that the port is free."""
        self.pids("web runner files")
        super().stop()
        listen.check_free(int(self.serve.url.rpartition(":")[2]))
        assert not [pid for pid in self._seen if is_alive(pid)]


@contextmanager
def farm(folder: Path, database: str, *, seconds: float) -> Iterator[Farm]:
    """Build a farm, not started yet. Its machines' sampling times differ by half of ``seconds``."""
    builds = [
        Build(f"gpu-{n}", seconds * (0.75 + n / (2 * _MACHINES)), version=RECORDED_VERSIONS[n % 2])
        for n in range(1, _MACHINES + 1)
    ]
    with ExitStack() as stack:
        machines = stack.enter_context(plugged_in(folder, builds))
        built: Farm
        if database == "sqlite":
            built = SqliteFarm(folder, machines)
        else:
            server, redis_server = stack.enter_context(postgres()), stack.enter_context(own_redis())
            built = PostgresFarm(folder, server, redis_server, machines)
        try:
            yield built
        finally:
            for one in built.all:
                one.close()
            if isinstance(built, PostgresFarm):
                with suppress(FileNotFoundError):
                    (folder / "postgres.log").write_bytes(
                        (built.postgres.folder / "log").read_bytes()
                    )
