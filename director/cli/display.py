"""Displays of a watched group: bars on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from director.cli.environment import is_colourless
from director.cli.text import (
    COLOURS,
    NOT_NEEDED,
    coloured,
    is_terminal,
    json_text,
    label,
    place,
    plain_line,
)
from director.client import Child, ChildProgress, Event, GroupComplete, GroupReopened, InitialState

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
        backend: Its name; None: it waits in the pool, or ended there.
        progress: Percent.
        note: Current step, or reason of the status, on one line.
        attempt: Number of the current or last attempt.
    """

    job_id: str
    backend: str | None
    seed: int | None
    status: str = "queued"
    progress: float = 0.0
    note: str = ""
    attempt: int = 0


@dataclass(slots=True)
class GroupProgress:
    """A group's jobs, by job id in their order."""

    name_of: Callable[[str], str] = str  #: Returns what users call a backend, of its id.
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
        self.rows = {child.job_id: _row(child, self._name(child.backend_id)) for child in children}
        return [row for row in self.rows.values() if before.get(row.job_id) != row.status]

    def _reopen(self, event: GroupReopened) -> list[Row]:
        rows = [self.rows[job_id] for job_id in event.job_ids if job_id in self.rows]
        backends = dict(zip(event.job_ids, event.backend_ids, strict=False))
        for row in rows:
            row.status, row.progress, row.note = "queued", 0.0, "again"
            if row.job_id in backends:
                row.backend = self._name(backends[row.job_id])
        return rows

    def _progress(self, row: Row, event: ChildProgress) -> list[Row]:
        is_new = row.status != "running"
        row.status, row.progress = "running", event.progress
        steps = f" {event.steps_completed}/{event.steps_total}" if event.steps_total else ""
        row.note = plain_line(f"{event.current_step or ''}{steps}")
        return [row] if is_new else []

    def _update(self, row: Row, status: str, raw: dict[str, Any]) -> None:
        row.status = status
        row.note = plain_line(_note(status, raw, self._name(raw.get("backend_id")) or row.backend))
        # Null: the job waits in the pool.
        now_at = raw["next_backend_id" if "next_backend_id" in raw else "backend_id"]
        row.backend = self._name(now_at)
        row.attempt = int(raw.get("attempt") or row.attempt)
        if status == "completed":
            row.progress = 100.0
        elif status == "queued":
            row.progress = 0.0

    def _name(self, backend_id: str | None) -> str | None:
        return backend_id and self.name_of(backend_id)


def _row(child: Child, backend: str | None) -> Row:
    note = child.waiting_reason or child.error_message or child.current_step or ""
    if child.stopped_by:
        note = NOT_NEEDED
    if child.status == "completed":
        note = _warnings(child.all_warnings)
    return Row(
        job_id=child.job_id,
        backend=backend,
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
    if status == "cancelled":
        return NOT_NEEDED if raw.get("stopped_by") else ""
    if status == "failed":
        return str(raw.get("error") or "")
    return ""


if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

#: Jobs with these statuses are shown first if there are more jobs than lines.
_FIRST_SHOWN: Final = ("running", "failed", "timeout", "queued", "cancelled", "completed")


@contextmanager
def make_display(
    *, as_json: bool, quiet: bool = False, name_of: Callable[[str], str] = str
) -> Iterator[Display]:
    """Return the display for JSON, ``--quiet``, a terminal, or a pipe; ``name_of`` returns what
    users call a backend.
    """
    if as_json:
        yield JsonLines()
    elif quiet:
        yield Display()
    elif is_terminal():
        with _bars(name_of) as bars:
            yield bars
    else:
        yield Lines(name_of)


class Display:
    """Shows nothing; base class of the other displays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def on_event(self, event: Event) -> None:
        """Show an event."""

    def on_saved(self, job_id: str, path: Path) -> None:
        """Show a saved file; called from other threads."""

    def _print(self, text: str) -> None:
        with self._lock:
            click.echo(text)


class JsonLines(Display):
    """Each event on a line, as the stream sent it; a line for each saved file."""

    def on_event(self, event: Event) -> None:
        self._print(json_text(event.raw))

    def on_saved(self, job_id: str, path: Path) -> None:
        saved = {"type": "file_saved", "job_id": job_id, "path": str(path)}
        self._print(json_text(saved))


class Lines(Display):
    """One line per change."""

    def __init__(self, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self._progress = GroupProgress(name_of)

    def on_event(self, event: Event) -> None:
        for row in self._progress.on_event(event):
            if not (isinstance(event, InitialState) and row.status == "queued"):
                self._print(line(row))

    def on_saved(self, job_id: str, path: Path) -> None:
        self._print(f"saved {path}")


def line(row: Row) -> str:
    """Return a job in one line: ``gpu-2 seed 43: failed: CUDA out of memory``."""
    word = label(row.status)
    if row.status == "completed" and row.attempt > 1:
        word = f"completed with attempt {row.attempt}"
    note = f": {row.note}" if row.note and row.status != "running" else ""
    where = click.style(place(row.backend, row.status), dim=row.backend is None)
    return f"{where} seed {row.seed}: {coloured(row.status, word)}{note}"


@contextmanager
def _bars(name_of: Callable[[str], str]) -> Iterator[Bars]:
    from rich.console import Console  # noqa: PLC0415 imported where bars are drawn
    from rich.live import Live  # noqa: PLC0415 likewise

    console = Console(no_color=is_colourless(), highlight=False)
    bars = Bars(console, name_of)
    with Live(console=console, get_renderable=bars.drawn, refresh_per_second=8) as bars.live:
        yield bars


class Bars(Display):
    """One bar per job, and one line for the jobs without a bar."""

    def __init__(self, console: Console, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self._console = console
        self._progress = GroupProgress(name_of)
        self.live: Live | None = None

    def on_event(self, event: Event) -> None:
        with self._lock:
            self._progress.on_event(event)
        if isinstance(event, GroupComplete) and self.live is not None:
            self.live.refresh()

    def on_saved(self, job_id: str, path: Path) -> None:
        self._console.print(f"saved {path}", markup=False, soft_wrap=True)

    def drawn(self) -> RenderableType:
        """Return all bars, no higher than the terminal."""
        with self._lock:
            rows = list(self._progress.rows.values())
        return drawn(rows, *self._console.size)


def drawn(rows: list[Row], width: int, height: int) -> RenderableType:
    """Return the lines of the jobs: at most ``height`` - 2."""
    from rich.console import Group  # noqa: PLC0415 as in _bars
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 likewise
    from rich.table import Table  # noqa: PLC0415 likewise
    from rich.text import Text  # noqa: PLC0415 likewise

    room = max(3, height - 2)
    listed = rows
    if len(rows) > room:
        order = sorted(rows, key=lambda row: _FIRST_SHOWN.index(row.status))
        first = {row.job_id for row in order[: room - 1]}
        listed = [row for row in rows if row.job_id in first]
    has_seeds = width >= 72
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, max_width=max(8, width // 4))
    if has_seeds:
        table.add_column(no_wrap=True, justify="right")
    table.add_column(width=max(6, min(36, width // 3)))
    # The only column that gets narrower if a line is too long.
    table.add_column(overflow="ellipsis")
    for row in listed:
        colour, is_final = COLOURS.get(row.status, ""), row.status in FINAL
        name = Text(place(row.backend, row.status), style="" if row.backend else "dim")
        done = 100.0 if is_final else row.progress
        bar = ProgressBar(completed=done, style="dim", complete_style=colour, finished_style=colour)
        word = ": ".join(filter(None, (label(row.status), row.note)))
        word = f"{row.progress:3.0f} % {row.note}" if row.status == "running" else word
        seed = [str(row.seed)] if has_seeds else []
        table.add_row(
            name,
            *seed,
            bar,
            Text(word, colour if is_final else "", no_wrap=True, overflow="ellipsis"),
        )
    if len(listed) == len(rows):
        return table
    return Group(table, Text(_rest(rows, listed), "dim", no_wrap=True, overflow="ellipsis"))


def _rest(rows: list[Row], listed: list[Row]) -> str:
    ids = {row.job_id for row in listed}
    hidden = [row for row in rows if row.job_id not in ids]
    counts = Counter(row.status for row in hidden)
    parts = [f"{counts[name]} {label(name)}" for name in reversed(_FIRST_SHOWN) if counts[name]]
    return f"and {len(hidden)} more: {', '.join(parts)}"
