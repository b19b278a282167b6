"""What a backend is doing, as people and schedulers see it, and what holds it back. Pure.

The word that is shown is derived from the backend's row, never stored: :func:`backend_state` is the
one place that says which of several things that are true of it comes first.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: An "online" that nobody has renewed for so long is not shown any more: no runner looks there.
#: Runners look every few seconds; a ComfyUI that loads a model may answer late.
STALE: Final = dt.timedelta(seconds=30)


#: Begins the ``status_reason`` of a backend at which a stopped prompt is left running; a clause follows.
LEFT_RUNNING: Final = "a stopped prompt still renders: "


class BackendState(StrEnum):
    """The one word that is shown for a backend; derived from its row, never stored."""

    UNKNOWN = "unknown"  #: Not heard from since it was registered.
    ONLINE = "online"  #: Answers, and nothing runs there.
    BUSY = "busy"  #: Answers, and something runs or waits there.
    PAUSED = "paused"  #: A person holds it: what waits for it keeps waiting.
    DRAINING = "draining"  #: A person empties it: it takes nothing more, and is disabled then.
    OFFLINE = "offline"  #: Does not answer, or is not fit.
    DISABLED = "disabled"  #: A person took it out.
    QUARANTINED = "quarantined"  #: Set aside: it failed too often, or a person said so.


class Hold(StrEnum):
    """How a person holds a backend back without disabling it."""

    NONE = ""
    PAUSE = "pause"  #: No new prompts until somebody resumes it.
    DRAIN = "drain"  #: No new prompts or children; disabled once nothing of ours is there.


#: From the strongest word to the weakest: the first that is true of a backend is shown.
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

#: Words for a machine that somebody should look at before the others.
TROUBLE_FIRST: Final = (
    BackendState.QUARANTINED,
    BackendState.OFFLINE,
    BackendState.UNKNOWN,
    BackendState.DRAINING,
    BackendState.PAUSED,
    BackendState.BUSY,
    BackendState.ONLINE,
    BackendState.DISABLED,
)

#: States in which a submission may name it: its children are accepted, and wait where they must.
TAKES_CHILDREN: Final = frozenset({BackendState.ONLINE, BackendState.BUSY, BackendState.PAUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a backend at one moment: a person's word, its failures, what was seen."""

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
    #: Quarantines in a row; above 0 and not quarantined: it is on probation.
    consecutive_quarantines: int = 0
    #: ``unknown``, ``online`` or ``offline``, as a runner last saw it.
    reachability: str = "unknown"
    status_reason: str = ""
    status_since: dt.datetime | None = None
    last_seen_at: dt.datetime | None = None
    #: Whether a prompt, whoever's, runs or waits there.
    stands: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A backend's word, why, since when and by whom ("" and None where nothing is known)."""

    state: BackendState
    reason: str = ""
    since: dt.datetime | None = None
    by: str = ""


def backend_state(facts: Facts) -> Standing:
    """Return the strongest word that is true of a backend (see ``PRECEDENCE``), and what it rests on."""
    if not facts.enabled:
        since = facts.changed_at or facts.status_since
        return Standing(BackendState.DISABLED, facts.changed_reason, since, facts.changed_by)
    if facts.quarantined_at is not None:
        return Standing(
            BackendState.QUARANTINED,
            facts.quarantine_reason,
            facts.quarantined_at,
            facts.quarantine_by,
        )
    if facts.hold:
        state = BackendState.DRAINING if facts.hold == Hold.DRAIN else BackendState.PAUSED
        return Standing(state, facts.changed_reason, facts.changed_at, facts.changed_by)
    return _seen(facts)


def _seen(facts: Facts) -> Standing:
    """Return the word for a backend that nobody holds back: what was last seen of it."""
    if facts.reachability == "offline":
        return Standing(BackendState.OFFLINE, facts.status_reason, facts.status_since)
    if facts.reachability == "unknown":
        since = facts.status_since or facts.created_at
        return Standing(BackendState.UNKNOWN, "Not heard from yet.", since)
    if facts.last_seen_at is None or facts.last_seen_at < facts.now - STALE:
        since = facts.last_seen_at or facts.created_at
        seen = f"{since.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
        reason = f"Not looked at since {seen}; is a runner alive?"
        return Standing(BackendState.OFFLINE, reason, since)
    state = BackendState.BUSY if facts.stands else BackendState.ONLINE
    return Standing(state, facts.status_reason or _probation(facts), facts.status_since)


def _probation(facts: Facts) -> str:
    if not is_on_probation(facts):
        return ""
    return "On probation after a quarantine: one prompt at a time until one succeeds."


def is_on_probation(facts: Facts) -> bool:
    """Whether it was let out of quarantine and has not succeeded since."""
    return facts.quarantined_at is None and facts.consecutive_quarantines > 0


def places(
    *, enabled: bool, hold: str, quarantined: bool, consecutive_quarantines: int, depth: int
) -> int:
    """Return how many prompts of ours may stand at a backend, by what was said and what it failed.

    Args:
        enabled: whether a person lets it work.
        hold: a ``Hold``'s value.
        quarantined: whether it is set aside now.
        consecutive_quarantines: quarantines in a row; not quarantined any more, it is on probation.
        depth: prompts that may stand at a backend of which nothing is wrong.
    """
    if not enabled or hold or quarantined:
        return 0
    return min(depth, 1) if consecutive_quarantines else depth
