"""Texts of the pages: names, ages, durations, statuses. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from jobgroups.domain import text as wording
from jobgroups.domain.states import PartialOutputs

#: Shared with notices.
group_name = wording.group_name
duration = wording.duration
on_attempt = wording.on_attempt

_GROUP_LABELS: Final = {
    "pending": "Queued",
    "running": "Running",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
CHILD_LABELS: Final = {
    "queued": "Queued",
    "running": "Running",
    "completed": "Completed",
    "failed": "Failed",
    "timeout": "Timed out",
    "cancelled": "Cancelled",
}
#: State of an attempt, as the end of a sentence: "attempt 1 on gpu-1 …".
ATTEMPT_LABELS: Final = {
    "intent": "is being sent",
    "uncertain": "may have been accepted; being looked up",
    "accepted": "is pending",
    "running": "is running",
    "success": "succeeded",
    "error": "raised an error",
    "interrupted": "was interrupted",
    "timeout": "timed out",
    "refused": "was refused",
    "not_sent": "was not sent",
    "never_accepted": "was never accepted",
    "lost": "was forgotten by ComfyUI",
}


def status_label(status: str, *, ended: bool) -> str:
    """Return the label of a group's status; partial_complete also occurs while a group runs."""
    if status == "partial_complete":
        return "Partly completed" if ended else "Running, some failed"
    return _GROUP_LABELS.get(status, status)


def result_label(completed: int, total: int, tries: Mapping[int, int]) -> str:
    """Return ``5/12 done``; of a whole group whose machines failed ``4 done, 1 done on the second attempt``.

    Args:
        completed: number of completed children.
        total: number of children.
        tries: completed children by number of the attempt, without first attempts.
    """
    again = [f"{count} completed {on_attempt(number)}" for number, count in sorted(tries.items())]
    if not again:
        return f"{completed}/{total} completed"
    if completed == total:
        first = completed - sum(tries.values())
        return ", ".join([f"{first} completed"] * (first > 0) + again)
    late = [f"{count} {on_attempt(number)}" for number, count in sorted(tries.items())]
    return f"{completed}/{total} completed, {', '.join(late)}"


#: Policies for outputs of a workflow that ComfyUI refuses.
PARTIAL_OUTPUTS: Final = {
    PartialOutputs.ACCEPT: "the job keeps the others, with a warning",
    PartialOutputs.FAIL: "the job is stopped and fails",
}


def policy_text(max_attempts: int, retry_elsewhere: str | bool, retry_on: Sequence[str] | None = None) -> str:
    """Return the text of a retry policy; ``retry_on`` None: after every failure that may be retried."""
    if max_attempts == 1:
        said = "it is not retried"
        moves = {"group": " the other backends of the group", "any": " any other backend"}
        if where := moves.get(str(retry_elsewhere)):
            said += f"; while its backend is offline it may move to{where}"
        return said
    places = {"group": ", also on the other backends of the group", "any": ", also on any other backend"}
    where = places.get(str(retry_elsewhere), ", on its own backend only")
    these = ", ".join(wording.failure_label(one) for one in retry_on or ())
    return f"up to {max_attempts} attempts{where}" + (f", only after: {these}" if these else "")


def ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    """Return how long ago it was, ``just now`` below five seconds."""
    if moment is None:
        return ""
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def memory(size: object) -> str:
    """Return bytes as ``24 GB``, empty if the value is not a number."""
    if not isinstance(size, int | float) or isinstance(size, bool) or size <= 0:
        return ""
    return f"{size / 2**30:.0f} GB"


def parse_time(text: str) -> dt.datetime:
    """Return the time in a timestamp of the API."""
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
