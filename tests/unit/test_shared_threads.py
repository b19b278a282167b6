"""Shares of the threads of a process: work that hangs takes no thread from another kind."""

import threading
from concurrent.futures import wait

import pytest

from jobgroups.database.shared_threads import Share


def test_share_that_hangs_takes_its_own_threads_alone() -> None:
    hanging, other = Share(2), Share(1)
    started, end = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        started.release()
        end.wait(20)

    stuck = [hanging.submit(hang) for _ in range(3)]
    try:
        assert started.acquire(timeout=10)
        assert started.acquire(timeout=10)
        assert other.submit(lambda: "done").result(10) == "done"
        assert not started.acquire(blocking=False)
        assert stuck[2].cancel()  # it has not begun
    finally:
        end.set()
    wait(stuck, 10)
    assert stuck[2].cancelled()
    hanging.shutdown()
    other.shutdown()


def test_share_of_one_keeps_the_order_and_passes_errors_on() -> None:
    share = Share(1)
    seen: list[int] = []
    done = [share.submit(seen.append, number) for number in range(100)]
    failed = share.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    wait(done, 10)
    assert seen == list(range(100))
    share.shutdown()


def test_end_of_a_share_waits_for_its_work_and_takes_no_more() -> None:
    share = Share(1)
    may_end, seen = threading.Event(), list[str]()

    def work(name: str) -> None:
        may_end.wait(20)
        seen.append(name)

    for name in ("first", "second"):
        share.submit(work, name)
    threading.Timer(0.05, may_end.set).start()
    share.shutdown()
    assert seen == ["first", "second"]
    with pytest.raises(RuntimeError):
        share.submit(work, "third")
