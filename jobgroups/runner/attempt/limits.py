"""When the time of an attempt is up. Pure; all times are monotonic."""

import math


class TimeLimits:
    """Limits of an attempt: ``timeout_s`` from its start, ``stall_s`` from the last event.

    The time without an event begins again when the attempt is resumed or its event socket is open
    again: events that ComfyUI sent meanwhile are lost.
    """

    def __init__(self, timeout_s: float, stall_s: float) -> None:
        self._timeout_s, self._stall_s = timeout_s, stall_s
        #: Infinity: the attempt has not started, or has no such limit.
        self._timeout_at = self._stall_at = math.inf
        self._put_off_until = -math.inf
        #: When its time was up and its backend did not answer.
        self._overtime_since: float | None = None

    def start(self, now: float, gone: float = 0.0) -> None:
        """Count from now, or since ``gone`` seconds by the wall clock, whose share is clamped;
        once.
        """
        if self._timeout_at == math.inf:
            self._timeout_at = now + self._timeout_s - min(max(gone, 0.0), self._timeout_s)
            self._stall_at = now + self._stall_s

    def end(self) -> None:
        self._timeout_at = self._stall_at = math.inf

    def restart_stall(self, now: float) -> None:
        """Count the time without an event from now, if it counts."""
        if self._stall_at < math.inf:
            self._stall_at = now + self._stall_s
            if now < self._timeout_at:
                self._overtime_since = None

    @property
    def check_at(self) -> float:
        """When the time is up, or is to be checked again; infinity: never."""
        return max(min(self._timeout_at, self._stall_at), self._put_off_until)

    def is_up(self, now: float) -> bool:
        return now >= min(self._timeout_at, self._stall_at)

    def is_stalled(self, now: float) -> bool:
        """Return whether the time that is up is the one without an event."""
        return now < self._timeout_at

    def put_off(self, until: float) -> None:
        self._put_off_until = until

    def unanswered_for(self, now: float) -> float:
        """Return for how long the backend has not answered since the time was up, as first called
        then.
        """
        self._overtime_since = self._overtime_since or now
        return now - self._overtime_since
