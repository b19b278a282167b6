"""What people read: names of groups, ages, durations, statuses. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400

_GROUP_WORDS: Final = {
    "pending": "Waits for a runner",
    "running": "Running",
    "completed": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
CHILD_WORDS: Final = {
    "queued": "Waits",
    "running": "Runs",
    "completed": "Done",
    "failed": "Failed",
    "timeout": "Timed out",
    "cancelled": "Cancelled",
}
#: How an attempt ended or stands, as a sentence's end: "attempt 1 on gpu-1 …".
ATTEMPT_WORDS: Final = {
    "intent": "is being sent",
    "uncertain": "may have arrived; being looked for",
    "accepted": "waits in its queue",
    "running": "runs",
    "success": "succeeded",
    "error": "raised an error",
    "interrupted": "was interrupted",
    "timeout": "ran out of time",
    "refused": "was refused",
    "not_sent": "was not sent",
    "never_accepted": "never arrived",
    "lost": "was forgotten by ComfyUI",
}


def group_name(group_id: str, metadata: Any) -> str:
    """Return the metadata's ``name``, else its scene and panel, else the id."""
    if not isinstance(metadata, Mapping):
        return group_id
    name = _scalar(metadata.get("name"))
    if name:
        return name
    scene = _scalar(metadata.get("scene"))
    panel = _scalar(metadata.get("panel", metadata.get("panel_id")))
    parts = [scene, f"panel {panel}" if panel else ""]
    return " · ".join(part for part in parts if part) or group_id


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())


def group_word(status: str, *, ended: bool) -> str:
    """Return a group's status in words; a partial one is said while it runs, too."""
    if status == "partial_complete":
        return "Partly done" if ended else "Running, some failed"
    return _GROUP_WORDS.get(status, status)


def duration(seconds: float) -> str:
    """Return ``45 s``, ``4 min``, ``2 h 5 min`` or ``3 d``."""
    if seconds < _MINUTE:
        return f"{max(round(seconds), 1)} s"
    if seconds < _HOUR:
        return f"{round(seconds / _MINUTE)} min"
    if seconds < _DAY:
        hours, rest = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{round(seconds / _DAY)} d"


def ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    """Return how long ago it was, ``just now`` below five seconds."""
    if moment is None:
        return ""
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def memory(size: object) -> str:
    """Return bytes as ``24 GB``, nothing where it is no number."""
    if not isinstance(size, int | float) or isinstance(size, bool) or size <= 0:
        return ""
    return f"{size / 2**30:.0f} GB"


def moment(text: str) -> dt.datetime:
    """Return the time that the API wrote."""
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
