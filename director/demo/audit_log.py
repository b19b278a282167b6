"""Executions of a group's prompts, read from the simulators' audit logs. Pure.

The audit logs prove independently of the Director that no prompt was executed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: An entry of an audit log, see ``backends.simulator.audit_log``.
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Render:
    """One prompt of a group, as recorded by its backend.

    Attributes:
        job_id: the child of the prompt.
        executions: number of executions.
        outcome: result of the last execution; None while it runs.
        started_at: start of the first execution in seconds since the epoch; None without execution.
        ended_at: end of the last execution; None while it runs.
    """

    job_id: str
    executions: int
    outcome: str | None
    started_at: float | None
    ended_at: float | None

    def was_running_at(self, moment: float) -> bool:
        """Return whether the prompt was being executed at ``moment``."""
        return (
            self.started_at is not None
            and self.started_at < moment
            and (self.ended_at is None or self.ended_at > moment)
        )


def renders(entries: Iterable[Entry], group_id: str) -> list[Render]:
    """Return every prompt that was accepted for a group, in the order of acceptance."""
    log = list(entries)
    return [
        _render(mark["job"], [one for one in log if one.get("prompt_id") == entry["prompt_id"]])
        for entry in log
        if entry["kind"] == "accepted" and (mark := _mark(entry)).get("group") == group_id
    ]


def _mark(entry: Entry) -> Mapping[str, Any]:
    """Return the Director's mark on a prompt; empty for a prompt of another client."""
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
