"""One thing that was looked at: how it is, in words, and what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  #: Good to know; nothing needs to be done.
    WARNING = "warning"  #: It works, with less than it should, or not for long.
    PROBLEM = "problem"  #: Work cannot be done, or would be lost.


#: The levels, the worst last.
SEVERITY: Final = tuple(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes:
        subject: what was looked at, in a word or two.
        said: how it is: a sentence or two. No secret is ever in it.
        todo: what to do, a line each; empty where nothing needs to be.
    """

    subject: str
    level: Level
    said: str
    todo: str = ""
