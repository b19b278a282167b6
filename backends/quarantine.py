"""Automatic quarantine: when a failing backend is quarantined, and for how long. Pure."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

LONGEST: Final = dt.timedelta(hours=4)  #: The longest quarantine: afterwards a backend gets another prompt.


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    """An installation's rules."""

    failures: int  #: Number of counted failures that quarantine a backend; 0: only a user does.
    window: dt.timedelta  #: Failures older than this are not counted.
    duration: dt.timedelta  #: Length of the first quarantine; each consecutive one lasts twice as long.


def counts_since(rules: QuarantineRules, now: dt.datetime, failures_reset_at: dt.datetime | None) -> dt.datetime:
    """Return the time from which failures are counted; a release resets them."""
    window = now - rules.window
    return window if failures_reset_at is None else max(window, failures_reset_at)


def quarantine_for(rules: QuarantineRules, *, failures: int, consecutive: int) -> dt.timedelta | None:
    """Return for how long a backend is quarantined, None if it is not.

    ``failures`` are counted since :func:`counts_since`, including the one that is being stored. ``consecutive`` are
    quarantines without a success since. Above 0 the backend is on probation, which ends with its first failure.
    """
    if rules.failures == 0 or failures == 0:
        return None
    if failures < rules.failures and consecutive == 0:
        return None
    # Beyond any doubling that matters; a large power of two would overflow.
    return min(rules.duration * (1 << min(consecutive, 16)), LONGEST)


def reason_for(failures: int, window: dt.timedelta, consecutive: int, sentence: str) -> str:
    """Return the reason of a quarantine, as users read it; ``sentence`` is that of the last failure."""
    if consecutive:
        return f"It failed again on probation: {sentence}"
    seconds = window.total_seconds()
    lasts = f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    times = "1 failure" if failures == 1 else f"{failures} failures"
    return f"{times} within {lasts}; last: {sentence}"
