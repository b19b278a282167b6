import threading
import time

from jobgroups.database.sqlite3.base import FifoLock


def test_lock_goes_to_the_thread_that_waited_longest() -> None:
    """A runner that writes without pause does not delay a submission."""
    lock = FifoLock()
    assert lock.acquire(1.0)
    order: list[int] = []

    def wait(number: int) -> None:
        assert lock.acquire(5.0)
        order.append(number)
        if number < 7:
            lock.release()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        deadline = time.monotonic() + 5.0
        while len(lock._waiting) != number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    lock.release()
    # It is at the end of the queue now, and the last thread does not release the lock.
    assert not lock.acquire(0.1)
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    lock.release()
    assert lock.acquire(0.0)
