"""When a backend that fails is set aside, and for how long. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

#: However often in a row: a machine is looked at again after this time.
LONGEST: Final = dt.timedelta(hours=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """An installation's rules.

    Attributes:
        failures: so many counted failures set a backend aside; 0: nothing does but a person.
        within: only failures so long ago or less are counted.
        forgive: how long the first quarantine lasts; each one in a row lasts twice as long.
    """

    failures: int
    within: dt.timedelta
    forgive: dt.timedelta


def counts_since(
    rules: Rules, now: dt.datetime, failures_reset_at: dt.datetime | None
) -> dt.datetime:
    """Return since when a backend's failures are counted: those before a release are forgiven."""
    window = now - rules.within
    return window if failures_reset_at is None else max(window, failures_reset_at)


def quarantine_for(rules: Rules, *, failures: int, in_a_row: int) -> dt.timedelta | None:
    """Return for how long a backend is set aside, None where it goes on working.

    Args:
        rules: the installation's.
        failures: counted failures since :func:`counts_since`, the one that is being stored among
            them.
        in_a_row: quarantines without a success since. Above 0 the backend is on probation: its
            first failure sends it back.
    """
    if rules.failures == 0 or failures == 0:
        return None
    if failures < rules.failures and in_a_row == 0:
        return None
    # Beyond any doubling that matters; a large power of two would overflow.
    return min(rules.forgive * (1 << min(in_a_row, 16)), LONGEST)


def reason_for(failures: int, within: dt.timedelta, in_a_row: int, sentence: str) -> str:
    """Return why it is set aside, as people read it.

    Args:
        failures, within: what was counted, over how long.
        in_a_row: quarantines in a row before this one.
        sentence: the last failure, in a clause.
    """
    if in_a_row:
        return f"It failed again on probation: {sentence}"
    minutes = within.total_seconds() / 60
    window = f"{minutes:g} min" if minutes >= 1 else f"{within.total_seconds():g} s"
    times = "1 failure" if failures == 1 else f"{failures} failures"
    return f"{times} within {window}; last: {sentence}"
