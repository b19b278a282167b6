"""Several runners over one PostgreSQL: each has its share, one takes over from another, none flaps."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.faults.preload import library, needs_preload
from tests.harness import laws
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import Launched, refused, stop_in_order
from tests.harness.servers import Postgres, Redis, needs_servers
from tests.harness.simulators import Gpus, picture, simulated
from tests.harness.waits import until

pytestmark = [pytest.mark.timeout(180), needs_servers, pytest.mark.slow]

#: Seconds after which what a vanished host drove must be another runner's.
VANISHED = 15.0
BACKENDS = 8


class Leases:
    """What stands in the rows about leases."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._url, autocommit=True) as database:
            return database.execute(query).fetchall()  # type: ignore[arg-type]

    def held(self) -> Counter[str]:
        """Return how many backends each runner has whose lease has not ended."""
        found = self._rows("SELECT runner FROM jobgroups_lease WHERE until > now() AND runner <> ''")
        return Counter(str(name) for (name,) in found)

    def epochs(self) -> dict[str, int]:
        """Return how often each backend was taken."""
        found = self._rows("SELECT backend_id, epoch FROM jobgroups_lease")
        return {str(name): int(str(epoch)) for name, epoch in found}

    def attempts(self) -> Counter[str]:
        """Return how many attempts ended how."""
        found = self._rows("SELECT state FROM jobgroups_attempt")
        return Counter(str(state) for (state,) in found)

    def doubtful(self) -> int:
        """Return of how many attempts nobody knew for a while whether they had arrived."""
        (found,) = self._rows("SELECT count(*) FROM jobgroups_attempt WHERE uncertain_since IS NOT NULL")
        return int(str(found[0]))

    def wait(self, within: float = 20.0, **held: int) -> float:
        """Wait until the runners have so many backends each; return after how many seconds."""
        wanted = Counter({name.replace("_", "-"): count for name, count in held.items()})
        began = time.monotonic()
        while self.held() != wanted:
            gone = time.monotonic() - began
            assert gone < within, f"after {gone:.1f} s: {self.held()}, not {wanted}"
            time.sleep(0.1)
        return time.monotonic() - began


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Gpus]:
    with simulated(tmp_path, count=BACKENDS, seconds=1.0) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, gpus: Gpus, url: str, redis_server: Redis) -> Iterator[ProcessFarm]:
    made = ProcessFarm(tmp_path, gpus, DIRECTOR_DATABASE_URL=url, DIRECTOR_REDIS_URL=redis_server.url)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def leases(url: str) -> Leases:
    return Leases(url)


def pause(runner: Launched) -> None:
    """Have a process stand still."""
    os.killpg(runner.process.pid, signal.SIGSTOP)


def wake(runner: Launched) -> None:
    """Have it go on."""
    os.killpg(runner.process.pid, signal.SIGCONT)


def test_runners_share_the_backends_while_they_work_and_no_attempt_suffers(farm: ProcessFarm, leases: Leases) -> None:
    """One comes, one ends in order, one dies: each time the others have all, and nothing is sent twice."""
    farm.web.start()
    farm.runner("room-1")
    leases.wait(room_1=8)
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 8)
    farm.gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 8)
    second = farm.runner("room-2")
    leases.wait(room_1=4, room_2=4)
    settled = leases.epochs()
    time.sleep(4.0)
    assert leases.epochs() == settled, "backends went to and fro"
    third = farm.runner("room-3")
    until(lambda: sorted(leases.held().values()) == [2, 3, 3], within=20.0)
    stop_in_order(third)
    assert leases.wait(room_1=4, room_2=4) < 6.0
    assert leases.doubtful() == 0, "backends were given up in the middle of sending"
    second.kill()
    took = leases.wait(room_1=8)
    assert took < 9.0, f"its lock was free at once, and it took {took:.1f} s"
    assert farm.wait_complete(group_id)["status"] == "completed"
    jobs = sorted(child["job_id"] for child in farm.group(group_id)["child_jobs"])
    assert laws.executed_once(farm.gpus.seen()) == jobs
    assert "never_accepted" not in leases.attempts()


def test_a_runner_that_was_paused_says_so_writes_nothing_and_gets_its_share_again(
    farm: ProcessFarm, leases: Leases
) -> None:
    farm.web.start()
    first = farm.runner("room-1")
    farm.runner("room-2")
    leases.wait(room_1=4, room_2=4)
    farm.web.wait_online()
    group_id = farm.web.submit(picture(), farm.gpus.ids * 3)
    farm.gpus.wait_seen(lambda seen: sum(e["kind"] == "started" for e in seen) >= 8)
    pause(first)
    took = leases.wait(room_2=8)
    assert took <= VANISHED, f"it took {took:.1f} s"
    time.sleep(3.0)
    taken = leases.epochs()
    wake(first)
    said = first.wait_printed(r"This runner has renewed nothing for (\d+) s", within=10.0)
    assert int(said[1]) >= 12
    assert {name: epoch for name, epoch in leases.epochs().items() if epoch < taken[name]} == {}
    leases.wait(room_1=4, room_2=4)
    assert farm.wait_complete(group_id)["status"] == "completed"
    jobs = sorted(child["job_id"] for child in farm.group(group_id)["child_jobs"])
    assert laws.executed_once(farm.gpus.seen()) == jobs
    assert "Traceback" not in first.printed(), first.printed()


def test_a_name_is_one_runners_still_after_postgresql_was_restarted(
    farm: ProcessFarm, leases: Leases, server: Postgres, url: str, tmp_path: Path
) -> None:
    first = farm.runner("room-1")
    leases.wait(room_1=8)
    taken = leases.epochs()
    server.stop()
    server.start()
    until(lambda: _locks(url) >= 1)
    said = refused(tmp_path / "another", "runner", "--name", "room-1", DIRECTOR_DATABASE_URL=url)
    assert "A runner named room-1 is already running with this database" in said
    farm.runner("room-2")
    leases.wait(room_1=4, room_2=4)
    kept = [name for name, epoch in leases.epochs().items() if epoch == taken[name]]
    assert len(kept) == 4, "what it had was taken from it although it lives"
    assert "Traceback" not in first.printed(), first.printed()


@needs_preload
def test_a_machine_whose_clock_is_an_hour_ahead_takes_nothing_away(
    farm: ProcessFarm, leases: Leases, tmp_path: Path
) -> None:
    """Leases and heartbeats go by PostgreSQL's clock."""
    offset = tmp_path / "offset"
    offset.write_text("3600")
    farm.web.start()
    farm.runner("room-1")
    leases.wait(room_1=8)
    ahead = {"LD_PRELOAD": str(library("clock")), "CLOCK_OFFSET_FILE": str(offset)}
    farm.runner("room-2", **ahead)
    leases.wait(room_1=4, room_2=4)
    settled = leases.epochs()
    time.sleep(5.0)
    assert leases.epochs() == settled, "backends went to and fro"
    age = farm.check("runner")["detail"]
    assert age.startswith("2 alive; the last heartbeat was "), age


def _locks(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as database:
        row = database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    assert row is not None
    return int(row[0])
