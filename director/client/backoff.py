"""Delays between reconnections, and their end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from director.client.errors import DirectorError

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
#: Random, so that the clients of a restarted server do not reconnect at the same moment.
_jitter: Final = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How long a stream or a wait continues during an outage of the server.

    Attributes:
        give_up_seconds: Then the error is raised; None: never.
        clock: Monotonic seconds.
    """

    give_up_seconds: float | None = 300.0
    clock: Callable[[], float] = time.monotonic


def backoff() -> Iterator[float]:
    """Yield seconds to wait: doubled up to ``LONGEST_DELAY_S``, with jitter."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * _jitter.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_DELAY_S)


class Outage:
    """Consecutive failures, until the first success."""

    def __init__(self, policy: ReconnectPolicy) -> None:
        self._policy = policy
        self._since: float | None = None
        self._delays = backoff()

    def delay(self, error: DirectorError) -> float:
        """Record a failure; return the seconds to wait before the next connection.

        Raises:
            DirectorError: ``error``, after ``give_up_seconds``.
        """
        now = self._policy.clock()
        if self._since is None:
            self._since = now
        limit = self._policy.give_up_seconds
        if limit is not None and now - self._since >= limit:
            raise error
        return next(self._delays)

    def reset(self) -> None:
        """Record a success."""
        if self._since is not None:
            self._since = None
            self._delays = backoff()
