"""The wall clock as clients read it. Durations are measured by monotonic clocks, never by this."""

import datetime as dt
import time
from typing import Final

#: Both clocks as this process first saw them.
_WALL_AT_START: Final = dt.datetime.now(dt.UTC)
_MONOTONIC_AT_START: Final = time.monotonic()


def now() -> dt.datetime:
    """Return the current time, UTC, whole milliseconds: what is stored is what is sent."""
    moment = dt.datetime.now(dt.UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def monotonic_now() -> dt.datetime:
    """Return the latest time that it can be, for what ends when it has waited too long.

    A clock that is set forward, or a machine that slept, must not end at once all that waits: this
    goes on from the process's start by the monotonic clock, and is never later than :func:`now`.
    """
    gone = dt.timedelta(seconds=time.monotonic() - _MONOTONIC_AT_START)
    return min(now(), _WALL_AT_START + gone)


def iso(moment: dt.datetime) -> str:
    """Return ``2026-02-01T07:00:00.000Z``."""
    # Twice as fast as strftime, and a status has a dozen.
    utc = moment.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    return f"{utc[:-6]}Z"


def iso_or_none(moment: dt.datetime | None) -> str | None:
    """Return the moment as :func:`iso` does, or None."""
    return None if moment is None else iso(moment)
