"""Wrong tokens, counted: after ten within a minute an address must wait. In this process's memory."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from typing import Final

#: Wrong tokens that an address may show within the window.
ALLOWED: Final = 10
#: Seconds.
WINDOW: Final = 60.0
#: Addresses that are remembered; the one that was wrong the longest ago is forgotten first.
_MOST_ADDRESSES: Final = 10_000


class Throttle:
    """Counts by address. From any thread."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def retry_after(self, address: str) -> int:
        """Return for how many seconds an address may not try again; 0: it may."""
        moment = time.monotonic()
        with self._lock:
            wrong = self._wrong.get(_counted_as(address))
            if wrong is None or len(wrong) < ALLOWED:
                return 0
            return max(0, int(wrong[0] + WINDOW - moment + 0.999))

    def record_failure(self, address: str) -> None:
        """Take in that an address showed a wrong token."""
        name = _counted_as(address)
        with self._lock:
            wrong = self._wrong.setdefault(name, deque(maxlen=ALLOWED))
            wrong.append(time.monotonic())
            self._wrong.move_to_end(name)
            while len(self._wrong) > _MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def reset(self) -> None:
        """Forget all."""
        with self._lock:
            self._wrong.clear()


def _counted_as(address: str) -> str:
    """Return what an address is counted as: of IPv6 its /64, in which one host has them all."""
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
