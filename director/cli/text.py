"""Texts for users: statuses, times, tables, results of jobs and groups."""

import datetime as dt
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from director.client import Child, Group, Pause
from jobgroups.domain.text import duration
from jobgroups.workflow.assets import referenced_asset

#: Colour of a status of groups, jobs and backends.
COLOURS: Final[Mapping[str, str]] = {
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
#: Backends that a line names; a farm may have hundreds.
_MOST_NAMED: Final = 10


def label(status: str) -> str:
    """Return a status as users read it."""
    return {"timeout": "timed out", "partial_complete": "partly completed"}.get(status, status)


_UNUSUAL: Final = re.compile(r"[^\n -~]")
NOT_NEEDED: Final = "not needed"  #: What is shown of a job that ``stop_when`` stopped.
_ORDER: Final = ("completed", "failed", "timeout", "cancelled", NOT_NEEDED, "running", "queued")


def shown_status(child: Child) -> str:
    """Return the status of a job, of one that ``stop_when`` stopped ``not needed``."""
    return NOT_NEEDED if child.stopped_by else child.status


def coloured(status: str, text: str | None = None) -> str:
    """Return ``text``, or the status itself, in the colour of the status."""
    return click.style(label(status) if text is None else text, fg=COLOURS.get(status))


def local(moment: dt.datetime | None) -> str:
    """Return a time by this host's clock; with the date if it is not today."""
    if moment is None:
        return "-"
    here = moment.astimezone()
    is_today = here.date() == dt.datetime.now(dt.UTC).astimezone().date()
    return f"{here:%H:%M:%S}" if is_today else f"{here:%Y-%m-%d %H:%M}"


def pause(held: Pause | None, of: str = "group") -> str:
    """Return whether a group, a submitter or the farm (``of``) is paused, as what follows "is"."""
    if held is None:
        return "not paused"
    whose = {"farm": ", as the whole farm is", "submitter": ", as its submitter is"}
    until = f" until {local(held.until)}" if held.until else ""
    reason = f": {plain_line(held.reason)}" if held.reason else ""
    why = "" if held.of == of else whose.get(held.of, "")
    return f"paused{why}{until}{reason}".rstrip(".")


def plain_line(text: str) -> str:
    """Return an external text as one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON for programs and terminals: what is not printable is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNUSUAL.sub(
        lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text
    )


def short(value: Any, limit: int = 40) -> str:
    """Return the value of an input in at most ``limit`` characters."""
    asset_id = referenced_asset(value)
    line = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = plain_line(line if asset_id is None else f"asset {asset_id}")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def variation(child: Child) -> str:
    """Return the inputs that a job sets by itself, shortened: ``3.cfg=7``."""
    return " ".join(f"{name}={short(value, 24)}" for name, value in (child.variation or {}).items())


def columns(
    heads: Sequence[str], rows: Sequence[Sequence[object]], statuses: int = -1
) -> list[str]:
    """Return a table's lines, aligned; on a terminal no line is longer than the terminal is wide.

    Without rows there is no line. A cell of None is empty. The last column gets the remaining
    width. ``statuses`` is the index of the column with statuses, -1 for none.
    """
    if not rows:
        return []
    table = [list(heads)]
    table += [["" if cell is None else plain_line(str(cell)) for cell in row] for row in rows]
    if statuses >= 0:
        for line in table[1:]:
            line[statuses] = label(line[statuses]).capitalize()
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    room = _room(widths)
    lines = []
    for number, row in enumerate(table):
        *first, last = (cell.ljust(widths[i]) for i, cell in enumerate(row))
        last = last.rstrip()
        if room is not None and len(last) > room:
            last = f"{last[: room - 1]}…"
        cells = [*first, last]
        if number and statuses >= 0:
            cells[statuses] = coloured(str(rows[number - 1][statuses]), cells[statuses])
        lines.append("  ".join(cells).rstrip())
    return lines


def _room(widths: Sequence[int]) -> int | None:
    """Return the width of the last column; None without a terminal.

    If the first columns do not fit, the terminal wraps them: only the last column is ever cut.
    """
    if not is_terminal():
        return None
    left = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
    return left if left >= 8 else None


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def place(backend_id: str | None, status: str, name_of: Callable[[str], str] = str) -> str:
    """Return the backend of a job: ``any`` while it waits in the pool, ``-`` if it ended there."""
    return name_of(backend_id or ("any" if status == "queued" else "-"))


def made_by(group: Group, name_of: Callable[[str], str] = str) -> str:
    """Return how many jobs each backend completed, the most first: ``gpu-1 8, gpu-2 4``."""
    made = Counter(
        name_of(child.backend_id or "-")
        for child in group.child_jobs
        if child.status == "completed"
    )
    parts = [f"{name} {number}" for name, number in made.most_common(_MOST_NAMED)]
    if len(made) > len(parts):
        parts.append(f"and {len(made) - len(parts)} more")
    return ", ".join(parts)


def why(child: Child) -> str:
    """Return the reason of a job's status in one line; empty without a reason."""
    if child.status in ("queued", "running"):
        ends = "" if child.eta_seconds is None else f"Done in about {duration(child.eta_seconds)}."
        return plain_line(f"{child.waiting_reason or ''} {ends}")
    if child.status in ("failed", "timeout"):
        error = plain_line(child.error_message or "It failed.")
        return f"{error} ({child.failure_class})" if child.failure_class else error
    if child.status == "completed" and child.attempt_count > 1:
        return f"{child.attempt_count} attempts"
    return ""


def counts(group: Group) -> str:
    """Return ``5 completed, 1 failed``: without attempts, which are not all failures."""
    numbers = Counter(map(shown_status, group.child_jobs))
    parts = [f"{numbers[status]} {label(status)}" for status in _ORDER if numbers[status]]
    return ", ".join(parts) or "no jobs yet"


def summary(group: Group) -> str:
    """Return a group in one sentence."""
    took = ""
    if group.completed_at and group.created_at:
        took = f" in {duration((group.completed_at - group.created_at).total_seconds())}"
    is_running = group.status == "partial_complete" and not group.finished
    state = coloured(group.status, "running" if is_running else None)
    return f"{group.job_group_id} {state}: {counts(group)}{took}."
