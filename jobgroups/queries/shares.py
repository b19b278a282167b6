"""Reads what submitters have used of the farm, and the turn of a group in the queue."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.db.models import QuerySet

from jobgroups.database.statements import Parameter, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.turns import DEFAULT_PRIORITY, Shares, Turn, level_of
from jobgroups.models import Attempt, ShareCount, Submitter
from jobgroups.queries.usage import seconds_used

#: The columns of a group from which :func:`turn_of` derives its turn.
TURN: Final = ("priority", "share_of", "submitter", "front_at", "waiting_since")


def submitter_of(columns: Sequence[Any]) -> str:
    """Return the submitter whose share a group uses; ``columns`` are the values of ``TURN``."""
    _, share_of, submitter, _, _ = columns
    return str(share_of or submitter)


def turn_of(columns: tuple[Any, ...], *, is_served: bool, moment: dt.datetime) -> Turn:
    """Return the turn of a group.

    Args:
        columns: the values of ``TURN``.
        is_served: whether a backend has a job of it: it does not rise meanwhile.
    """
    priority, _, _, front_at, waiting_since = columns
    waits = waiting_since is not None and not is_served
    return Turn(
        level=level_of(
            DEFAULT_PRIORITY if priority is None else priority,
            (moment - waiting_since).total_seconds() if waits else 0.0,
            settings.DIRECTOR_AGING_MINUTES * 60,
        ),
        front=0.0 if front_at is None else front_at.timestamp(),
        submitter=submitter_of(columns) if settings.DIRECTOR_FAIR_SHARE else "",
    )


def half_lives(since: dt.datetime, moment: dt.datetime) -> float:
    return max((moment - since).total_seconds(), 0.0) / settings.DIRECTOR_SHARE_HALF_LIFE


def current_shares() -> Shares:
    """Return what submitters have used until now, without prompts that have not ended."""
    moment, used = now(), defaultdict[str, float](float)
    weights: dict[str, float] = {}
    for name, weight, seconds, used_at in _submitters():
        weights[name] = weight
        used[name] = seconds * 0.5 ** half_lives(used_at or moment, moment)
    counted_until = ShareCount.objects.values_list("counted_until", flat=True).first()
    if counted_until is not None:
        for name, seconds, ended_at in ended_uses(counted_until, moment):
            used[name] += seconds * 0.5 ** half_lives(ended_at, moment)
    return Shares(used, weights)


def submitter_find(name: str) -> Submitter:
    """Return the row of a submitter; without one, a row with the defaults that is not stored."""
    return Submitter.objects.filter(pk=name).first() or Submitter(name=name)


_submitters: Final = PreparedValues(
    lambda: Submitter.objects.order_by().values_list("name", "weight", "used_seconds", "used_at")
)


def ended_uses(after: dt.datetime, until: dt.datetime) -> Iterator[tuple[str, float, dt.datetime]]:
    """Yield the submitter, the seconds at the backend and the end of each attempt that ended within
    a time.
    """
    for share_of, submitter, seconds, ended_at in _ended(after=after, until=until):
        yield share_of or submitter, seconds, ended_at


def _ended_attempts() -> QuerySet[Attempt, tuple[Any, ...]]:
    ended = Attempt.objects.filter(
        ended_at__gt=Parameter("after"), ended_at__lte=Parameter("until"), started_at__isnull=False
    )
    group = ("child__group__share_of", "child__group__submitter")
    return ended.order_by().values_list(*group, seconds_used(), "ended_at")


_ended: Final = PreparedValues(_ended_attempts)
