"""All breakages, and the page that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.sabotage.breakage import Breakage
from tests.sabotage.of_failing import OF_FAILING
from tests.sabotage.of_farm import OF_FARM
from tests.sabotage.of_following import OF_FOLLOWING
from tests.sabotage.of_holding import OF_HOLDING
from tests.sabotage.of_limits import OF_LIMITS
from tests.sabotage.of_retrying import OF_RETRYING
from tests.sabotage.of_rows import OF_ROWS
from tests.sabotage.of_safety import OF_SAFETY
from tests.sabotage.of_sending import OF_SENDING
from tests.sabotage.of_telling import OF_TELLING
from tests.sabotage.of_waits import OF_WAITS

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "sabotage.md"

_PARTS: Final = (
    ("Sending", OF_SENDING),
    ("Following, ending, stopping", OF_FOLLOWING),
    ("Storing and telling", OF_ROWS),
    ("When a job fails", OF_FAILING),
    ("Retrying", OF_RETRYING),
    ("Holding back, setting aside", OF_HOLDING),
    ("Bounds of waits", OF_WAITS),
    ("Safe by default", OF_SAFETY),
    ("Telling people", OF_TELLING),
    ("A farm of processes", OF_FARM),
    ("Bounds and access", OF_LIMITS),
)
BREAKAGES: Final = tuple(breakage for _, part in _PARTS for breakage in part)

_HEAD: Final = """\
# Sabotage

<!-- Generated from tests/sabotage by `python -m tests.sabotage`; do not edit. -->

A test that cannot fail protects nothing. So each law of the Director is broken on purpose, in a copy
of the code, and the test that is named here must fail on it, by what it asserts and not by a crash.
`pytest tests/sabotage` tries all of them.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for title, breakages in _PARTS:
        parts.append(f"## {title}\n")
        parts.append("\n".join(_table(breakages)) + "\n")
    return "\n".join(parts)


def _table(breakages: tuple[Breakage, ...]) -> list[str]:
    head = ["| What is broken | Why it would hurt | What notices |", "| --- | --- | --- |"]
    return head + [f"| {one.broken} | {one.hurts} | {_link(one.notices)} |" for one in breakages]


def _link(node_id: str) -> str:
    path, _, test = node_id.partition("::")
    return f"[`{test}`](../{path})"
