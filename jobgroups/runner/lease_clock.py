"""How much of each lease is left, by the monotonic clock."""

import time
from collections.abc import Iterable
from typing import Final

from jobgroups.domain.leases import FencingToken
from jobgroups.services.leases import LEASE_TTL

_HALF_S: Final = LEASE_TTL.total_seconds() / 2


class LeaseClock:
    """When each of this runner's leases was last renewed for certain, in monotonic time.

    A runner that was paused, or that cannot reach the database, may have lost a lease without knowing:
    it must change nothing at that backend until the lease is known to be renewed.
    """

    def __init__(self) -> None:
        self._renewed: dict[FencingToken, float] = {}

    def add(self, fence: FencingToken, asked_at: float) -> None:
        """Add a lease that was requested at this time."""
        self._renewed[fence] = asked_at

    def renewed(self, fences: Iterable[FencingToken], asked_at: float) -> None:
        """Record the leases that a renewal, requested at this time, found still ours."""
        for fence in fences:
            # Called in the pulse's thread: the loop may drop one meanwhile.
            before = self._renewed.get(fence)
            if before is not None:
                self._renewed[fence] = max(before, asked_at)

    def remove(self, fence: FencingToken) -> None:
        """Forget a lease whose session is over."""
        self._renewed.pop(fence, None)

    def is_fresh(self, fence: FencingToken) -> bool:
        """Whether the backend may be changed now: half its lease's life is left."""
        renewed_at = self._renewed.get(fence)
        return renewed_at is not None and time.monotonic() - renewed_at <= _HALF_S
