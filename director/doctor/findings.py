"""Result of one check: its level, a text, and a remedy. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  #: Information; no action is needed.
    WARNING = "warning"  #: It works with limits, or may soon fail.
    PROBLEM = "problem"  #: Jobs cannot be processed, or may be lost.


SEVERITY: Final = tuple(Level)  #: The levels, the worst last.


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    subject: str  #: The part that was checked.
    level: Level
    said: str  #: The result, without secrets.
    todo: str = ""  #: Remedies, one in a line; empty if none is needed.
