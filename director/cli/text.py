"""How things are written for people: ages, durations, columns, what became of a child."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from director.client import Child, Group

#: Colour of a status, of groups, children and backends alike.
_COLOURS: Final[Mapping[str, str]] = {
    "completed": "green",
    "online": "green",
    "running": "cyan",
    "busy": "cyan",
    "partial_complete": "yellow",
    "paused": "yellow",
    "draining": "yellow",
    "failed": "red",
    "timeout": "red",
    "offline": "red",
    "quarantined": "red",
}


def coloured(word: str, text: str | None = None) -> str:
    """Return ``text`` (else the word itself) in the colour of the status ``word``."""
    return click.style(text if text is not None else word, fg=_COLOURS.get(word))


def duration(seconds: float) -> str:
    """Return ``42 s``, ``3 min 20 s``, ``2 h 5 min`` or ``3 d``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d"


def local(moment: dt.datetime | None) -> str:
    """Return a moment as this machine's clock shows it: the time today, else the date too."""
    if moment is None:
        return "-"
    here = moment.astimezone()
    is_today = here.date() == dt.datetime.now(dt.UTC).astimezone().date()
    return f"{here:%H:%M:%S}" if is_today else f"{here:%Y-%m-%d %H:%M}"


def plural(count: int, word: str, several: str | None = None) -> str:
    """Return ``1 child``, ``3 children``."""
    return f"{count} {word if count == 1 else several or word + 's'}"


def plain_line(text: str) -> str:
    """Return a text of somebody else's as one line that moves no cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]], statuses: int = -1) -> list[str]:
    """Return a table's lines, aligned; on a terminal no line is longer than it is wide.

    Args:
        heads: of the columns.
        rows: texts; their last column takes what room is left.
        statuses: the column that is coloured by its word, -1 for none.
    """
    table = [list(heads), *(list(map(plain_line, row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    room = _room(widths)
    lines = []
    for number, row in enumerate(table):
        *first, last = (cell.ljust(widths[i]) for i, cell in enumerate(row))
        last = _cut(last.rstrip(), room)
        cells = [*first, last]
        if number and statuses >= 0:
            cells[statuses] = coloured(row[statuses], cells[statuses])
        lines.append("  ".join(cells).rstrip())
    return lines


def _room(widths: Sequence[int]) -> int | None:
    """Return the width of the last column; None where no_backends_error looks at a terminal.

    Where even the first ones do not fit the terminal wraps them: nothing that matters is cut.
    """
    if not is_terminal():
        return None
    left = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
    return left if left >= 8 else None


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def _cut(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else f"{text[: room - 1]}…"


# --- groups and children --------------------------------------------------------------------------


def why(child: Child) -> str:
    """Return in one line why a child is where it is; empty where there is nothing to say."""
    if child.status in ("queued", "running"):
        return plain_line(child.waiting_reason or "")
    if child.status in ("failed", "timeout"):
        said = child.error_message or "It failed."
        kind = child.raw.get("failure_class")
        return f"{plain_line(said)} ({kind})" if kind else plain_line(said)
    if child.status == "completed" and child.attempt_count > 1:
        return f"{child.attempt_count} attempts"
    return ""


def counts(group: Group) -> str:
    """Return ``4 done, 1 done after 2 attempts, 1 failed``.

    Attempts are not called tries: the attempt of a child that was moved or evicted did not fail.
    """
    done = [one for one in group.child_jobs if one.status == "completed"]
    again = [one for one in done if one.attempt_count > 1]
    by_status = {
        status: sum(one.status == status for one in group.child_jobs)
        for status in ("failed", "timeout", "cancelled", "running", "queued")
    }
    parts = [f"{len(done) - len(again)} done"] if len(done) > len(again) else []
    for attempts in sorted({one.attempt_count for one in again}):
        number = sum(one.attempt_count == attempts for one in again)
        parts.append(f"{number} done after {attempts} attempts")
    names = {"timeout": "timed out", "queued": "waiting"}
    parts += [f"{number} {names.get(s, s)}" for s, number in by_status.items() if number]
    return ", ".join(parts) or "nothing yet"


def summary(group: Group) -> str:
    """Return a group in one sentence."""
    took = ""
    if group.completed_at and group.created_at:
        took = f" in {duration((group.completed_at - group.created_at).total_seconds())}"
    state = {"partial_complete": "partly completed"}.get(group.status, group.status)
    if not group.finished and group.status == "partial_complete":
        state = "running"
    return f"{group.job_group_id} {coloured(group.status, state)}: {counts(group)}{took}."
