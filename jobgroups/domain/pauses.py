"""Pauses of groups, of submitters and of the whole farm. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

FARM: Final = "*"  #: The target that stands for everything.
#: What is held longer in all ends as what waits does.
MOST_HELD: Final = dt.timedelta(days=30)
Interval: TypeAlias = tuple[dt.datetime, dt.datetime | None]  #: None: it has no end yet.
_SUBMITTER: Final = "@"  #: Begins a target that is a submitter; a group is its id.


def target_of_submitter(name: str) -> str:
    return f"{_SUBMITTER}{name}"


class PauseTime(NamedTuple):
    """A pause, with the names of its columns."""

    target: str
    began_at: dt.datetime
    ends_at: dt.datetime | None = None  #: None: when a user ends it.
    reason: str = ""
    by: str = ""

    @property
    def of(self) -> str:
        """Return what it holds: ``farm``, ``submitter`` or ``group``."""
        return {FARM: "farm", _SUBMITTER: "submitter"}.get(self.target[:1], "group")


class Pauses:
    """Pauses that are in force."""

    def __init__(self, rows: Iterable[PauseTime] = ()) -> None:
        self.by_target: Final = {row.target: row for row in rows}

    def __bool__(self) -> bool:
        return bool(self.by_target)

    def of(self, group_id: str, submitter: str) -> PauseTime | None:
        """Return the pause that holds a group: the farm's, its submitter's or its own."""
        by_target = self.by_target
        targets = (FARM, target_of_submitter(submitter), group_id) if by_target else ()
        return next((by_target[target] for target in targets if target in by_target), None)


def limit_began(moment: dt.datetime, limit: dt.timedelta, held: Iterable[Interval]) -> dt.datetime:
    """Return since when a job has waited so long that its time is up, if it was queued then.

    The times in which it was held do not count, unless they are more than ``MOST_HELD`` with the
    others.
    """
    left, until = limit, moment
    for begins_at, ended_at in sorted(held, reverse=True, key=lambda time: time[1] or moment):
        ends_at = min(ended_at or moment, until)
        if until - ends_at >= left:
            break
        if begins_at < ends_at:
            left -= until - ends_at
            until = begins_at
    return max(until - left, moment - max(limit, MOST_HELD))
