"""The desired state of a backend, as its row holds it: enabled, hold and quarantine."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.states import Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What users and the quarantine request of a backend."""

    enabled: bool = True
    hold: Hold = Hold.NONE
    evict: bool = False  #: Whether running prompts are evicted.
    by: str = ""
    quarantined_at: dt.datetime | None = None
    #: When the backend is probed again; None: when a user ends the quarantine.
    quarantine_until: dt.datetime | None = None
    quarantine_by: str = ""  #: The user who requested the quarantine; "": the Director itself.
    quarantine_reason: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether the backend is quarantined."""
        return self.quarantined_at is not None

    @property
    def is_schedulable(self) -> bool:
        """Whether prompts may be sent to the backend."""
        return self.enabled and not self.hold and not self.quarantined


def desired_state(row: Mapping[str, Any]) -> DesiredState:
    """Return the desired state from the values of a backend's row."""
    return DesiredState(
        enabled=row["enabled"],
        hold=Hold(row["hold"]),
        evict=row["evict"],
        by=row["changed_by"],
        quarantined_at=row["quarantined_at"],
        quarantine_until=row["quarantine_until"],
        quarantine_by=row["quarantine_by"],
        quarantine_reason=row["quarantine_reason"],
    )
