"""The power fails under load: what is left opens, has every accepted group, and ends every group."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.faults import power
from tests.e2e.faults.power import Instant
from tests.e2e.faults.preload import library, needs_preload
from tests.harness import laws
from tests.harness.director import Director, directing, rows
from tests.harness.graphs import picture
from tests.harness.machines import Machines, simulated
from tests.harness.processes import stop_in_order
from tests.harness.waits import until

pytestmark = [needs_preload, pytest.mark.timeout(180), pytest.mark.slow]

INSTANTS = 8
SUBMITTERS = 3
#: Name → how the folder is made of an instant.
LEFT: dict[str, Callable[[Instant, Path], object]] = {
    "kept": power.kept,
    "dropped": power.dropped,
    **{f"torn-{seed}": partial(power.torn, seed=seed) for seed in range(4)},
}


@dataclass(slots=True)
class Load:
    """Threads that submit one group after the other, and note each that was accepted."""

    director: Director
    gpus: Machines
    accepted: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def submit(self, number: int) -> None:
        dice = random.Random(number)
        try:
            while not self.over.is_set():
                named = dice.choices(self.gpus.ids, k=dice.randint(1, 4))
                self.accepted.append(self.director.submit(picture(), named))
                self.over.wait(dice.uniform(0.0, 0.15))
        except BaseException as failure:  # noqa: BLE001 raised by the fixture
            self.failures.append(failure)

    def wait_accepted(self, count: int) -> None:
        until(lambda: len(self.accepted) >= count or self.failures)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.submit, args=(n,)) for n in range(SUBMITTERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        assert self.failures == []


@dataclass(frozen=True, slots=True)
class Failures:
    """The copies, and the backends that were there."""

    gpus: Machines
    instants: list[Instant]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failures]:
    folder = tmp_path_factory.mktemp("power")
    durable = folder / "durable"
    environment = {
        "LD_PRELOAD": str(library("durable")),
        "DURABLE_OF": str(folder / "data"),
        "DURABLE_COPY": str(durable),
        # Of the database alone: captured files are not copied beside it.
        "DIRECTOR_FILES_DIR": str(folder / "files"),
    }
    dice = random.Random(20_260_201)
    with (
        simulated(folder, seconds=0.05) as gpus,
        directing(folder, gpus.urls, environment) as director,
    ):
        shutil.copytree(director.data, durable)
        director.start()
        director.wait_online()
        load = Load(director, gpus)
        instants = []
        with load.running():
            load.wait_accepted(3)
            for number in range(INSTANTS):
                accepted = frozenset(load.accepted)
                copies = folder / f"instant-{number}"
                instants.append(power.take(director, durable, copies, accepted))
                load.wait_accepted(len(accepted) + dice.randint(4, 9))
                time.sleep(dice.uniform(0.0, 0.1))
        director.kill()
        yield Failures(gpus, instants)


def check_ends_every_group(folder: Path, gpus: Machines) -> None:
    """Check that a Director over this folder, and backends without history, end every group."""
    gpus.wait_idle()
    gpus.forget_everything()
    director = Director(folder, gpus.urls)
    try:
        director.start()
        director.wait_settled(within=90.0)
        stop_in_order(director)
    finally:
        director.close()
    laws.check_file(director.data)
    laws.check_rows(director.data)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("number", range(INSTANTS))
def test_no_accepted_group_is_lost(
    failures: Failures, number: int, left: str, tmp_path: Path
) -> None:
    instant, data = failures.instants[number], tmp_path / "data"
    LEFT[left](instant, data)
    laws.check_file(data)
    stored = {one["id"] for one in rows(data, "SELECT id FROM jobgroups_jobgroup")}
    assert instant.accepted <= stored, f"lost: {instant.accepted - stored}"
    incomplete = (
        "SELECT g.id FROM jobgroups_jobgroup g WHERE total_count <>"
        " (SELECT count(*) FROM jobgroups_childjob c WHERE c.group_id = g.id)"
    )
    assert rows(data, incomplete) == []


def test_some_sectors_were_unsynced_at_some_instant(failures: Failures, tmp_path: Path) -> None:
    """Otherwise the test above proves nothing."""
    assert any(
        power.torn(instant, tmp_path / str(number), 0)
        for number, instant in enumerate(failures.instants)
    )


@pytest.mark.parametrize("left", ["kept", "dropped", "torn-3"])
def test_director_over_what_is_left_ends_every_group(
    failures: Failures, left: str, tmp_path: Path
) -> None:
    instant = failures.instants[-1]
    LEFT[left](instant, tmp_path / "data")
    assert len(instant.accepted) >= 3 + 4 * (INSTANTS - 1)
    check_ends_every_group(tmp_path, failures.gpus)
    stored = {one["id"] for one in rows(tmp_path / "data", "SELECT id FROM jobgroups_jobgroup")}
    assert instant.accepted <= stored


@pytest.mark.parametrize("at", ["a frame's end", "any byte"])
def test_log_that_a_disk_cut_short_opens_and_its_groups_end(
    failures: Failures, at: str, tmp_path: Path
) -> None:
    """Of the first instant, before any checkpoint. Accepted groups may be lost with the log's end."""
    instant = failures.instants[0]
    ends = power.frame_ends(instant)
    dice = random.Random(5)
    for _ in range(12):
        length = dice.choice(ends) if at == "a frame's end" else dice.randint(0, ends[-1])
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        power.cut(instant, tmp_path / "data", length)
        laws.check_file(tmp_path / "data")
    check_ends_every_group(tmp_path, failures.gpus)
