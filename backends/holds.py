"""The writers of what holds a backend back: a person's pause or drain, and its quarantine.

Each function is one guarded UPDATE, or part of the caller's transaction. Who must not meet a claim
half-way holds the backend's lease: see ``jobgroups.services.holds``.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from django.db import connection

from backends.models import Backend
from backends.states import Hold

_MAX_REASON: Final = 500
_MAX_BY: Final = 150


def backend_held(
    *, row: Backend, hold: Hold, at_once: bool, reason: str, by: str, moment: dt.datetime
) -> bool:
    """Hold a backend back; saying the same again changes nothing.

    Args:
        row: locked by the caller's transaction. A disabled one takes nothing anyway: left as it is.
        hold: pause or drain.
        at_once: give back what runs there instead of awaiting it. Once said it stays said, until
            the hold ends: it may have been carried out already.
        reason, by: in the person's words; "" where they did not say.
        moment: now; a hold that is only said differently keeps its beginning.

    Returns:
        Whether anything changed.
    """
    if not row.enabled:
        return False
    goes_on = row.hold == hold
    at_once = at_once or (goes_on and row.evict)
    changes = {
        "hold": hold.value,
        "evict": at_once,
        "changed_reason": reason[:_MAX_REASON] or (row.changed_reason if goes_on else ""),
        "changed_by": by[:_MAX_BY] or (row.changed_by if goes_on else ""),
        "changed_at": row.changed_at if goes_on else moment,
        **CHANGED_BY_PERSON,
    }
    return _change(row, changes)


def backend_resumed(*, row: Backend, by: str, moment: dt.datetime) -> bool:
    """End a pause or drain. Returns whether there was one."""
    if not row.hold:
        return False
    return _change(
        row, {**NOT_HELD, **CHANGED_BY_PERSON, "changed_by": by[:_MAX_BY], "changed_at": moment}
    )


#: Discovery removes no backend that a person has changed.
CHANGED_BY_PERSON: Final[dict[str, Any]] = {"adopted_at": None}
#: What ends every hold, and the reason for it.
NOT_HELD: Final[dict[str, Any]] = {
    "hold": Hold.NONE.value,
    "evict": False,
    "changed_reason": "",
}


def backend_drained(*, row: Backend, moment: dt.datetime) -> None:
    """Disable a backend that was drained and is empty now; who drained it, and why, stays said."""
    reason = f"drained: {row.changed_reason}" if row.changed_reason else "drained"
    _change(
        row,
        {
            **NOT_HELD,
            "enabled": False,
            "changed_reason": reason[:_MAX_REASON],
            "changed_at": moment,
            "status_since": moment,
        },
    )


def backend_quarantined(
    *,
    row: Backend,
    reason: str,
    by: str,
    moment: dt.datetime,
    until: dt.datetime | None,
) -> bool:
    """Set a backend aside; one that is set aside already stays so, for what is said now.

    Args:
        row: locked by the caller's transaction.
        reason: why, in words.
        by: a person's name; "" for the Director itself, whose word never shortens a person's.
        moment: now.
        until: when it is tried again; None: when somebody releases it.

    Returns:
        Whether it was not set aside before.
    """
    if row.quarantined_at is not None:
        if by:
            told = {"quarantine_until": until, "quarantine_reason": reason[:_MAX_REASON]}
            _change(row, {**told, **CHANGED_BY_PERSON, "quarantine_by": by[:_MAX_BY]})
        return False
    changes = {
        "quarantined_at": moment,
        "quarantine_until": until,
        "quarantine_reason": reason[:_MAX_REASON],
        "quarantine_by": by[:_MAX_BY],
        "consecutive_quarantines": row.consecutive_quarantines + 1,
    }
    if by:
        changes |= CHANGED_BY_PERSON
    return _change(row, changes)


def backend_released(*, backend_id: str, moment: dt.datetime, due_only: bool = False) -> bool:
    """Let a backend out of quarantine, on probation: its earlier failures are forgiven.

    Args:
        backend_id: one that is not set aside, or gone, is no error.
        moment: now.
        due_only: only if its time is over, as it is stored now.

    Returns:
        Whether it was set aside.
    """
    rows = Backend.objects.filter(pk=backend_id, quarantined_at__isnull=False)
    if due_only:
        rows = rows.filter(quarantine_until__lte=moment)
    by = {} if due_only else CHANGED_BY_PERSON
    return rows.update(**NOT_QUARANTINED, **by, failures_reset_at=moment) > 0


#: What a backend that is not set aside looks like. The count is what its probation hangs on.
NOT_QUARANTINED: Final[dict[str, Any]] = {
    "quarantined_at": None,
    "quarantine_until": None,
    "quarantine_reason": "",
    "quarantine_by": "",
}


def backend_succeeded(*, backend_id: str) -> bool:
    """A prompt of ours succeeded there: its probation is over. Returns whether there was one."""
    with connection.cursor() as cursor:
        cursor.execute(_CLEAR, [backend_id])
        return bool(cursor.rowcount > 0)


#: Written out: with every picture, the making of this statement would take longer than the statement.
_CLEAR: Final = (
    f"UPDATE {Backend._meta.db_table} SET quarantine_count = 0"  # noqa: S608 a name of ours
    " WHERE id = %s AND quarantined_at IS NULL AND quarantine_count > 0"
)


def backend_switched(row: Backend, enabled: bool, moment: dt.datetime) -> dict[str, Any]:
    """Return the columns of an enabling or disabling: it is a new word, and ends every hold."""
    if enabled == row.enabled:
        return {}
    said = {**NOT_HELD, "changed_by": "", "changed_at": moment}
    return {"enabled": enabled, "status_since": moment, **said}


def _change(row: Backend, changes: dict[str, Any]) -> bool:
    different = {name: v for name, v in changes.items() if getattr(row, name) != v}
    if not different:
        return False
    Backend.objects.filter(pk=row.pk).update(**different)
    for name, value in different.items():
        setattr(row, name, value)
    return True
