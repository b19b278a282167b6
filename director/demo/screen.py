"""Output of the demo: progress bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from director.client import (
    Child,
    ChildCompleted,
    ChildEvent,
    ChildFailed,
    ChildProgress,
    ChildStarted,
    ChildTimeout,
    Event,
    Group,
)
from director.demo.checks import DemoResult

#: Percent between two plain progress lines of one child.
_PLAIN_EVERY: Final = 25.0
#: Width of the table in a file or pipe, in columns.
_PLAIN_WIDTH: Final = 120


class Watcher(Protocol):
    """Shows the events of a group on arrival."""

    def on_event(self, event: Event) -> None:
        """Show one event."""


class Screen:
    """Prints the output of the demo.

    Args:
        console: standard output if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _PLAIN_WIDTH

    def say(self, text: str = "") -> None:
        """Print a line without interpreting markup."""
        self._console.print(escape(text), soft_wrap=True)

    def title(self, text: str) -> None:
        """Print a heading."""
        self._console.print(f"\n[bold]{escape(text)}[/bold]", soft_wrap=True)

    @contextmanager
    def watch(self, group: Group) -> Iterator[Watcher]:
        """Show the progress of a group's children."""
        if not self._console.is_terminal:
            yield _Lines(self, group.child_jobs)
            return
        with _progress(self._console) as progress:
            yield _Bars(progress, group.child_jobs)

    def table(self, groups: Sequence[DemoResult]) -> None:
        """Print the result of every child of the groups."""
        table = Table(title="Results", title_justify="left")
        for heading in ("Group", "Backend", "Seed", "Status", "Image or error"):
            table.add_column(heading, overflow="fold")
        for result in groups:
            images = iter(result.images)
            for child in result.group.child_jobs:
                row = (result.title, child.backend_id, str(child.seed), child.status)
                table.add_row(*map(escape, (*row, _outcome(child, images))))
        self._console.print()
        self._console.print(table)


def _outcome(child: Child, images: Iterator[Path]) -> str:
    if child.status == "completed":
        path = next(images, None)
        return path.name if path else "(no image)"
    return f"{child.error_type}: {child.error_message}"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=36),
        TaskProgressColumn(),
        TextColumn("{task.fields[step]}"),
    )
    return Progress(*columns, console=console)


class _Bars:
    """One progress bar per child."""

    def __init__(self, progress: Progress, children: Sequence[Child]) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {
            child.job_id: progress.add_task(
                escape(f"{child.backend_id}  seed {child.seed}"), total=100.0, step="queued"
            )
            for child in children
        }

    def on_event(self, event: Event) -> None:
        """Update the progress bar of the child."""
        if not isinstance(event, ChildEvent):
            return
        done = event.progress if isinstance(event, ChildProgress) else None
        if isinstance(event, ChildCompleted):
            done = 100.0
        self._progress.update(self._bars[event.job_id], completed=done, step=escape(_event_text(event)))


class _Lines:
    """Plain lines: at the start, at every 25 % and at the end of a child."""

    def __init__(self, screen: Screen, children: Sequence[Child]) -> None:
        self._screen = screen
        self._next = {child.job_id: _PLAIN_EVERY for child in children}

    def on_event(self, event: Event) -> None:
        """Print the event, except progress below the next multiple of 25 %."""
        if not isinstance(event, ChildEvent) or self._is_minor(event):
            return
        percent = f"{event.progress:.0f} % " if isinstance(event, ChildProgress) else ""
        self._screen.say(f"  {event.backend_id}: {percent}{_event_text(event)}")

    def _is_minor(self, event: ChildEvent) -> bool:
        if not isinstance(event, ChildProgress):
            return False
        if event.progress < self._next[event.job_id]:
            return True
        self._next[event.job_id] = (event.progress // _PLAIN_EVERY + 1) * _PLAIN_EVERY
        return False


def _event_text(event: ChildEvent) -> str:
    match event:
        case ChildProgress():
            steps = f" {event.steps_completed}/{event.steps_total}" if event.steps_total else ""
            return f"{event.current_step or ''}{steps}"
        case ChildStarted():
            return "started"
        case ChildCompleted():
            return "completed"
        case ChildFailed():
            return f"failed: {event.error}"
        case ChildTimeout():
            return "timed out"
        case _:
            return event.type.removeprefix("child_")
