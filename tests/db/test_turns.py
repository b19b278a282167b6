"""The order in which processes write to one SQLite file: real processes, with and without a
database.
"""

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from django.db import connection, transaction

from jobgroups.database.sqlite3 import turn as turn_module
from jobgroups.database.sqlite3.turn import Turn
from jobgroups.database.threads import DatabaseThreads
from tests.harness import factories

pytestmark = pytest.mark.skipif(
    connection.vendor != "sqlite", reason="the order of writers on SQLite"
)

#: Has its turn at once, says so, and ends it after a line on its input.
_HOLDS: Final = "turn.begin(); print('has it', flush=True); input(); turn.end(); input()"
#: Writes without a pause, in transactions that a counter counts.
_WRITES: Final = """
import sqlite3
rows = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
print("writes", flush=True)
while True:
    turn.begin()
    rows.execute("BEGIN IMMEDIATE")
    rows.execute("UPDATE written SET number = number + 1")
    rows.execute("COMMIT")
    turn.end()
"""


class Processes:
    """Processes that take turns at one database."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, code: str, database: str, *, waits: bool = False) -> subprocess.Popen[str]:
        """Start a process, which begins after a line on its input if it ``waits``."""
        code = f"input(); {code}" if waits else code
        begins = (
            "import sys; from jobgroups.database.sqlite3.turn import Turn; turn = "
            "Turn(sys.argv[1]);"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-c", begins + code, database], text=True, **pipes
        )  # type: ignore[call-overload]
        self._started.append(process)
        return process

    def holder(self, database: str) -> subprocess.Popen[str]:
        process = self.start(_HOLDS, database)
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "rows.sqlite3")


def _within(seconds: float, condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_turn_is_given_by_a_process_that_ends_it_and_by_one_that_is_killed(
    processes: Processes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "_WITHIN", 60.0)
    turn = Turn(database)
    for ends in (lambda one: print(file=one.stdin, flush=True), lambda one: one.kill()):
        holder = processes.holder(database)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(turn.begin)
            time.sleep(0.1)
            assert not waiting.done()
            ends(holder)
            assert waiting.result(30)
        turn.end()


def test_process_that_waits_is_seen_and_its_turn_is_next_also_if_it_is_killed(
    processes: Processes, database: str
) -> None:
    turn = Turn(database)
    assert turn.begin()
    assert not turn.is_wanted()
    other = processes.start(_HOLDS, database)
    _within(10, turn.is_wanted)
    other.kill()
    _within(5, lambda: not turn.is_wanted())
    other = processes.start(_HOLDS, database)
    _within(10, turn.is_wanted)
    turn.end()
    # Not at once again: the other one is first.
    assert other.stdout is not None
    assert other.stdout.readline() == "has it\n"
    print(file=other.stdin, flush=True)
    assert turn.begin()


@pytest.mark.django_db(transaction=True)
def test_suspended_process_is_waited_for_once_within_a_bound(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = str(connection.settings_dict["NAME"])
    holder = processes.holder(database)
    os.kill(holder.pid, signal.SIGSTOP)
    waits: list[tuple[bool, float]] = []
    wait = Turn._wait

    def note(turn: Turn, locks: tuple[int, int]) -> bool:
        began = time.monotonic()
        has_turn = wait(turn, locks)
        waits.append((has_turn, time.monotonic() - began))
        return has_turn

    monkeypatch.setattr(Turn, "_wait", note)
    for number in range(3):
        with transaction.atomic():
            factories.backend(f"gpu-{number}")
    ((has_turn, seconds),) = waits
    assert not has_turn
    assert seconds >= turn_module._WITHIN
    print(file=holder.stdin, flush=True)
    os.kill(holder.pid, signal.SIGCONT)
    turn = turn_module.Turn(database)
    assert turn.begin()
    turn.end()


def test_system_without_such_locks_writes_without_turns(tmp_path: Path) -> None:
    turn = Turn(str(tmp_path / "no folder" / "rows.sqlite3"))
    assert not turn.begin()
    assert not turn.begin()


@pytest.mark.django_db(transaction=True)
def test_long_batch_ends_when_another_process_waits(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "_WITHIN", 30.0)
    other = processes.start(_HOLDS, str(connection.settings_dict["NAME"]), waits=True)
    writer = DatabaseThreads(threads=1, name="test", batch_commits=True)
    is_queued = threading.Event()

    def first() -> None:
        print(file=other.stdin, flush=True)
        _within(10, lambda: connection.has_waiting_processes)  # type: ignore[attr-defined]
        assert is_queued.wait(10)
        time.sleep(0.01)

    try:
        is_under_way = threading.Event()
        before = writer.submit(lambda: is_under_way.wait(10))
        jobs = [writer.submit(first), *(writer.submit(lambda: None) for _ in range(3))]
        is_under_way.set()
        is_queued.set()
        jobs[0].result(20)
        # Its turn is over: the other process has it, and the next job waits.
        assert not jobs[1].done()
        print(file=other.stdin, flush=True)
        for job in (before, *jobs):
            job.result(20)
    finally:
        writer.close()


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_write_without_a_pause_let_each_transaction_in(
    processes: Processes,
) -> None:
    """SQLite's own lock lets hundreds of transactions of one process pass between two of another."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE written AS SELECT 0 AS number")

    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT number FROM written")
            return int(cursor.fetchone()[0])

    try:
        for _ in range(2):
            process = processes.start(_WRITES, str(connection.settings_dict["NAME"]))
            assert process.stdout is not None
            assert process.stdout.readline() == "writes\n"
        passed = []
        for _ in range(60):
            time.sleep(0.02)
            before = count()
            with transaction.atomic():
                passed.append(count() - before)
    finally:
        processes.end()
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE written")
    assert statistics.mean(passed) > 0, passed
    assert statistics.median(passed) <= 4, passed
    # A process that the system does not run for a moment asks late for its turn.
    assert sorted(passed)[-4] <= 40, passed
