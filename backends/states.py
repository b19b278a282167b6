"""What a backend is doing, as people and schedulers see it, and what holds it back. Pure."""

from __future__ import annotations

from enum import StrEnum


class BackendState(StrEnum):
    """The one word that is shown for a backend; derived from its row, never stored."""

    UNKNOWN = "unknown"  #: Not heard from since it was registered.
    ONLINE = "online"  #: Answers, and nothing runs there.
    BUSY = "busy"  #: Answers, and something runs or waits there.
    PAUSED = "paused"  #: A person holds it: what waits for it keeps waiting.
    DRAINING = (
        "draining"  #: A person empties it: it takes nothing more, and is disabled when empty.
    )
    OFFLINE = "offline"  #: Does not answer, or is not fit.
    DISABLED = "disabled"  #: A person took it out.
    QUARANTINED = (
        "quarantined"  #: It failed too often in a short time; forgiven later, or by a person.
    )


class Hold(StrEnum):
    """How a person holds a backend back without disabling it."""

    NONE = ""
    PAUSE = "pause"  #: No new prompts until somebody resumes it.
    DRAIN = "drain"  #: No new prompts or children; disabled once nothing of ours is there.
