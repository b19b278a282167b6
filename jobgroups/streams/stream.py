"""Decides which frames a client gets next: each event once and in order, and matching progress.
Pure.

Rules for the progress of a child on one stream: none before its ``child_started``, none after its
end, none of an attempt other than the running one, and never less than before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from jobgroups.domain.states import ChildStatus
from jobgroups.events.messages import EventFrame, PreviewFrame, ProgressFrame, SeqHint

#: Events after which a child is queued for another attempt.
_WAITS_AGAIN: Final = frozenset({"child_requeued", "child_retrying"})
#: Events that end a child.
_ENDS: Final = frozenset({"child_completed", "child_failed", "child_timeout", "child_cancelled"})


class Frame(NamedTuple):
    text: str
    #: Of an event, or the last one in the snapshot; None of progress and previews.
    seq: int | None = None


class ChildHead(msgspec.Struct, frozen=True):
    """The fields of a child in a snapshot that its progress depends on."""

    job_id: str
    status: str
    progress: float
    attempts: int


class _Head(msgspec.Struct):
    type: str
    job_id: str | None = None
    attempt: int = 0


_decoder = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class _Child:
    attempt: int = 0  #: Number of the running or last attempt; 0 before the first.
    running: bool = False
    percent: float = 0.0  #: The newest percentage of that attempt.
    #: The latest progress of an attempt whose ``child_started`` was not sent yet.
    early: ProgressFrame | None = None


class Stream:
    """One stream of a group's events, for a client that knows the event ``seq``.

    The children are as of that event or later. If later, the events up to that state must be sent
    before any progress.
    """

    def __init__(self, seq: int, children: Iterable[ChildHead]) -> None:
        self.sent = seq  #: The last event that the client has.
        self._children = {
            child.job_id: _Child(
                child.attempts, child.status == ChildStatus.RUNNING, child.progress
            )
            for child in children
        }

    def has_gap_before(self, seq: int) -> bool:
        return seq > self.sent + 1

    def misses_events(self, entry: EventFrame | SeqHint) -> bool:
        """Return whether events must be read from the database: before this event, or up to that
        hint.
        """
        return self.has_gap_before(entry.seq if isinstance(entry, EventFrame) else entry.seq + 1)

    def event(self, seq: int, text: str, *, of_child: bool = True) -> list[Frame]:
        """Return the frames to send for an event; none if the client already has it.

        An event that is not ``of_child`` is not decoded. Raises ``ValueError`` if there is a gap
        before the event.
        """
        if seq <= self.sent:
            return []
        if self.has_gap_before(seq):
            raise ValueError(f"event {seq} after {self.sent}")
        self.sent = seq
        early = self._track(_decoder.decode(text)) if of_child else []
        return [Frame(text, seq), *early]

    def _track(self, head: _Head) -> list[Frame]:
        if head.job_id is None:
            return []
        child = self._children.setdefault(head.job_id, _Child())
        if head.type == "child_started":
            return self._start(child, head.attempt)
        if head.type in _WAITS_AGAIN or head.type in _ENDS:
            child.running = False
        if head.type in _ENDS:
            child.early = None
        return []

    def _start(self, child: _Child, attempt: int) -> list[Frame]:
        child.attempt, child.running, child.percent = attempt, True, 0.0
        early, child.early = child.early, None
        return [] if early is None else self._accept(child, early)

    def progress(self, frame: ProgressFrame) -> list[Frame]:
        child = self._children.get(frame.child_id)
        if child is None:
            return []
        if frame.attempt > child.attempt:
            # The runner publishes progress while it stores the start.
            child.early = frame
            return []
        return self._accept(child, frame)

    def preview(self, frame: PreviewFrame) -> list[Frame]:
        child = self._children.get(frame.child_id)
        fits = child is not None and child.running and frame.attempt == child.attempt
        return [Frame(frame.text)] if fits else []

    def _accept(self, child: _Child, frame: ProgressFrame) -> list[Frame]:
        fits = child.running and frame.attempt == child.attempt and frame.percent >= child.percent
        if not fits:
            return []
        child.percent = frame.percent
        return [Frame(frame.text)]
