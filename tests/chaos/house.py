"""The farm: PostgreSQL, Redis, web processes, runners and machines, each a process of its own."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from backends.simulator.config import RECORDED_VERSIONS
from tests.chaos import rows
from tests.harness.machines import Build, Machines, plugged_in
from tests.harness.processes import Launched, LaunchedRunner, Served
from tests.harness.servers import Postgres, Redis, own_redis, postgres

WEBS: Final = 2
RUNNERS: Final = 2
MACHINES: Final = 8
_DATABASE: Final = "director"

#: Times of the Director, so short that what is given up comes back while somebody waits.
_SETTINGS: Final = {
    "DIRECTOR_TIME_SCALE": "0.3",
    "DIRECTOR_RETRY_BACKOFF_SECONDS": "0.2",
    "DIRECTOR_MOVE_AFTER_SECONDS": "6",
    "DIRECTOR_QUARANTINE_FORGIVE_MINUTES": "0.1",
    "DIRECTOR_SECRET_KEY": "one-key-for-all-processes-of-the-farm-0123456789",
}
#: What a process logs of an error that the product does not handle.
DEFECT: Final = re.compile(
    r".*(?:met a defect|a defect at|because of a defect|cannot be prepared"
    r"|(?i:unexpected error|internal error)).*"
)


class House:
    """All processes. The runners' names are also the names of their connections to PostgreSQL."""

    def __init__(self, folder: Path, server: Postgres, redis_server: Redis, machines: Machines) -> None:
        self.postgres = server
        self.redis = redis_server
        self.machines = machines
        self._url = server.create(_DATABASE)
        self.webs = {f"web-{n}": self._web(folder / f"web-{n}") for n in range(1, WEBS + 1)}
        self.runners = {f"runner-{n}": self._runner(folder / f"runner-{n}") for n in range(1, RUNNERS + 1)}

    def _settings(self, name: str) -> dict[str, str]:
        database = f"{self._url}?application_name={name}"
        return {**_SETTINGS, "DIRECTOR_DATABASE_URL": database, "DIRECTOR_REDIS_URL": self.redis.url}

    def _web(self, folder: Path) -> Served:
        folder.mkdir()
        return Served(
            folder,
            arguments=("--no-runner", "--port", "0"),
            environment=self._settings(folder.name),
            start=False,
            keeps_port=True,
        )

    def _runner(self, folder: Path) -> LaunchedRunner:
        folder.mkdir()
        return LaunchedRunner(folder, "--name", folder.name, environment=self._settings(folder.name))

    @property
    def all(self) -> list[Launched]:
        return [*self.webs.values(), *self.runners.values()]

    def process(self, name: str) -> Launched:
        return (self.runners | self.webs | self.machines.by_name)[name]

    def start(self) -> None:
        """Start all at once over an empty database, and wait until every machine is online."""
        for one in self.all:
            one.start(wait=False)
        for one in self.all:
            one.wait_ready(90.0)
        with self.connect() as database:
            rows.watch_writers(database)
        for machine in self.machines.by_name.values():
            body = {"url": machine.url, "backend_id": machine.name}
            answer = self.webs["web-1"].ask("POST", "/api/backends", json=body)
            assert answer.status_code == 201, answer.text
        self.webs["web-1"].wait_online(60.0)

    def connect(self) -> psycopg.Connection[Any]:
        return self.postgres.connect(_DATABASE)

    def wait_url(self) -> str:
        """Return where one of the web processes answers, whichever."""
        return random.choice([one.url for one in self.webs.values() if one.url])

    def ask(self, method: str, path: str, *, within: float = 90.0, **options: Any) -> httpx.Response:
        """Make a request of one web or the other, again where it is not answered."""
        end = time.monotonic() + within
        while True:
            told = "no answer"
            with suppress(httpx.HTTPError):
                url = f"{self.wait_url()}{path}"
                answer = httpx.request(method, url, trust_env=False, timeout=20.0, **options)
                if answer.status_code < 500:
                    return answer
                told = f"{answer.status_code}: {answer.text}"
                assert answer.status_code == 503, told
                assert answer.headers.get("Retry-After") or "runner_absent" in told, told
            assert time.monotonic() < end, f"{method} {path}: {told}"
            time.sleep(0.3)

    def printed(self) -> str:
        said = [f"--- {one.folder.name}\n{one.printed()[-1500:]}" for one in self.all if one.starts]
        return "\n".join(said)

    def defects(self) -> list[str]:
        """Return what any process in any of its lives has said of a defect."""
        logs = [log for one in self.all for log in sorted(one.folder.glob("*.log"))]
        return [
            f"{log.parent.name}/{log.name}: {line}"
            for log in logs
            for line in DEFECT.findall(log.read_text(encoding="utf-8", errors="replace"))
        ]

    def stop(self) -> None:
        for one in self.all:
            assert one.stop() == 0, one.printed()

    def close(self) -> None:
        for one in self.all:
            if one.runs:
                signal_group(one, signal.SIGCONT)
            one.close()


def signal_group(one: Launched, number: int) -> None:
    os.killpg(one.process.pid, number)


@contextmanager
def house(folder: Path, *, seconds: float) -> Iterator[House]:
    """Build a farm, not started yet.

    Its machines' sampling times differ by half of ``seconds``, and every second one is a newer ComfyUI.
    """
    numbers = range(1, MACHINES + 1)
    builds = [
        Build(f"gpu-{n}", seconds * (0.75 + n / (2 * MACHINES)), version=RECORDED_VERSIONS[n % 2]) for n in numbers
    ]
    with postgres() as server, own_redis() as redis_server, plugged_in(folder, builds) as machines:
        built = House(folder, server, redis_server, machines)
        try:
            yield built
        finally:
            built.close()
            for machine in machines.by_name.values():
                if machine.runs:
                    signal_group(machine, signal.SIGCONT)
            log = server.folder / "log"
            if log.exists():
                (folder / "postgres.log").write_bytes(log.read_bytes())
