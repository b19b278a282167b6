"""State of a watched group, event by event. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from director.cli.text import plain_line
from director.client import Child, ChildProgress, Event, GroupReopened, InitialState

FINAL: Final = frozenset({"completed", "failed", "timeout", "cancelled"})
_STATUS_OF: Final = {
    "child_started": "running",
    "child_progress": "running",
    "child_completed": "completed",
    "child_failed": "failed",
    "child_timeout": "timeout",
    "child_cancelled": "cancelled",
    "child_retrying": "queued",
    "child_requeued": "queued",
}


@dataclass(slots=True)
class Row:
    """One job as it is shown.

    Attributes:
        backend_id: None: it waits in the pool, or ended there.
        progress: Percent.
        note: Current step, or reason of the status, on one line.
        attempt: Number of the current or last attempt.
    """

    job_id: str
    backend_id: str | None
    seed: int | None
    status: str = "queued"
    progress: float = 0.0
    note: str = ""
    attempt: int = 0


@dataclass(slots=True)
class GroupProgress:
    """A group's jobs, by job id in their order."""

    rows: dict[str, Row] = field(default_factory=dict)

    def on_event(self, event: Event) -> list[Row]:
        """Apply an event; return the jobs whose status it changed."""
        if isinstance(event, InitialState):
            return self._replace(event.group.child_jobs)
        if isinstance(event, GroupReopened):
            return self._reopen(event)
        status = _STATUS_OF.get(event.type)
        row = self.rows.get(str(event.raw.get("job_id")))
        if status is None or row is None:
            return []
        if isinstance(event, ChildProgress):
            return self._progress(row, event)
        before = (row.status, row.note)
        self._update(row, status, event.raw)
        # Queued again is a change also for a job that had not started.
        return [row] if (row.status, row.note) != before else []

    def _replace(self, children: Iterable[Child]) -> list[Row]:
        before = {row.job_id: row.status for row in self.rows.values()}
        self.rows = {child.job_id: _row(child) for child in children}
        return [row for row in self.rows.values() if before.get(row.job_id) != row.status]

    def _reopen(self, event: GroupReopened) -> list[Row]:
        rows = [self.rows[job_id] for job_id in event.job_ids if job_id in self.rows]
        backends = dict(zip(event.job_ids, event.backend_ids, strict=False))
        for row in rows:
            row.status, row.progress, row.note = "queued", 0.0, "again"
            row.backend_id = backends.get(row.job_id, row.backend_id)
        return rows

    def _progress(self, row: Row, event: ChildProgress) -> list[Row]:
        is_new = row.status != "running"
        row.status, row.progress = "running", event.progress
        steps = f" {event.steps_completed}/{event.steps_total}" if event.steps_total else ""
        row.note = plain_line(f"{event.current_step or ''}{steps}")
        return [row] if is_new else []

    def _update(self, row: Row, status: str, raw: dict[str, Any]) -> None:
        row.status = status
        row.note = plain_line(_note(status, raw, raw.get("backend_id") or row.backend_id))
        # Null: the job waits in the pool.
        row.backend_id = raw["next_backend_id" if "next_backend_id" in raw else "backend_id"]
        row.attempt = int(raw.get("attempt") or row.attempt)
        if status == "completed":
            row.progress = 100.0
        elif status == "queued":
            row.progress = 0.0


def _row(child: Child) -> Row:
    note = child.waiting_reason or child.error_message or child.current_step or ""
    if child.status == "completed":
        note = _warnings(child.warnings)
    return Row(
        job_id=child.job_id,
        backend_id=child.backend_id,
        seed=child.seed,
        status=child.status,
        progress=child.progress,
        note=plain_line(note),
        attempt=child.attempt_count,
    )


def _warnings(warnings: Any) -> str:
    texts = warnings if isinstance(warnings, list | tuple) else ()
    return "; ".join(f"warning: {warning}" for warning in texts)


def _note(status: str, raw: dict[str, Any], left: str | None) -> str:
    """Return the reason of a status; ``left``: the backend of the attempt that is over."""
    if status == "completed":
        return _warnings(raw.get("warnings"))
    if status == "queued":
        after = f", after {left}" if left else ""
        return f"again{after}: {raw.get('reason') or 'the attempt was not counted'}"
    if status == "timeout":
        return str(raw.get("error") or f"Timed out after {raw.get('timeout_seconds')} s")
    if status == "failed":
        return str(raw.get("error") or "")
    return ""
