"""A lock in order of arrival."""

from __future__ import annotations

import threading
from collections import deque


class FifoLock:
    """A lock that goes to the thread that has waited longest.

    ``threading.Lock`` has no order: a thread that releases it and acquires it again can keep the others
    waiting for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def has_waiters(self) -> bool:
        """Whether a thread waits for the lock."""
        return bool(self._waiting)

    def acquire(self, timeout: float) -> bool:
        """Wait for the lock for at most ``timeout`` seconds and return whether it was acquired."""
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return True
            waiter = threading.Lock()
            waiter.acquire()
            self._waiting.append(waiter)
        if waiter.acquire(timeout=timeout):
            return True
        with self._guard:
            if waiter not in self._waiting:
                # The lock was handed over right after the timeout.
                return True
            self._waiting.remove(waiter)
        return False

    def release(self) -> None:
        """Hand the lock over to the thread that has waited longest, if there is one."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_held = False
