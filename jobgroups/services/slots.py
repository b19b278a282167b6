"""Prompt slots of a backend: how many of our prompts it may have, and whether one is free."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from django.db.models import QuerySet

from backends.models import Backend
from backends.states import prompt_limit
from jobgroups.database.statements import KEY, PreparedQuery
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a backend."""

    backend_id: str
    depth: int  #: How many slots it has; each prompt without a seen end uses one.
    cancelled: Collection[int] = ()  #: Attempts whose running prompts are stopped as jobs, which can hit no other one.

    def free(self, *, locked: bool = False) -> Backend | None:
        """Return the backend with its capabilities if it has a free slot; ``locked``: for the whole transaction."""
        active = _active(self.backend_id)
        stopping = any(
            attempt.state == AttemptState.RUNNING
            and attempt.stop_requested_at is not None
            and attempt.pk not in self.cancelled
            for attempt in active
        )
        row = (_locked_holds if locked else _holds).first(self.backend_id)
        return row if row is not None and not stopping and len(active) < _places(row, self.depth) else None


_active: Final = PreparedQuery(
    lambda: Attempt.objects.filter(backend_id=KEY, ended_at__isnull=True).only("state", "stop_requested_at").order_by()
)


def _places(row: Backend, depth: int) -> int:
    return prompt_limit(
        enabled=row.enabled,
        hold=row.hold,
        quarantined=row.quarantined_at is not None,
        consecutive_quarantines=row.consecutive_quarantines,
        depth=depth,
    )


def _what_holds() -> QuerySet[Backend]:
    held = ("enabled", "hold", "quarantined_at", "consecutive_quarantines")
    return Backend.objects.filter(pk=KEY).only(*held, "tags", "devices", "comfyui_version")


_holds: Final = PreparedQuery(_what_holds)


#: Wait for a failure that is being stored: it may quarantine the backend.
_locked_holds: Final = PreparedQuery(lambda: _what_holds().select_for_update(no_key=True))
