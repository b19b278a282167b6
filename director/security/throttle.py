"""Throttle for wrong tokens: at most ten per minute and address. State is kept in memory."""

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from typing import Final

ALLOWED: Final = 10  #: Wrong tokens that an address may send within the window.
WINDOW: Final = 60.0  #: Seconds.
_MAX_ADDRESSES: Final = 10_000  #: Maximum number of stored addresses; the oldest failure is dropped first.


class Throttle:
    """Counts failures by address. Thread-safe."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def retry_after(self, address: str) -> int:
        """Return the seconds until an address may send a token again; 0: at once."""
        moment = time.monotonic()
        with self._lock:
            wrong = self._wrong.get(_key(address))
            if wrong is None or len(wrong) < ALLOWED:
                return 0
            return max(0, int(wrong[0] + WINDOW - moment + 0.999))

    def record_failure(self, address: str) -> None:
        name = _key(address)
        with self._lock:
            wrong = self._wrong.setdefault(name, deque(maxlen=ALLOWED))
            wrong.append(time.monotonic())
            self._wrong.move_to_end(name)
            while len(self._wrong) > _MAX_ADDRESSES:
                self._wrong.popitem(last=False)


def _key(address: str) -> str:
    """Return the key of an address: for IPv6 its /64, because one host can use all addresses of it."""
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
