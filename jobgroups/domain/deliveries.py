"""Times of deliveries that are repeated until they succeed or are given up. Pure."""

from dataclasses import dataclass, fields
from typing import Any, Self


class Scaled:
    """Base of dataclasses of times."""

    __slots__ = ()

    @classmethod
    def scaled(cls, factor: float) -> Self:
        """Return the times multiplied by ``factor``, for tests."""
        whole: Any = cls()
        return cls(**{field.name: getattr(whole, field.name) * factor for field in fields(whole)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryIntervals(Scaled):
    """The times of deliveries, in seconds; those of webhooks by default."""

    poll: float = 1.0  #: Between two queries of due deliveries.
    timeout: float = 15.0  #: Of one delivery.
    #: After this long without a result, the runner that claimed a delivery counts as dead.
    claim: float = 60.0
    #: The first pause before a failed delivery is tried again; it doubles each time.
    retry_first: float = 5.0
    retry_most: float = 3_600.0  #: The longest pause.
    give_up: float = 86_400.0  #: The age after which a failed delivery is tried no more.
    retention: float = 30 * 86_400.0  #: The age at which a row is deleted.

    def pause_after(self, tries: int) -> float:
        # The exponent is bounded: a float has no 2 ** 1024.
        return min(self.retry_first * 2.0 ** min(max(tries, 1) - 1, 64), self.retry_most)
