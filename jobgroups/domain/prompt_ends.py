"""The stored end of a prompt of the ComfyUI listener, as the sockets of its client need it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Picture(NamedTuple):
    """A stored picture that a node sent as a frame."""

    node: str
    stored_name: str
    size: int
    image_type: int  #: As in ComfyUI's binary frames: 1 JPEG, 2 PNG.


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The stored end of a prompt.

    Attributes:
        attempt: the number of the attempt that it is the end of; 0: nothing was sent.
        started_ms: in milliseconds since 1970; None: nothing of it was executed.
        ended_ms: likewise.
        kind: the ``type`` of ComfyUI's frame of it, and ``message`` the frame's ``data``.
        outputs: what each node reported, with the id of the job in the subfolders.
        cached: the nodes for which ComfyUI's cache answered.
        classes: of a prompt that was stopped, the class of each node.
        pictures: in the order in which they were sent.
    """

    attempt: int
    started_ms: int | None
    ended_ms: int
    kind: str
    message: Mapping[str, Any]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    cached: Sequence[str] = ()
    classes: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
