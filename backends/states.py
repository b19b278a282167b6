"""Backend status, derived from a backend's row: enabled, hold, quarantine, reachability. Pure.

The status is never stored. :func:`derive_status` decides which of several conditions is shown.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: An observation "online" expires after this time: no runner probes the backend any more.
#: Runners probe every few seconds; a ComfyUI that loads a model may answer late.
STALE_AFTER: Final = dt.timedelta(seconds=30)


#: Begins the ``status_reason`` of a backend at which a stopped prompt is left running; a clause follows.
LEFT_RUNNING: Final = "a stopped prompt still renders: "


class BackendState(StrEnum):
    """The status that is shown for a backend."""

    UNKNOWN = "unknown"  #: No response since it was registered.
    ONLINE = "online"  #: It responds, and nothing runs there.
    BUSY = "busy"  #: It responds, and a prompt runs or waits there.
    PAUSED = "paused"  #: A user paused it: its queued children keep waiting.
    DRAINING = "draining"  #: A user drains it: it takes nothing more, and is disabled once empty.
    OFFLINE = "offline"  #: It does not respond, or is unfit.
    DISABLED = "disabled"  #: A user disabled it.
    QUARANTINED = "quarantined"  #: Excluded by its failures, or by a user.


class Hold(StrEnum):
    """How a user holds a backend without disabling it."""

    NONE = ""
    PAUSE = "pause"  #: No new prompts until a user resumes it.
    DRAIN = "drain"  #: No new prompts or children; disabled once nothing of ours is there.


#: From the strongest state to the weakest: the first one that applies is shown.
PRECEDENCE: Final = (
    BackendState.DISABLED,
    BackendState.QUARANTINED,
    BackendState.DRAINING,
    BackendState.PAUSED,
    BackendState.OFFLINE,
    BackendState.UNKNOWN,
    BackendState.BUSY,
    BackendState.ONLINE,
)

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

#: States in which a submission may name a backend: its children are accepted, and wait where they must.
TAKES_CHILDREN: Final = frozenset({BackendState.ONLINE, BackendState.BUSY, BackendState.PAUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendObservation:
    """What is known of a backend at one moment: requests of users, its failures, the last probe."""

    now: dt.datetime
    created_at: dt.datetime
    enabled: bool = True
    hold: str = ""
    changed_reason: str = ""
    changed_by: str = ""
    changed_at: dt.datetime | None = None
    quarantined_at: dt.datetime | None = None
    quarantine_reason: str = ""
    quarantine_by: str = ""
    #: Quarantines without a success between them.
    consecutive_quarantines: int = 0
    #: ``unknown``, ``online`` or ``offline``, as a runner last observed it.
    reachability: str = "unknown"
    status_reason: str = ""
    status_since: dt.datetime | None = None
    last_seen_at: dt.datetime | None = None
    #: Whether a prompt of any client runs or waits there.
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """A backend's state, with reason, beginning and author; "" and None where they are not known."""

    state: BackendState
    reason: str = ""
    since: dt.datetime | None = None
    by: str = ""


def derive_status(observed: BackendObservation) -> BackendStatus:
    """Return the strongest state that applies to a backend (see ``PRECEDENCE``), and its cause."""
    if not observed.enabled:
        since = observed.changed_at or observed.status_since
        return BackendStatus(BackendState.DISABLED, observed.changed_reason, since, observed.changed_by)
    if observed.quarantined_at is not None:
        return BackendStatus(
            BackendState.QUARANTINED, observed.quarantine_reason, observed.quarantined_at, observed.quarantine_by
        )
    if observed.hold:
        state = BackendState.DRAINING if observed.hold == Hold.DRAIN else BackendState.PAUSED
        return BackendStatus(state, observed.changed_reason, observed.changed_at, observed.changed_by)
    return _observed_status(observed)


def _observed_status(observed: BackendObservation) -> BackendStatus:
    """Return the status of a backend that nothing holds back."""
    if observed.reachability == "offline":
        return BackendStatus(BackendState.OFFLINE, observed.status_reason, observed.status_since)
    if observed.reachability == "unknown":
        since = observed.status_since or observed.created_at
        return BackendStatus(BackendState.UNKNOWN, "No response yet.", since)
    if observed.last_seen_at is None or observed.last_seen_at < observed.now - STALE_AFTER:
        since = observed.last_seen_at or observed.created_at
        moment = f"{since.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
        reason = f"Not probed since {moment}; is a runner alive?"
        return BackendStatus(BackendState.OFFLINE, reason, since)
    reason = observed.status_reason
    if not reason and observed.consecutive_quarantines:
        reason = "On probation after a quarantine: one prompt at a time until one succeeds."
    state = BackendState.BUSY if observed.is_busy else BackendState.ONLINE
    return BackendStatus(state, reason, observed.status_since)


def prompt_limit(*, enabled: bool, hold: str, quarantined: bool, consecutive_quarantines: int, depth: int) -> int:
    """Return how many prompts of ours a backend may have at once.

    Args:
        enabled: whether it is enabled.
        hold: a ``Hold``'s value.
        quarantined: whether it is quarantined now.
        consecutive_quarantines: above 0 and not quarantined, it is on probation.
        depth: the limit of a backend that has no fault.
    """
    if not enabled or hold or quarantined:
        return 0
    return min(depth, 1) if consecutive_quarantines else depth
