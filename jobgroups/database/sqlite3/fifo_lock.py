"""A lock in order of arrival."""

from __future__ import annotations

import threading
from collections import deque


class FifoLock:
    """A lock that is handed to whoever has waited longest.

    ``threading.Lock`` goes to whoever asks at the right moment: a thread that frees it and takes it again
    keeps the others waiting for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits for a turn."""
        return bool(self._waiting)

    def acquire(self, within: float) -> bool:
        """Wait for a turn, so many seconds at most; False: it did not come."""
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=within):
            return True
        with self._guard:
            if turn not in self._waiting:
                # It came at the very last moment.
                return True
            self._waiting.remove(turn)
        return False

    def release(self) -> None:
        """End one's turn: the next one's begins."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
