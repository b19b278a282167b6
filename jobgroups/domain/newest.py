"""A dictionary of bounded size. Pure."""

import math
import threading
import time
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Newest(Generic[K, V]):
    """The ``most`` values that were put last, each for ``seconds``. Thread-safe."""

    def __init__(self, most: int, seconds: float = math.inf) -> None:
        self.most, self.seconds = most, seconds
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        value, until = self._entries.get(key, (None, 0.0))
        return value if until > time.monotonic() else None

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._entries[key] = value, time.monotonic() + self.seconds
            self._entries.move_to_end(key)
            if len(self._entries) > self.most:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
