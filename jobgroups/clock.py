"""The wall clock as clients read it. Durations are measured by monotonic clocks, never by this."""

from __future__ import annotations

import datetime as dt


def now() -> dt.datetime:
    """Return the current time, UTC, whole milliseconds: what is stored is what is sent."""
    moment = dt.datetime.now(dt.UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def iso(moment: dt.datetime) -> str:
    """Return ``2026-02-01T07:00:00.000Z``."""
    utc = moment.astimezone(dt.UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def iso_or_none(moment: dt.datetime | None) -> str | None:
    """Return the moment as :func:`iso` does, or None."""
    return None if moment is None else iso(moment)
