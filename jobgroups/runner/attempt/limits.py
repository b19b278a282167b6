"""When the time of a running job is up. All times are monotonic."""

import math
import time

from jobgroups.domain.clock import now
from jobgroups.runner.attempt.spec import AttemptSpec


class TimeLimits:
    """Limits of an attempt: ``timeout_s`` from its start, ``stall_s`` from the last event.

    The time without an event begins again when the attempt is resumed or its event socket is open again: events that
    ComfyUI sent meanwhile are lost.
    """

    def __init__(self, spec: AttemptSpec) -> None:
        self._timeout_s, self._stall_s = spec.timeout_s, spec.stall_s
        self._timeout_at = self._stall_at = math.inf  #: Infinity: the attempt has not started, or has no such limit.
        self._put_off_until = -math.inf
        self._overtime_since: float | None = None  #: When its time was up and its backend did not answer.
        if spec.started_at is not None:
            # The wall clock's share is clamped.
            self.start(gone=min(max((now() - spec.started_at).total_seconds(), 0.0), spec.timeout_s))

    def start(self, gone: float = 0.0) -> None:
        """Count from now, or since ``gone`` seconds; once."""
        if self._timeout_at == math.inf:
            moment = time.monotonic()
            self._timeout_at = moment + self._timeout_s - gone
            self._stall_at = moment + self._stall_s

    def end(self) -> None:
        """Count no longer."""
        self._timeout_at = self._stall_at = math.inf

    def restart_stall(self) -> None:
        """Count the time without an event from now, if it counts."""
        if self._stall_at < math.inf:
            moment = time.monotonic()
            self._stall_at = moment + self._stall_s
            if moment < self._timeout_at:
                self._overtime_since = None

    @property
    def check_at(self) -> float:
        """When the time is up, or is to be checked again; infinity: never."""
        return max(min(self._timeout_at, self._stall_at), self._put_off_until)

    @property
    def is_up(self) -> bool:
        return time.monotonic() >= min(self._timeout_at, self._stall_at)

    @property
    def is_stalled(self) -> bool:
        """Whether the time that is up is the one without an event."""
        return time.monotonic() < self._timeout_at

    def put_off(self, until: float) -> None:
        """Check the limits no earlier than ``until``."""
        self._put_off_until = until

    def unanswered_for(self) -> float:
        """Return for how long the backend has not answered since the time was up, as first called then."""
        moment = time.monotonic()
        self._overtime_since = self._overtime_since or moment
        return moment - self._overtime_since
