"""What really happened to a group's prompts, read from the simulators' audit logs. Pure.

A Director's own word is no evidence that nothing was rendered twice: the backends' is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: A line of an audit log, see ``backends.simulator.audit_log``.
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Render:
    """One prompt of a group, as its backend saw it.

    Attributes:
        job_id: the child that it was sent for.
        executions: how often it was executed.
        outcome: how its last execution ended, None if it has not.
        started_at: seconds since the epoch, None if it was never executed.
        ended_at: likewise, of its end.
    """

    job_id: str
    executions: int
    outcome: str | None
    started_at: float | None
    ended_at: float | None

    def was_running_at(self, moment: float) -> bool:
        """Whether it was being executed then."""
        return (
            self.started_at is not None
            and self.started_at < moment
            and (self.ended_at is None or self.ended_at > moment)
        )


def renders(entries: Iterable[Entry], group_id: str) -> list[Render]:
    """Return every prompt that was accepted for a group, in the order of acceptance."""
    told = list(entries)
    return [
        _render(mark["job"], [one for one in told if one.get("prompt_id") == entry["prompt_id"]])
        for entry in told
        if entry["kind"] == "accepted" and (mark := _mark(entry)).get("group") == group_id
    ]


def _mark(entry: Entry) -> Mapping[str, Any]:
    """Return what the Director noted on a prompt, nothing on somebody else's."""
    mark = (entry.get("extra_data") or {}).get("director")
    return mark if isinstance(mark, dict) else {}


def _render(job_id: str, entries: list[Entry]) -> Render:
    starts = [entry["time"] for entry in entries if entry["kind"] == "started"]
    ends = [entry for entry in entries if entry["kind"] == "ended"]
    return Render(
        job_id=job_id,
        executions=len(starts),
        outcome=ends[-1]["outcome"] if ends else None,
        started_at=min(starts, default=None),
        ended_at=ends[-1]["time"] if ends else None,
    )
