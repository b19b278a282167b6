"""Reads the pauses of groups, submitters and the farm."""

from typing import Any, Final

from django.db.models import Q, QuerySet

from jobgroups.database.statements import Parameter, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.pauses import Pauses, PauseTime
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
