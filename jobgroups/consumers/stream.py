"""What a socket may send next, given what it has sent: each event once and in order, progress that fits.

Pure: no socket, no clock, no database. The rules for a child's progress on one stream: none before
its ``child_started``, none after its end, none of another attempt than the one that runs, and never
less than before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from jobgroups.domain.states import ChildStatus
from jobgroups.events.messages import PreviewFrame, ProgressFrame

#: Events after which a child waits again, for another attempt.
_WAITS_AGAIN: Final = frozenset({"child_requeued", "child_retrying"})
#: Events that end a child.
_ENDS: Final = frozenset({"child_completed", "child_failed", "child_timeout", "child_cancelled"})


class ChildHead(msgspec.Struct, frozen=True):
    """What a snapshot says of a child that decides about its progress."""

    job_id: str
    status: str
    progress: float
    attempts: int


class _Head(msgspec.Struct):
    """The fields of an event that say what became of a child."""

    type: str
    job_id: str | None = None
    attempt: int = 0


_decoder = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class _Child:
    """A child as this stream has told it."""

    #: Number of the attempt that runs, or ran last; 0 before the first.
    attempt: int = 0
    running: bool = False
    #: The newest percentage of that attempt.
    percent: float = 0.0
    #: Progress of an attempt whose ``child_started`` has not come yet; latest wins.
    early: ProgressFrame | None = None


class Stream:
    """One stream of a group's events.

    Args:
        seq: the client knows all events up to here.
        children: how the children stood then, or later. If later, progress makes no sense before
            the events up to there were sent.
    """

    def __init__(self, seq: int, children: Iterable[ChildHead]) -> None:
        #: Number of the last event that the client has.
        self.sent = seq
        self._children = {
            one.job_id: _Child(one.attempts, one.status == ChildStatus.RUNNING, one.progress)
            for one in children
        }

    def has_gap_before(self, seq: int) -> bool:
        """Whether events before ``seq`` are missing."""
        return seq > self.sent + 1

    def event(self, seq: int, text: str, *, of_child: bool = True) -> list[str]:
        """Return the frames to send for an event: none if the client has it already.

        Args:
            of_child: False where it is known to be of no child, which saves reading it.

        Raises:
            ValueError: it does not follow what was sent; ask :meth:`lacks` first.
        """
        if seq <= self.sent:
            return []
        if self.has_gap_before(seq):
            raise ValueError(f"event {seq} after {self.sent}")
        self.sent = seq
        early = self._track(_decoder.decode(text)) if of_child else None
        return [text] if early is None else [text, early]

    def _track(self, head: _Head) -> str | None:
        if head.job_id is None:
            return None
        child = self._children.setdefault(head.job_id, _Child())
        if head.type == "child_started":
            return self._start(child, head.attempt)
        if head.type in _WAITS_AGAIN or head.type in _ENDS:
            child.running = False
        if head.type in _ENDS:
            child.early = None
        return None

    def _start(self, child: _Child, attempt: int) -> str | None:
        child.attempt, child.running, child.percent = attempt, True, 0.0
        early, child.early = child.early, None
        return None if early is None else self._accept(child, early)

    def progress(self, frame: ProgressFrame) -> str | None:
        """Return the text to send for a child's progress, None if it does not fit (yet)."""
        child = self._children.get(frame.child_id)
        if child is None:
            return None
        if frame.attempt > child.attempt:
            # The runner reports at once and stores the start meanwhile.
            child.early = frame
            return None
        return self._accept(child, frame)

    def preview(self, frame: PreviewFrame) -> str | None:
        """Return the text to send for a child's preview, None if it is not of what runs now."""
        child = self._children.get(frame.child_id)
        fits = child is not None and child.running and frame.attempt == child.attempt
        return frame.text if fits else None

    def _accept(self, child: _Child, frame: ProgressFrame) -> str | None:
        fits = child.running and frame.attempt == child.attempt and frame.percent >= child.percent
        if not fits:
            return None
        child.percent = frame.percent
        return frame.text
