"""Texts of notices, and how several become one message. Pure."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.text import duration, failure_label, pluralize

_MOST_LINES: Final = 40  #: Lines of a merged message; a telephone shows fewer still.
_MOST_REASONS: Final = 3
_MOST_TITLE: Final = 250


class NoticeKind(StrEnum):
    """The kinds of notices; ``DIRECTOR_NOTIFY_ON`` enables them."""

    GROUP_ENDED = "group_ended"  #: A run of a group has ended, however.
    #: Work waits for a backend that is away, or it was set aside.
    BACKEND_TROUBLE = "backend_trouble"
    QUEUE_EMPTY = "queue_empty"  #: Nothing waits or runs any more.


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeIntervals(DeliveryIntervals):
    """The times of notices, in seconds."""

    poll: float = 5.0
    #: Between two messages; notices of the meantime are merged into one.
    min_interval: float = 60.0
    timeout: float = 30.0  #: A later result is not waited for.
    claim: float = 120.0
    retry_first: float = 60.0
    trouble_after: float = 60.0  #: How long a backend must be unavailable.
    settled_after: float = 30.0  #: The age at which a runner has probed every backend.
    idle: float = 30.0  #: How long no job must have been queued or running.
    empty_every: float = 1_800.0  #: The shortest interval of notices about the empty queue.


class Urgency(IntEnum):
    """The order of notices within a merged message."""

    TROUBLE = 0  #: A backend takes no jobs.
    FAILURE = 1  #: Jobs failed.
    NORMAL = 2


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    urgency: Urgency = Urgency.NORMAL


@dataclass(frozen=True, slots=True)
class StoredNotice:
    kind: str
    title: str
    body: str
    urgency: int = Urgency.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    name: str
    total: int
    completed: int
    failed: int
    cancelled: int
    seconds: float  #: How long the run took.
    stopped: int = 0  #: Of those that were cancelled, how many ``stop_when`` stopped.
    is_cancelled: bool = False  #: A user cancelled the whole group.
    late: int = 0  #: Of those that completed, how many did so on a later try.
    reasons: Mapping[tuple[str, str], int]  #: How many failed, by ``(failure class, backend id)``.


def group_ended(end: GroupSummary, link: str = "") -> Message:
    """Return the message: ``shot_001: 11 of 12 done, 1 failed (out of memory on gpu-2), took 14
    min``.
    """
    done = _done_text(end)
    if end.late:
        done = f"{done} ({'' if end.total == 1 else f'{end.late} '}on a later try)"
    failed = f"{end.failed} failed" if end.failed else ""
    why = f"{failed} ({_reasons(end)})" if failed and end.reasons else failed
    by_users = end.cancelled - end.stopped
    cancelled = f"{by_users} cancelled" if by_users and not end.is_cancelled else ""
    stopped = f"{end.stopped} not needed" if end.stopped else ""
    took = f"took {duration(end.seconds)}"
    title = f"{end.name}: {_join_parts(_done_text(end), failed, cancelled, stopped)}"
    body = f"{end.name}: {_join_parts(done, why, cancelled, stopped, took)}"
    urgency = Urgency.FAILURE if end.failed else Urgency.NORMAL
    return Message(title[:_MOST_TITLE], _with_link(body, link), urgency)


def _done_text(end: GroupSummary) -> str:
    if end.is_cancelled:
        return f"cancelled, {end.completed} of {end.total} done"
    if end.completed == end.total:
        return "done" if end.total == 1 else f"all {end.total} done"
    return f"{end.completed} of {end.total} done"


def _reasons(end: GroupSummary) -> str:
    worst = sorted(
        end.reasons.items(), key=lambda reason_count: (-reason_count[1], reason_count[0])
    )
    alone = len(worst) == 1
    reasons = [
        f"{'' if alone else f'{count} '}{failure_label(failure_class)}"
        + (f" on {backend}" if backend else "")
        for (failure_class, backend), count in worst[:_MOST_REASONS]
    ]
    rest = sum(count for _, count in worst[_MOST_REASONS:])
    return ", ".join([*reasons, f"{rest} for other reasons"] if rest else reasons)


def _join_parts(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _with_link(body: str, link: str) -> str:
    return f"{body}\n{link}" if link else body


def backend_away(
    name: str, seconds: float, reason: str, waiting: int, link: str, *, answers: bool = False
) -> Message:
    """Return the message of a backend for which work waits and that cannot take it, after
    ``seconds`` in a row.

    ``reason`` is a clause; it and ``link`` (to the backends) may be empty. ``answers``: it answers,
    but is unfit.
    """
    jobs = pluralize(waiting, "job waits", "jobs wait")
    why = f" ({reason})" if reason else ""
    does = "answers but has taken no jobs for" if answers else "has not answered for"
    body = f"{name} {does} {duration(seconds)}{why}; {jobs} for it."
    return Message(away_title(name, answers=answers), _with_link(body, link), Urgency.TROUBLE)


def away_title(name: str, *, answers: bool = False) -> str:
    """Return the title, which also identifies the notice."""
    return f"{name} takes no jobs" if answers else f"{name} does not answer"


def backend_quarantined(
    name: str, reason: str, by: str, until: dt.datetime | None, link: str
) -> Message:
    who = f" by {by}" if by else ""
    why = f": {reason}" if reason else ""
    end = "it is released" if until is None else f"{until.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
    body = f"{name} is quarantined{who}{why.rstrip('.')}. It gets no jobs until {end}."
    if until is not None:
        body = f"{body} If it answers then, it gets one at a time until one succeeds."
    return Message(quarantine_title(name), _with_link(body, link), Urgency.TROUBLE)


def quarantine_title(name: str) -> str:
    """Return the title, which also identifies the notice."""
    return f"{name} is quarantined"


def queue_empty(last: str, link: str) -> Message:
    """Return the message that nothing is left to do; ``last`` is the group that ended last."""
    body = f"Nothing waits or runs any more. The last group was {last}."
    return Message("The queue is empty", _with_link(body, link))


def merge(notices: Sequence[StoredNotice], link: str = "") -> Message:
    """Return one message for several notices: trouble first, then failures, then the rest."""
    if len(notices) == 1:
        return Message(notices[0].title, notices[0].body)
    in_order = sorted(notices, key=lambda notice: notice.urgency)
    lines = [notice.body.partition("\n")[0] for notice in in_order[:_MOST_LINES]]
    rest = len(in_order) - len(lines)
    if rest:
        lines.append(f"… and {rest} more")
    return Message(_heading(notices)[:_MOST_TITLE], _with_link("\n".join(lines), link))


def _heading(notices: Sequence[StoredNotice]) -> str:
    number = Counter(notice.kind for notice in notices)
    groups, backends = number[NoticeKind.GROUP_ENDED], number[NoticeKind.BACKEND_TROUBLE]
    trouble = {notice.title for notice in notices if notice.kind == NoticeKind.BACKEND_TROUBLE}
    said_trouble = next(iter(trouble)) if len(trouble) == 1 else f"{backends} backends in trouble"
    return _join_parts(
        said_trouble if backends else "",
        pluralize(groups, "group ended", "groups ended") if groups else "",
        "the queue is empty" if number[NoticeKind.QUEUE_EMPTY] else "",
    )
