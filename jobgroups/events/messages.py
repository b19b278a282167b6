"""Messages of the hub: frames of one group as text.

``msgspec`` gives them their form on the channel layer: frames are arrays. A field that is added
needs a default, since a process of an earlier version may send the message.
"""

import msgspec


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


class ListenerFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame of ComfyUI about an attempt of a prompt of the ComfyUI listener, as it came. A hint:
    it may be lost or come twice.
    """

    attempt: int  #: As of :class:`ProgressFrame`.
    prompt_id: str  #: That of the attempt at its backend.
    kind: str  #: The ``type`` of a text frame, ``preview``, or ``text`` for a node's text.
    node: str = ""
    text: str = ""  #: A text frame.
    data: bytes = b""  #: A binary frame, with its head.


class ChangedFrame(msgspec.Struct, frozen=True):
    """The group was renamed, archived or deleted. Not an event; a socket of its stream checks
    whether it exists.
    """


class UnsharedFrame(ChangedFrame, frozen=True):
    """The group is not shared, and its change may have been sent before. A socket checks whether
    its client sees the group; no client gets it.
    """


class SeqHint(msgspec.Struct, frozen=True):
    """The group's log has reached ``seq``. A socket that has not sent it yet reads the events."""

    seq: int


Entry = (
    EventFrame
    | ProgressFrame
    | PreviewFrame
    | StarFrame
    | ReplacedFrame
    | ListenerFrame
    | ChangedFrame
    | SeqHint
)


class Message(msgspec.Struct, frozen=True, tag_field="type", tag="hub.message"):
    """Frames of one group: the events of one transaction, progress, previews, marks for pages, or
    frames of ComfyUI.
    """

    group_id: str = msgspec.field(name="group")
    events: tuple[EventFrame, ...] = ()
    progress: tuple[ProgressFrame, ...] = ()
    previews: tuple[PreviewFrame, ...] = ()
    stars: tuple[StarFrame, ...] = ()
    replaced: tuple[str, ...] = ()  #: Children of which a file was replaced.
    changed: bool = False  #: Whether the group was renamed, archived or deleted.
    frames: tuple[ListenerFrame, ...] = ()
    stored_at: float = 0.0  #: When its events were stored, in seconds since 1970.


class LatestFrames:
    """Progress and previews of one group that wait to be sent: the newest frame of each child."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._progress: dict[str, ProgressFrame] = {}
        self._previews: dict[str, PreviewFrame] = {}

    def add(self, message: Message) -> None:
        self._progress |= {frame.child_id: frame for frame in message.progress}
        self._previews |= {frame.child_id: frame for frame in message.previews}

    def message(self) -> Message:
        return Message(
            self._group_id,
            progress=tuple(self._progress.values()),
            previews=tuple(self._previews.values()),
        )
