"""The power fails under load: what is left opens, keeps every promise, and ends every group.

How far a power failure is imitated is told in :mod:`tests.e2e.faults.power`.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.faults import power
from tests.e2e.faults.power import Instant
from tests.e2e.faults.preload import library, needs_preload
from tests.harness import laws
from tests.harness.director import Director, directing, rows
from tests.harness.simulators import Gpus, picture, simulated

pytestmark = [needs_preload, pytest.mark.timeout(180), pytest.mark.slow]

INSTANTS = 8
SUBMITTERS = 3


@dataclass(slots=True)
class Load:
    """Threads that submit one group after the other, and note each that was promised."""

    director: Director
    gpus: Gpus
    promised: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def submit(self, number: int) -> None:
        """Submit until it is over."""
        dice = random.Random(number)
        try:
            while not self.over.is_set():
                named = dice.choices(self.gpus.ids, k=dice.randint(1, 4))
                self.promised.append(self.director.submit(picture(), named))
                self.over.wait(dice.uniform(0.0, 0.15))
        except BaseException as failure:  # noqa: BLE001 told by the fixture
            self.failures.append(failure)

    def wait_promised(self, count: int, within: float = 30.0) -> None:
        """Wait for so many promises."""
        end = time.monotonic() + within
        while len(self.promised) < count and not self.failures:
            assert time.monotonic() < end, f"only {len(self.promised)} groups were accepted"
            time.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Failures:
    """The instants that were taken, and the backends that were there."""

    gpus: Gpus
    instants: list[Instant]


@contextmanager
def loaded(load: Load) -> Iterator[None]:
    """Keep up a load while the block runs."""
    threads = [threading.Thread(target=load.submit, args=(n,)) for n in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.over.set()
        for thread in threads:
            thread.join()
    assert load.failures == []


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failures]:
    folder = tmp_path_factory.mktemp("power")
    durable = folder / "durable"
    environment = {
        "LD_PRELOAD": str(library("durable")),
        "DURABLE_OF": str(folder / "data"),
        "DURABLE_COPY": str(durable),
    }
    dice = random.Random(20_260_201)
    with simulated(folder, seconds=0.05) as gpus, directing(folder, gpus.urls, environment) as director:
        shutil.copytree(director.data, durable)
        director.start()
        director.wait_online()
        load = Load(director, gpus)
        instants = []
        with loaded(load):
            load.wait_promised(3)
            for number in range(INSTANTS):
                place = folder / f"instant-{number}"
                promised = frozenset(load.promised)
                instants.append(power.take(director, durable, place, promised))
                load.wait_promised(len(promised) + dice.randint(4, 9))
                time.sleep(dice.uniform(0.0, 0.1))
        director.kill()
        yield Failures(gpus, instants)


def check_opens(data: Path, promised: frozenset[str]) -> None:
    """Hold that the folder's database is whole and has every promised group with its children."""
    laws.check_file(data)
    stored = {one["id"] for one in rows(data, "SELECT id FROM jobgroups_jobgroup")}
    assert promised <= stored, f"promised, and lost: {promised - stored}"
    short = rows(
        data,
        "SELECT g.id FROM jobgroups_jobgroup g WHERE total_count <>"
        " (SELECT count(*) FROM jobgroups_childjob c WHERE c.group_id = g.id)",
    )
    assert short == []


def check_finishes(folder: Path, gpus: Gpus) -> None:
    """Hold that a Director over this folder, and backends that forgot everything, end every group."""
    gpus.wait_idle()
    gpus.forget_everything()
    director = Director(folder, gpus.urls)
    try:
        director.start()
        director.wait_settled(within=90.0)
        assert director.stop() == 0, director.printed()
        assert "Traceback" not in director.printed(), director.printed()
    finally:
        director.close()
    laws.check_file(director.data)
    laws.check_rows(director.data)


@pytest.mark.parametrize("number", range(INSTANTS))
def test_all_written_nothing_promised_is_lost(failures: Failures, number: int, tmp_path: Path) -> None:
    instant = failures.instants[number]
    power.kept(instant, tmp_path / "data")
    check_opens(tmp_path / "data", instant.promised)


@pytest.mark.parametrize("number", range(INSTANTS))
def test_unsynced_dropped_nothing_promised_is_lost(failures: Failures, number: int, tmp_path: Path) -> None:
    instant = failures.instants[number]
    power.dropped(instant, tmp_path / "data")
    check_opens(tmp_path / "data", instant.promised)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", range(INSTANTS))
def test_unsynced_torn_nothing_promised_is_lost(failures: Failures, number: int, seed: int, tmp_path: Path) -> None:
    instant = failures.instants[number]
    power.torn(instant, tmp_path / "data", random.Random(seed))
    check_opens(tmp_path / "data", instant.promised)


def test_something_was_unsynced_at_some_instant(failures: Failures, tmp_path: Path) -> None:
    """Else the two tests above would prove nothing."""
    doubtful = [
        power.torn(instant, tmp_path / str(number), random.Random(0))
        for number, instant in enumerate(failures.instants)
    ]
    assert any(doubtful), doubtful


@pytest.mark.parametrize("left", ["kept", "dropped", "torn"])
def test_a_director_over_what_is_left_ends_every_group(failures: Failures, left: str, tmp_path: Path) -> None:
    instant = failures.instants[-1]
    lay = {
        "kept": power.kept,
        "dropped": power.dropped,
        "torn": lambda one, data: power.torn(one, data, random.Random(7)),
    }
    lay[left](instant, tmp_path / "data")
    assert len(instant.promised) >= 3 + 4 * (INSTANTS - 1)
    check_finishes(tmp_path, failures.gpus)
    ended = {one["id"] for one in rows(tmp_path / "data", "SELECT id FROM jobgroups_jobgroup")}
    assert instant.promised <= ended


@pytest.mark.parametrize("at", ["a frame's end", "any byte"])
def test_a_log_cut_short_by_a_lying_disk_still_opens_and_finishes(failures: Failures, at: str, tmp_path: Path) -> None:
    """Then promises are lost with the disk's; what is left is whole, and goes on.

    Of the first instant, whose log was not yet copied into the database: what a checkpoint has taken
    over was synced before, by a disk that does not lie twice.
    """
    instant = failures.instants[0]
    ends = power.frames(instant)
    dice = random.Random(5)
    for _ in range(12):
        length = dice.choice(ends) if at == "a frame's end" else dice.randint(0, ends[-1])
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        power.cut(instant, tmp_path / "data", length)
        laws.check_file(tmp_path / "data")
    check_finishes(tmp_path, failures.gpus)
