"""A group's bar: a segment for each child, or for many children one for each status. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Above this many children a segment stands for a status.
MAX_SEGMENTS: Final = 50
_ORDER: Final = ("completed", "failed", "timeout", "cancelled", "running", "queued")


@dataclass(frozen=True, slots=True)
class Segment:
    """One child: its id, status, and percentage."""

    job_id: str
    status: str
    progress: float


@dataclass(frozen=True, slots=True)
class Block:
    """All children of one status: where the block starts and how long it is, in children."""

    status: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Bar:
    """Either segments or blocks."""

    segments: Sequence[Segment]
    blocks: Sequence[Block]
    total: int
    #: Text for screen readers.
    label: str


def bar_of(children: Sequence[Segment]) -> Bar:
    """Return the bar of a group's children, in their order."""
    counted = Counter(child.status for child in children)
    label = ", ".join(f"{counted[status]} {status}" for status in _ORDER if counted[status])
    if not children:
        return Bar((), (), 1, "no jobs")
    if len(children) <= MAX_SEGMENTS:
        return Bar(children, (), len(children), label)
    blocks: list[Block] = []
    start = 0
    for status in _ORDER:
        if counted[status]:
            blocks.append(Block(status, start, counted[status]))
            start += counted[status]
    return Bar((), blocks, len(children), label)
