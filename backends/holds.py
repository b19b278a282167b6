"""Writes of the columns that hold a backend back: pause, drain and quarantine.

A function is one guarded UPDATE, or part of the caller's transaction. A caller that must exclude a concurrent
claim locks the backend's lease: see ``jobgroups.services.holds``.
"""

import datetime as dt
from typing import Any, Final

from django.db import connection

from backends.models import Backend
from backends.states import Hold

_MAX_REASON: Final = 500
_MAX_BY: Final = 150


def backend_hold(*, row: Backend, hold: Hold, at_once: bool, reason: str, by: str, moment: dt.datetime) -> bool:
    """Pause or drain a backend; return whether a column changed. A repeated request changes nothing.

    The row is locked by the caller's transaction; a disabled backend is left as it is. ``at_once``, the eviction of
    running prompts, stays in force until the hold ends, since it may have been carried out already. A repeated hold
    keeps its beginning.
    """
    if not row.enabled:
        return False
    is_same = row.hold == hold
    changes = {
        "hold": hold.value,
        "evict": at_once or (is_same and row.evict),
        "changed_reason": reason[:_MAX_REASON] or (row.changed_reason if is_same else ""),
        "changed_by": by[:_MAX_BY] or (row.changed_by if is_same else ""),
        "changed_at": row.changed_at if is_same else moment,
        **CHANGED_BY_USER,
    }
    return _change(row, changes)


def backend_resume(*, row: Backend, by: str, moment: dt.datetime) -> bool:
    """End a pause or drain; return whether there was one."""
    if not row.hold:
        return False
    return _change(row, {**HOLD_CLEARED, **CHANGED_BY_USER, "changed_by": by[:_MAX_BY], "changed_at": moment})


#: Discovery removes no backend that a user has changed.
CHANGED_BY_USER: Final[dict[str, Any]] = {"adopted_at": None}
#: Columns of a backend without a hold.
HOLD_CLEARED: Final[dict[str, Any]] = {"hold": Hold.NONE.value, "evict": False, "changed_reason": ""}


def backend_finish_drain(*, row: Backend, moment: dt.datetime) -> None:
    """Disable a drained backend that is empty now; author and reason of the drain stay."""
    reason = f"drained: {row.changed_reason}" if row.changed_reason else "drained"
    _change(
        row,
        {
            **HOLD_CLEARED,
            "enabled": False,
            "changed_reason": reason[:_MAX_REASON],
            "changed_at": moment,
            "status_since": moment,
        },
    )


def backend_quarantine(*, row: Backend, reason: str, by: str, moment: dt.datetime, until: dt.datetime | None) -> bool:
    """Quarantine a backend; return whether it was not quarantined before.

    The row is locked by the caller's transaction. ``by`` is a user's name; "" for the Director, which never changes a
    quarantine that is in force. A user also replaces end and reason of such a one. ``until`` None: until a user
    releases it.
    """
    changes: dict[str, Any] = {
        "quarantine_until": until,
        "quarantine_reason": reason[:_MAX_REASON],
        "quarantine_by": by[:_MAX_BY],
    }
    if by:
        changes |= CHANGED_BY_USER
    if row.quarantined_at is not None:
        if by:
            _change(row, changes)
        return False
    consecutive = row.consecutive_quarantines + 1
    return _change(row, {**changes, "quarantined_at": moment, "consecutive_quarantines": consecutive})


def backend_release(*, backend_id: str, moment: dt.datetime, due_only: bool = False) -> bool:
    """Release a backend from quarantine, on probation; return whether it was quarantined.

    Earlier failures count no more. ``due_only``: only if the stored end of the quarantine has passed.
    """
    rows = Backend.objects.filter(pk=backend_id, quarantined_at__isnull=False)
    if due_only:
        rows = rows.filter(quarantine_until__lte=moment)
    by = {} if due_only else CHANGED_BY_USER
    return rows.update(**QUARANTINE_CLEARED, **by, failures_reset_at=moment) > 0


#: Columns of a backend that is not quarantined. ``consecutive_quarantines`` stays: its probation depends on it.
QUARANTINE_CLEARED: Final[dict[str, Any]] = {
    "quarantined_at": None,
    "quarantine_until": None,
    "quarantine_reason": "",
    "quarantine_by": "",
}


def backend_end_probation(*, backend_id: str) -> bool:
    """End a probation after a prompt of ours succeeded; return whether there was one."""
    with connection.cursor() as cursor:
        cursor.execute(_CLEAR, [backend_id])
        return bool(cursor.rowcount > 0)


#: Runs for every completed prompt: building the statement would take longer than the statement itself.
_CLEAR: Final = (
    f"UPDATE {Backend._meta.db_table} SET quarantine_count = 0"  # noqa: S608 a name of ours
    " WHERE id = %s AND quarantined_at IS NULL AND quarantine_count > 0"
)


def enabled_columns(row: Backend, enabled: bool, moment: dt.datetime) -> dict[str, Any]:
    """Return the changed columns of an enabling or disabling, which ends every hold."""
    if enabled == row.enabled:
        return {}
    return {**HOLD_CLEARED, "enabled": enabled, "status_since": moment, "changed_by": "", "changed_at": moment}


def _change(row: Backend, changes: dict[str, Any]) -> bool:
    different = {name: v for name, v in changes.items() if getattr(row, name) != v}
    if not different:
        return False
    Backend.objects.filter(pk=row.pk).update(**different)
    for name, value in different.items():
        setattr(row, name, value)
    return True
