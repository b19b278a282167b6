"""Output of the demo: progress bars in a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from director.client import Child, ChildCompleted, ChildEvent, ChildFailed, ChildProgress, ChildTimeout, Event, Group
from director.demo.checks import DemoResult

#: Percent between two plain progress lines of one child.
_PLAIN_EVERY: Final = 25.0
#: Width of the table in a file or pipe, in columns.
_PLAIN_WIDTH: Final = 120


class Screen:
    """Prints the output of the demo."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _PLAIN_WIDTH

    def say(self, text: str = "") -> None:
        self._console.print(escape(text), soft_wrap=True)

    def title(self, text: str) -> None:
        self._console.print(f"\n[bold]{escape(text)}[/bold]", soft_wrap=True)

    @contextmanager
    def watch(self, group: Group) -> Iterator[Callable[[Event], None]]:
        """Yield a function that shows an event of the group on its arrival."""
        if not self._console.is_terminal:
            yield _lines(self, group.child_jobs)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=36),
            TaskProgressColumn(),
            TextColumn("{task.fields[step]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            yield _bars(progress, group.child_jobs)

    def table(self, groups: Sequence[DemoResult]) -> None:
        table = Table(title="Results", title_justify="left")
        for heading in ("Group", "Backend", "Seed", "Status", "Image or error"):
            table.add_column(heading, overflow="fold")
        for result in groups:
            images = iter(result.images)
            for child in result.group.child_jobs:
                row = (result.title, child.backend_id or "", str(child.seed), child.status)
                table.add_row(*map(escape, (*row, _outcome(child, images))))
        self._console.print()
        self._console.print(table)


def _outcome(child: Child, images: Iterator[Path]) -> str:
    if child.status == "completed":
        path = next(images, None)
        return path.name if path else "(no image)"
    return f"{child.error_type}: {child.error_message}"


def _bars(progress: Progress, children: Sequence[Child]) -> Callable[[Event], None]:
    bars: dict[str, TaskID] = {
        child.job_id: progress.add_task(escape(f"{child.backend_id}  seed {child.seed}"), total=100.0, step="queued")
        for child in children
    }

    def show(event: Event) -> None:
        if not isinstance(event, ChildEvent):
            return
        done = event.progress if isinstance(event, ChildProgress) else None
        if isinstance(event, ChildCompleted):
            done = 100.0
        progress.update(bars[event.job_id], completed=done, step=escape(_event_text(event)))

    return show


def _lines(screen: Screen, children: Sequence[Child]) -> Callable[[Event], None]:
    """Plain lines: at the start, at every 25 % and at the end of a child."""
    due = {child.job_id: _PLAIN_EVERY for child in children}

    def show(event: Event) -> None:
        if not isinstance(event, ChildEvent):
            return
        percent = ""
        if isinstance(event, ChildProgress):
            if event.progress < due[event.job_id]:
                return
            due[event.job_id] = (event.progress // _PLAIN_EVERY + 1) * _PLAIN_EVERY
            percent = f"{event.progress:.0f} % "
        screen.say(f"  {event.backend_id}: {percent}{_event_text(event)}")

    return show


def _event_text(event: ChildEvent) -> str:
    match event:
        case ChildProgress():
            steps = f" {event.steps_completed}/{event.steps_total}" if event.steps_total else ""
            return f"{event.current_step or ''}{steps}"
        case ChildFailed():
            return f"failed: {event.error}"
        case ChildTimeout():
            return "timed out"
        case _:
            return event.type.removeprefix("child_")
