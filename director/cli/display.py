"""Displays of a watched group: bars on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from director.cli.environment import is_colourless
from director.cli.progress import GroupProgress, Row
from director.cli.text import COLOURS, coloured, is_terminal, label
from director.client import Event, Group, GroupComplete, InitialState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

#: Jobs with these statuses are shown first if there are more jobs than lines.
_FIRST_SHOWN: Final = ("running", "failed", "timeout", "queued", "cancelled", "completed")
_REFRESHES_PER_SECOND: Final = 8


@contextmanager
def make_display(*, as_json: bool, quiet: bool = False) -> Iterator[Display]:
    """Return the display for JSON, ``--quiet``, a terminal, or a pipe."""
    if as_json:
        yield JsonLines()
    elif quiet:
        yield Display()
    elif is_terminal():
        with _bars() as bars:
            yield bars
    else:
        yield Lines()


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
        """Print the event."""
        self._print(json.dumps(event.raw, ensure_ascii=False))

    def on_saved(self, job_id: str, path: Path) -> None:
        """Print the path of the file."""
        saved = {"type": "file_saved", "job_id": job_id, "path": str(path)}
        self._print(json.dumps(saved, ensure_ascii=False))


class Lines(Display):
    """One line per change."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = GroupProgress()

    def on_event(self, event: Event) -> None:
        """Print the jobs whose status an event changed."""
        for row in self._progress.on_event(event):
            if not (isinstance(event, InitialState) and row.status == "queued"):
                self._print(line(row))

    def on_saved(self, job_id: str, path: Path) -> None:
        """Print the path of the file."""
        self._print(f"saved {path}")


def line(row: Row) -> str:
    """Return a job in one line: ``gpu-2 seed 43: failed: CUDA out of memory``."""
    word = label(row.status)
    if row.status == "completed" and row.attempt > 1:
        word = f"completed with attempt {row.attempt}"
    note = f": {row.note}" if row.note and row.status != "running" else ""
    return f"{row.backend_id} seed {row.seed}: {coloured(row.status, word)}{note}"


# --- bars -----------------------------------------------------------------------------------------


@contextmanager
def _bars() -> Iterator[Bars]:
    from rich.console import Console  # noqa: PLC0415 imported where bars are drawn
    from rich.live import Live  # noqa: PLC0415 likewise

    console = Console(no_color=is_colourless(), highlight=False)
    bars = Bars(console)
    live = Live(console=console, get_renderable=bars.drawn, refresh_per_second=_REFRESHES_PER_SECOND)
    with live:
        bars.live = live
        yield bars


class Bars(Display):
    """One bar per job, and one line for the jobs without a bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._progress = GroupProgress()
        self.live: Live | None = None

    def on_event(self, event: Event) -> None:
        """Update the bars; draw the end at once."""
        with self._lock:
            self._progress.on_event(event)
        if isinstance(event, GroupComplete) and self.live is not None:
            self.live.refresh()

    def on_saved(self, job_id: str, path: Path) -> None:
        """Print the path of the file above the bars."""
        self._console.print(f"saved {path}", markup=False, soft_wrap=True)

    def drawn(self) -> Text:
        """Return all bars, no wider and no higher than the terminal."""
        from rich.text import Text  # noqa: PLC0415 as in _bars

        with self._lock:
            rows = list(self._progress.rows.values())
        lines = [Text.assemble(*parts) for parts in drawn(rows, *self._console.size)]
        return Text("\n", no_wrap=True, overflow="crop").join(lines)


#: A piece of a line, and its style.
Part = tuple[str, str]


def drawn(rows: list[Row], width: int, height: int) -> list[list[Part]]:
    """Return the lines of the jobs: at most ``height`` - 2, each at most ``width`` columns."""
    room = max(3, height - 2)
    shown = rows
    if len(rows) > room:
        order = sorted(rows, key=lambda row: _FIRST_SHOWN.index(row.status))
        first = {row.job_id for row in order[: room - 1]}
        shown = [row for row in rows if row.job_id in first]
    names = min(max((len(row.backend_id) for row in rows), default=0), max(8, width // 4))
    seeds = max((len(str(row.seed)) for row in rows), default=0) if width >= 72 else 0
    lines = [_bar(row, width, names, seeds) for row in shown]
    if len(shown) < len(rows):
        lines.append([(_rest(rows, shown, width), "dim")])
    return lines


def _bar(row: Row, width: int, names: int, seeds: int) -> list[Part]:
    name = row.backend_id if len(row.backend_id) <= names else f"{row.backend_id[: names - 1]}…"
    head = f"{name:<{names}} " + (f"{row.seed!s:>{seeds}} " if seeds else "")
    length = max(6, min(36, (width - len(head) - 6) // 2))
    colour = COLOURS.get(row.status, "")
    filled = length if row.is_final else round(length * row.progress / 100)
    tail = f"{row.progress:3.0f} % " if row.status == "running" else ""
    word = row.note if row.status == "running" else ": ".join(filter(None, (label(row.status), row.note)))
    left = width - len(head) - length - 1 - len(tail)
    text = word if len(word) <= left else f"{word[: max(0, left - 1)]}…"
    return [
        (head, ""),
        ("━" * filled, colour),
        ("─" * (length - filled), "dim"),
        (f" {tail}{text}", colour if row.is_final else ""),
    ]


def _rest(rows: list[Row], shown: list[Row], width: int) -> str:
    hidden = [row for row in rows if row not in shown]
    by_status = {status: sum(row.status == status for row in hidden) for status in reversed(_FIRST_SHOWN)}
    parts = [f"{number} {label(status)}" for status, number in by_status.items() if number]
    return f"and {len(hidden)} more: {', '.join(parts)}"[:width]


def ended_well(group: Group) -> bool:
    """Return whether every job of a group completed."""
    return group.finished and group.completed_count == group.total_count
