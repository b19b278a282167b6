"""Messages of the hub: frames of one group as text.

``msgspec`` gives them their form on the channel layer: frames are arrays. A field that is added needs a default, since
a process of an earlier version may send the message.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

import msgspec

T = TypeVar("T")


class EventFrame(msgspec.Struct, frozen=True, array_like=True):
    """A committed state event, ready to send."""

    seq: int
    text: str
    child_id: str | None = None
    is_final: bool = False  #: Whether the child is final: no progress is sent after this event.


class ProgressFrame(msgspec.Struct, frozen=True, array_like=True):
    """The newest progress of a child, ready to send. Never stored."""

    child_id: str
    attempt: int  #: The number that the attempt's ``child_started`` carries.
    percent: float  #: 0.0 … 100.0.
    text: str


class PreviewFrame(msgspec.Struct, frozen=True, array_like=True):
    """The newest preview image of a running child, ready to send. Never stored."""

    child_id: str
    attempt: int  #: As of :class:`ProgressFrame`.
    text: str


class StarFrame(msgspec.Struct, frozen=True, array_like=True):
    """A child was starred or unstarred. Not an event; only pages use it."""

    child_id: str
    starred: bool


class ReplacedFrame(msgspec.Struct, frozen=True):
    """A file of a child was replaced at its backend. Not an event; only pages use it."""

    child_id: str


class ChangedFrame(msgspec.Struct, frozen=True):
    """The group was renamed, archived or deleted. Not an event; a socket of its stream checks whether it exists."""


class SeqHint(msgspec.Struct, frozen=True):
    """The group's log has reached ``seq``. A socket that has not sent it yet reads the events."""

    seq: int


Entry = EventFrame | ProgressFrame | PreviewFrame | StarFrame | ReplacedFrame | ChangedFrame | SeqHint


class Message(msgspec.Struct, frozen=True, tag_field="type", tag="hub.message"):
    """Frames of one group: the events of one transaction, a child's progress or preview, or marks for pages."""

    group_id: str = msgspec.field(name="group")
    events: tuple[EventFrame, ...] = ()
    progress: tuple[ProgressFrame, ...] = ()
    previews: tuple[PreviewFrame, ...] = ()
    stars: tuple[StarFrame, ...] = ()
    replaced: tuple[str, ...] = ()  #: Children of which a file was replaced.
    changed: bool = False  #: Whether the group was renamed, archived or deleted.
    stored_at: float = 0.0  #: When its events were stored, in seconds since 1970.


class Unsent(OrderedDict[Hashable, T]):
    """What waits to be sent, in order. A newer entry replaces the one with the same key, at its position."""

    def add(self, entry: T, key: Hashable = None) -> None:
        """Add an entry; without a key no other one replaces it."""
        self[object() if key is None else key] = entry

    def detach(self, event: EventFrame) -> None:
        """Have later progress and previews of the event's child follow the event, which is added next."""
        for kind in (ProgressFrame, PreviewFrame):
            if (entry := self.pop((kind, event.child_id), None)) is not None:
                self.add(entry)
