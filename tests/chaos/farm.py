"""The farm: PostgreSQL, Redis, web processes, runners and machines of both versions, each a process of its own."""

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from backends.simulator.config import RECORDED_VERSIONS
from tests.harness.machines import Build, Machines, plugged_in
from tests.harness.process_farm import TIME_SCALE, WEB
from tests.harness.processes import Launched, LaunchedRunner, Served
from tests.harness.servers import Postgres, Redis, own_redis, postgres

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


class Farm:
    """All processes. The runners' names are also the names of their connections to PostgreSQL."""

    def __init__(self, folder: Path, server: Postgres, redis_server: Redis, machines: Machines) -> None:
        self.postgres, self.redis, self.machines = server, redis_server, machines
        url = server.create("director")

        def of(name: str) -> tuple[Path, dict[str, str]]:
            (folder / name).mkdir()
            database = f"{url}?application_name={name}"
            return folder / name, _SETTINGS | {
                "DIRECTOR_DATABASE_URL": database,
                "DIRECTOR_REDIS_URL": redis_server.url,
            }

        self.webs: dict[str, Served] = {}
        self.runners: dict[str, LaunchedRunner] = {}
        for number in (1, 2):
            place, settings = of(f"web-{number}")
            web = Served(place, arguments=WEB, environment=settings, start=False, keeps_port=True)
            self.webs[place.name] = web
            place, settings = of(f"runner-{number}")
            self.runners[place.name] = LaunchedRunner(place, "--name", place.name, environment=settings)

    @property
    def all(self) -> list[Launched]:
        return [*self.webs.values(), *self.runners.values()]

    def start(self) -> None:
        """Start all at once over an empty database, and wait until every machine is online."""
        for one in self.all:
            one.start(wait=False)
        for one in self.all:
            one.wait_ready(90.0)
        with self.connect() as database:
            database.execute(Path(__file__).with_name("watch.sql").read_bytes())
        for machine in self.machines:
            answer = self.ask("POST", "/api/backends", json={"url": machine.url, "backend_id": machine.name})
            assert answer.status_code == 201, answer.text
        self.webs["web-1"].wait_online(60.0)

    def connect(self) -> psycopg.Connection[Any]:
        return self.postgres.connect("director")

    def wait_url(self) -> str:
        """Return the URL of one of the web processes."""
        return random.choice([one.url for one in self.webs.values()])

    def ask(self, method: str, path: str, *, within: float = 90.0, **options: Any) -> httpx.Response:
        """Send a request to one of the web processes; repeat it until it is answered."""
        end = time.monotonic() + within
        while True:
            text = "no answer"
            with suppress(httpx.HTTPError):
                answer = httpx.request(method, f"{self.wait_url()}{path}", trust_env=False, timeout=20.0, **options)
                if answer.status_code < 500:
                    return answer
                text = f"{answer.status_code}: {answer.text}"
                assert answer.status_code == 503, text
                assert answer.headers.get("Retry-After") or "runner_absent" in text, text
            assert time.monotonic() < end, f"{method} {path}: {text}"
            time.sleep(0.3)

    def printed(self) -> str:
        return "\n".join(f"--- {one.folder.name}\n{one.printed()[-1500:]}" for one in self.all if one.starts)

    def stop(self) -> None:
        """End all processes in order; fail if one of their logs has an unexpected error."""
        for one in self.all:
            assert one.stop() == 0, one.printed()
        logs = [log for one in self.all for log in sorted(one.folder.glob("*.log"))]
        defects = [line for log in logs for line in _DEFECT.findall(log.read_text("utf-8", "replace"))]
        assert not defects, f"{len(defects)} unexpected errors: {defects[:5]}"


@contextmanager
def farm(folder: Path, *, seconds: float) -> Iterator[Farm]:
    """Build a farm, not started yet. Its machines' sampling times differ by half of ``seconds``."""
    builds = [
        Build(f"gpu-{n}", seconds * (0.75 + n / (2 * _MACHINES)), version=RECORDED_VERSIONS[n % 2])
        for n in range(1, _MACHINES + 1)
    ]
    with postgres() as server, own_redis() as redis_server, plugged_in(folder, builds) as machines:
        built = Farm(folder, server, redis_server, machines)
        try:
            yield built
        finally:
            for one in built.all:
                one.close()
            with suppress(FileNotFoundError):
                (folder / "postgres.log").write_bytes((server.folder / "log").read_bytes())
