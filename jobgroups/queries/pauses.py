"""Reads the pauses of groups, submitters and the farm."""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from django.db.models import Q, QuerySet

from jobgroups.database.statements import Parameter, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.pauses import (
    FARM,
    MOST_HELD,
    Interval,
    Pauses,
    PauseTime,
    limit_began,
    target_of_submitter,
)
from jobgroups.models import JobGroup, Pause


def _active() -> QuerySet[Pause, tuple[Any, ...]]:
    lasts = Q(ends_at__isnull=True) | Q(ends_at__gt=Parameter("moment"))
    return Pause.objects.filter(lasts).order_by("began_at").values_list(*PauseTime._fields)


_read_active: Final = PreparedValues(_active)


def current_pauses() -> Pauses:
    """Return the pauses that are in force."""
    return Pauses(PauseTime(*row) for row in _read_active(moment=now()))


def group_pause_now(group: JobGroup) -> PauseTime | None:
    """Return the pause that holds an open group; None: nothing does, or it has ended."""
    open_ = group.completed_at is None
    return current_pauses().of(group.id, group.share_name) if open_ else None


def limits_began(
    group_ids: Collection[str],
    moment: dt.datetime,
    limit: dt.timedelta,
    closed: Collection[Interval] = (),
) -> dict[str, dt.datetime]:
    """Return by group the time of ``limit_began``, without groups that have not started so long
    ago. ``closed`` are times in which no backend takes their jobs.
    """
    rows = Pause.objects.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=moment - MOST_HELD))
    of_targets = defaultdict[str, list[Interval]](list)
    for target, began_at, ends_at in rows.order_by().values_list("target", "began_at", "ends_at"):
        of_targets[target].append((began_at, ends_at))
    began: dict[str, dt.datetime] = {}
    groups = JobGroup.objects.filter(pk__in=group_ids).order_by()
    for group in groups.only("share_of", "submitter", "start_after"):
        held = [*closed]
        for target in (FARM, target_of_submitter(group.share_name), group.id):
            held += of_targets.get(target, ())
        since = limit_began(moment, limit, held)
        if group.start_after is None or group.start_after < since:
            began[group.id] = since
    return began
