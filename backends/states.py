"""States and holds of backends, and their order. Pure.

The status is never stored: ``backends.queries.backend_status`` derives it from the row.
"""

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
    """The status that is shown for a backend: the first of these states that applies."""

    DISABLED = "disabled"  #: A user disabled it.
    QUARANTINED = "quarantined"  #: Excluded by its failures, or by a user.
    DRAINING = "draining"  #: A user drains it: it takes nothing more, and is disabled once empty.
    PAUSED = "paused"  #: A user paused it: its queued children keep waiting.
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

#: States in which a submission may name a backend: its children are accepted, and wait where they must.
TAKES_CHILDREN: Final = frozenset({BackendState.ONLINE, BackendState.BUSY, BackendState.PAUSED})


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """A backend's state, with reason, beginning and author; "" and None where they are not known."""

    state: BackendState
    reason: str = ""
    since: dt.datetime | None = None
    by: str = ""


def prompt_limit(*, enabled: bool, hold: str, quarantined: bool, consecutive_quarantines: int, depth: int) -> int:
    """Return how many prompts of ours a backend may have at once; ``depth`` if it has no fault.

    One that is not quarantined and has consecutive quarantines is on probation.
    """
    if not enabled or hold or quarantined:
        return 0
    return min(depth, 1) if consecutive_quarantines else depth
