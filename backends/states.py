"""States, holds and quarantines of backends, and the order of the states. Pure.

The status is never stored: ``backends.queries.backend_status`` derives it from the row.
"""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: An observation "online" expires after this time: no runner probes the backend any more.
#: Runners probe every few seconds; a ComfyUI that loads a model may answer late.
STALE_AFTER: Final = dt.timedelta(seconds=30)


#: Begins the ``status_reason`` of a backend at which a stopped prompt is left running; a clause
#: follows.
LEFT_RUNNING: Final = "a stopped prompt still renders: "


class BackendState(StrEnum):
    """The status that is shown for a backend: the first of these states that applies."""

    DISABLED = "disabled"  #: A user disabled it.
    QUARANTINED = "quarantined"  #: Excluded by its failures, or by a user.
    DRAINING = "draining"  #: A user drains it: it takes nothing more, and is disabled once empty.
    #: A user paused it, or it is outside its hours: its queued children keep waiting.
    PAUSED = "paused"
    OFFLINE = "offline"  #: It does not respond, or is unfit.
    UNKNOWN = "unknown"  #: No response since it was registered.
    BUSY = "busy"  #: It responds, and a prompt runs or waits there.
    ONLINE = "online"  #: It responds, and nothing runs there.


class Hold(StrEnum):
    """How a user holds a backend without disabling it."""

    NONE = ""
    PAUSE = "pause"  #: No new prompts until a user resumes it.
    DRAIN = "drain"  #: No new prompts or children; disabled once nothing of ours is there.


#: The order of lists for users: backends that need attention come first.
ATTENTION_ORDER: Final = (
    BackendState.QUARANTINED,
    BackendState.OFFLINE,
    BackendState.UNKNOWN,
    BackendState.DRAINING,
    BackendState.PAUSED,
    BackendState.BUSY,
    BackendState.ONLINE,
    BackendState.DISABLED,
)

#: States in which a submission may name a backend: its children are accepted, and wait where they
#: must.
TAKES_CHILDREN: Final = frozenset({BackendState.ONLINE, BackendState.BUSY, BackendState.PAUSED})


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """A backend's state, with reason, beginning and author; "" and None where they are not known."""

    state: BackendState
    reason: str = ""
    since: dt.datetime | None = None
    by: str = ""
    is_closed: bool = False  #: Whether it is paused since it is outside its hours.


def prompt_limit(
    *, enabled: bool, hold: str, quarantined: bool, consecutive_quarantines: int, depth: int
) -> int:
    """Return how many prompts of ours a backend may have at once; ``depth`` if it has no fault.

    One that is not quarantined and has consecutive quarantines is on probation.
    """
    if not enabled or hold or quarantined:
        return 0
    return min(depth, 1) if consecutive_quarantines else depth


#: The longest quarantine: afterwards a backend gets another prompt.
LONGEST: Final = dt.timedelta(hours=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    failures: int  #: Number of counted failures that quarantine a backend; 0: only a user does.
    window: dt.timedelta  #: Failures older than this are not counted.
    #: Length of the first quarantine; each consecutive one lasts twice as long.
    duration: dt.timedelta


def counts_since(
    rules: QuarantineRules, now: dt.datetime, failures_reset_at: dt.datetime | None
) -> dt.datetime:
    """Return the time from which failures are counted; a release resets them."""
    window = now - rules.window
    return window if failures_reset_at is None else max(window, failures_reset_at)


def quarantine_for(
    rules: QuarantineRules, *, failures: int, consecutive: int
) -> dt.timedelta | None:
    """Return for how long a backend is quarantined, None if it is not.

    ``failures`` are counted since :func:`counts_since`, including the one that is being stored.
    ``consecutive`` are quarantines without a success since. Above 0 the backend is on probation,
    which ends with its first failure.
    """
    if rules.failures == 0 or failures == 0:
        return None
    if failures < rules.failures and consecutive == 0:
        return None
    # Beyond any doubling that matters; a large power of two would overflow.
    return min(rules.duration * (1 << min(consecutive, 16)), LONGEST)


def reason_for(failures: int, window: dt.timedelta, consecutive: int, sentence: str) -> str:
    """Return the reason of a quarantine, as users read it; ``sentence`` is that of the last
    failure.
    """
    if consecutive:
        return f"It failed again on probation: {sentence}"
    seconds = window.total_seconds()
    lasts = f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    times = "1 failure" if failures == 1 else f"{failures} failures"
    return f"{times} within {lasts}; last: {sentence}"
