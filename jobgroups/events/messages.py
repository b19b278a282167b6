"""Messages of the hub: frames of one group as text, and their form on the channel layer."""

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
    #: Whether the child is final: no progress is sent after this event.
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
    """The newest preview image of a running child, ready to send. Never stored.

    Attributes:
        attempt: the number that the attempt's ``child_started`` carries.
    """

    child_id: str
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class StarFrame:
    """A child was starred or unstarred. Not an event; only pages use it."""

    child_id: str
    starred: bool


@dataclass(frozen=True, slots=True)
class ReplacedFrame:
    """A file of a child was replaced at its backend. Not an event; only pages use it."""

    child_id: str


@dataclass(frozen=True, slots=True)
class SeqHint:
    """The group's log has reached ``seq``. A socket that has not sent it yet reads the events."""

    seq: int


Entry = EventFrame | ProgressFrame | PreviewFrame | StarFrame | ReplacedFrame | SeqHint


@dataclass(frozen=True, slots=True)
class Message:
    """Frames of one group: the events of one transaction, progress, previews, or marks for pages."""

    group_id: str
    events: tuple[EventFrame, ...] = ()
    progress: tuple[ProgressFrame, ...] = ()
    previews: tuple[PreviewFrame, ...] = ()
    stars: tuple[StarFrame, ...] = ()
    replaced: tuple[ReplacedFrame, ...] = ()


class LatestFrames:
    """Progress and previews of one group that wait to be sent: the newest frame of each child."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._progress: dict[str, ProgressFrame] = {}
        self._previews: dict[str, PreviewFrame] = {}

    def add(self, message: Message) -> None:
        """Replace each child's frame by the newer one."""
        self._progress |= {frame.child_id: frame for frame in message.progress}
        self._previews |= {frame.child_id: frame for frame in message.previews}

    def message(self) -> Message:
        """Return all frames as one message."""
        return Message(self._group_id, progress=tuple(self._progress.values()), previews=tuple(self._previews.values()))


def serialize(message: Message) -> dict[str, Any]:
    """Return the message in the form of the channel layer: strings, numbers, lists."""
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
    """Return the message of a form that :func:`serialize` returned.

    Raises:
        KeyError, TypeError: the form is of an incompatible version of the Director.
    """
    events: Iterable[Any] = form["events"]
    progress: Iterable[Any] = form["progress"]
    # Earlier versions send no previews, stars or replaced files.
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
