"""How long to wait before the next try of something that broke, and when to stop trying."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from director.client.errors import DirectorError

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
#: Half to whole of the delay, at random: a thousand clients of a server that comes back must not
#: all knock at once. (Not for secrets; this source needs no exemption from the linter.)
_jitter: Final = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How long a stream or a wait outlives an outage of the server.

    Attributes:
        give_up_seconds: Then its error is raised; None: never.
        clock: Monotonic seconds.
    """

    give_up_seconds: float | None = 300.0
    clock: Callable[[], float] = time.monotonic


def backoff() -> Iterator[float]:
    """Yield seconds to wait, doubling up to the longest, jittered."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * _jitter.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_DELAY_S)


class Outage:
    """Failures in a row. It begins with the first and is over with the first sign of life."""

    def __init__(self, policy: ReconnectPolicy) -> None:
        self._policy = policy
        self._since: float | None = None
        self._delays = backoff()

    def delay(self, error: DirectorError) -> float:
        """Note a failure; return the seconds to wait before the next try.

        Raises:
            DirectorError: ``error`` itself, when the patience is at its end.
        """
        now = self._policy.clock()
        if self._since is None:
            self._since = now
        limit = self._policy.give_up_seconds
        if limit is not None and now - self._since >= limit:
            raise error
        return next(self._delays)

    def reset(self) -> None:
        """Note a sign of life."""
        if self._since is not None:
            self._since = None
            self._delays = backoff()
