"""What the hub carries: events and progress of one group, ready to send, and their form between processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EventFrame:
    """A committed state event, ready to send."""

    seq: int
    text: str
    child_id: str | None = None
    #: Whether it ends the child: no progress of it is sent after.
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class ProgressFrame:
    """The newest progress of a child, ready to send. Never stored.

    Attributes:
        attempt: the number that the attempt's ``child_started`` carries.
        percent: 0.0 … 100.0.
    """

    child_id: str
    attempt: int
    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """The newest picture of a child that is being made, ready to send. Never stored.

    Attributes:
        attempt: the number that the attempt's ``child_started`` carries.
    """

    child_id: str
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class StarFrame:
    """A child was given a star, or lost it: no event, and of no interest but to pages."""

    child_id: str
    starred: bool


@dataclass(frozen=True, slots=True)
class ReplacedFrame:
    """A file of a child was replaced at its backend: no event, and of no interest but to pages."""

    child_id: str


@dataclass(frozen=True, slots=True)
class SeqHint:
    """The group's log has reached ``seq``: read the rows if that is news."""

    seq: int


Entry = EventFrame | ProgressFrame | PreviewFrame | StarFrame | ReplacedFrame | SeqHint


@dataclass(frozen=True, slots=True)
class Message:
    """All events of one transaction, some progress, some previews, or marks of pages, of one group."""

    group_id: str
    events: tuple[EventFrame, ...] = ()
    progress: tuple[ProgressFrame, ...] = ()
    previews: tuple[PreviewFrame, ...] = ()
    stars: tuple[StarFrame, ...] = ()
    replaced: tuple[ReplacedFrame, ...] = ()


class LatestFrames:
    """Progress and previews of one group that wait to be sent: the newest of each child."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._progress: dict[str, ProgressFrame] = {}
        self._previews: dict[str, PreviewFrame] = {}

    def add(self, message: Message) -> None:
        """Take in what is newer."""
        self._progress |= {frame.child_id: frame for frame in message.progress}
        self._previews |= {frame.child_id: frame for frame in message.previews}

    def message(self) -> Message:
        """Return all of it as one."""
        return Message(
            self._group_id,
            progress=tuple(self._progress.values()),
            previews=tuple(self._previews.values()),
        )


def serialize(message: Message) -> dict[str, Any]:
    """Return the message as the channel layer takes it: strings, numbers, lists."""
    return {
        "type": "hub.message",
        "group": message.group_id,
        "events": [[e.seq, e.text, e.child_id, e.is_final] for e in message.events],
        "progress": [[p.child_id, p.attempt, p.percent, p.text] for p in message.progress],
        "previews": [[p.child_id, p.attempt, p.text] for p in message.previews],
        "stars": [[s.child_id, s.starred] for s in message.stars],
        "replaced": [one.child_id for one in message.replaced],
    }


def deserialize(form: Mapping[str, Any]) -> Message:
    """Return the message that :func:`serialize` made.

    Raises:
        KeyError, TypeError: another version of the Director made it.
    """
    events: Iterable[Any] = form["events"]
    progress: Iterable[Any] = form["progress"]
    # A process of a version before sends none.
    previews: Iterable[Any] = form.get("previews", ())
    stars: Iterable[Any] = form.get("stars", ())
    replaced: Iterable[Any] = form.get("replaced", ())
    return Message(
        group_id=form["group"],
        events=tuple(EventFrame(*event) for event in events),
        progress=tuple(ProgressFrame(*frame) for frame in progress),
        previews=tuple(PreviewFrame(*frame) for frame in previews),
        stars=tuple(StarFrame(*star) for star in stars),
        replaced=tuple(ReplacedFrame(child_id) for child_id in replaced),
    )
