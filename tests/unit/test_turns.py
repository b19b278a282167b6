"""Turns of writers: in the order in which they came, and nobody's twice while another waits."""

from __future__ import annotations

import threading
import time

from jobgroups.database.sqlite3.fifo_lock import FifoLock


def _wait_until_waiting(turns: FifoLock, count: int) -> None:
    end = time.monotonic() + 5.0
    while len(turns._waiting) != count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking() -> None:
    turns = FifoLock()
    assert turns.acquire(1.0)
    came: list[int] = []

    def ask(number: int) -> None:
        assert turns.acquire(5.0)
        came.append(number)
        turns.release()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for number, one in enumerate(threads):
        one.start()
        _wait_until_waiting(turns, number + 1)
    turns.release()
    for one in threads:
        one.join()
    assert came == list(range(8))
    assert turns.acquire(0.0)


def test_who_gives_a_turn_and_asks_again_is_behind_those_who_wait() -> None:
    """A runner that writes without pause keeps no submission waiting."""
    turns = FifoLock()
    assert turns.acquire(1.0)
    waits = threading.Thread(target=lambda: turns.acquire(5.0))
    waits.start()
    _wait_until_waiting(turns, 1)
    turns.release()
    assert not turns.acquire(0.05)
    waits.join()


def test_a_turn_that_does_not_come_in_time_is_nobodys() -> None:
    turns = FifoLock()
    assert turns.acquire(0.0)
    assert not turns.acquire(0.01)
    turns.release()
    assert turns.acquire(0.0)
