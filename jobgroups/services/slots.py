"""Prompt slots of a backend: how many of our prompts it may have, and whether one is free."""

from __future__ import annotations

from typing import Final

from django.db.models import QuerySet

from backends.models import Backend
from backends.states import prompt_limit
from jobgroups.database.statements import KEY, PreparedQuery
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt


def has_free_slot(backend_id: str, depth: int, *, locked: bool = False) -> bool:
    active = _active(backend_id)
    stopping = any(one.state == AttemptState.RUNNING and one.stop_requested_at is not None for one in active)
    return not stopping and len(active) < _places(backend_id, depth, locked=locked)


_active: Final = PreparedQuery(
    lambda: Attempt.objects.filter(backend_id=KEY, ended_at__isnull=True).only("state", "stop_requested_at").order_by()
)


def _places(backend_id: str, depth: int, *, locked: bool) -> int:
    row = (_locked_holds if locked else _holds).first(backend_id)
    if row is None:
        return 0
    return prompt_limit(
        enabled=row.enabled,
        hold=row.hold,
        quarantined=row.quarantined_at is not None,
        consecutive_quarantines=row.consecutive_quarantines,
        depth=depth,
    )


def _what_holds() -> QuerySet[Backend]:
    return Backend.objects.filter(pk=KEY).only("enabled", "hold", "quarantined_at", "consecutive_quarantines")


_holds: Final = PreparedQuery(_what_holds)


#: Wait for a failure that is being stored: it may quarantine the backend.
_locked_holds: Final = PreparedQuery(lambda: _what_holds().select_for_update(no_key=True))
