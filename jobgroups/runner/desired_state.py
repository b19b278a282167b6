"""The desired state of a backend, as its row holds it: enabled, hold and quarantine."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from backends.states import Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What users and the quarantine request of a backend, by the names of its columns."""

    enabled: bool = True
    hold: Hold = Hold.NONE
    evict: bool = False  #: Whether running prompts are evicted.
    changed_by: str = ""
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
    return DesiredState(**{one.name: row[one.name] for one in fields(DesiredState)} | {"hold": Hold(row["hold"])})
