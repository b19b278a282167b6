"""ComfyUI's socket events, and the frames that they are read from. Pure.

``parse`` is the only entry point. Only the fields that are read are decoded; new fields and new
types of later ComfyUI versions change nothing. docs/comfyui-protocol.md describes the wire format.
"""

import struct
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from backends.comfyui.errors import ProtocolError
from backends.comfyui.wire_json import WireDecoder

#: A larger text frame is refused unread: decoding blocks the loop.
MAX_TEXT_FRAME_BYTES: Final = 16 * 1024 * 1024
#: A larger binary frame is refused unread. Previews are 30–50 kB; SaveImageWebsocket sends whole
#: PNGs, hardly compressed: 8,192 × 8,192 pixels are at most 201 MB.
MAX_BINARY_FRAME_BYTES: Final = 256 * 1024 * 1024
MAX_METADATA_BYTES: Final = 64 * 1024  #: A preview's metadata was 166 bytes in the recordings.


ImageType: TypeAlias = Literal["jpeg", "png"]


class ExecInfo(msgspec.Struct, frozen=True):
    """The number of pending and running prompts together."""

    queue_remaining: Annotated[int, msgspec.Meta(ge=0)]


class QueueLength(msgspec.Struct, frozen=True):
    """The queue's length, as frames and ``GET /prompt`` have it."""

    exec_info: ExecInfo


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The queue's length; goes to every socket, and is each socket's first frame
    (comfyui-protocol.md, "WebSocket").
    """

    status: QueueLength

    @property
    def queue_remaining(self) -> int:
        return self.status.exec_info.queue_remaining


class ExecutionStart(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt left the queue and is being executed."""

    prompt_id: str


class ExecutionCached(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that need not run; always sent, empty if there are none."""

    prompt_id: str
    nodes: tuple[str, ...]


class Executing(msgspec.Struct, frozen=True, kw_only=True):
    """A node began, or, with ``node`` None, the prompt has ended, however it ended.

    After a reconnect ComfyUI repeats the current node without ``prompt_id`` (comfyui-protocol.md,
    "WebSocket").
    """

    node: str | None
    prompt_id: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A node's step. Custom nodes send it without prompt or node id."""

    value: float
    max: float
    prompt_id: str | None = None
    node: str | None = None


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """One node inside ``progress_state``; a failed node stays ``running`` for ever."""

    value: float
    max: float
    state: str
    display_node_id: str | None = None
    #: From 0.38 what a running node does, such as ``loading``; a text, or nothing.
    activity: Any = None


class ProgressState(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of the prompt that are not pending, so far."""

    prompt_id: str
    nodes: dict[str, NodeState]


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """A node's result for the user interface; for a cached output node with its old file names."""

    prompt_id: str
    node: str
    output: dict[str, Any] | None = None  #: ComfyUI's ``ui`` object as it is.


class ExecutionSuccess(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt ran through; its history may not be written yet (comfyui-protocol.md, trap 3)."""

    prompt_id: str


class ExecutionError(msgspec.Struct, frozen=True, kw_only=True):
    """A node raised. Alone it decides nothing: a blocked node sends it in a prompt that succeeds."""

    prompt_id: str
    node_id: str | None = None
    node_type: str | None = None
    #: Ends in a newline and ComfyUI's tips: see ``outputs.plain_error``.
    exception_message: str = ""
    #: Dotted, builtins without module: ``torch.OutOfMemoryError``, ``RuntimeError``.
    exception_type: str = ""
    traceback: tuple[str, ...] = ()


class ExecutionInterrupted(msgspec.Struct, frozen=True, kw_only=True):
    prompt_id: str


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a running node, or one that SaveImageWebsocket sends.

    Without metadata (type 1) it belongs to the last ``executing``.
    """

    image_type: ImageType
    image: bytes
    prompt_id: str | None = None
    node_id: str | None = None


Event: TypeAlias = (
    Status
    | ExecutionStart
    | ExecutionCached
    | Executing
    | Progress
    | ProgressState
    | Executed
    | ExecutionSuccess
    | ExecutionError
    | ExecutionInterrupted
    | Preview
)


#: Types that ``parse`` knows, each with its data; any other is a later version's or a custom
#: node's.
KNOWN_TYPES: Final[dict[str, type[msgspec.Struct]]] = {
    "status": Status,
    "executed": Executed,
    "execution_start": ExecutionStart,
    "execution_cached": ExecutionCached,
    "executing": Executing,
    "progress": Progress,
    "progress_state": ProgressState,
    "execution_success": ExecutionSuccess,
    "execution_error": ExecutionError,
    "execution_interrupted": ExecutionInterrupted,
}


class _Envelope(msgspec.Struct):
    type: Any = None


_frames: WireDecoder[Any] = WireDecoder(
    reduce(
        or_,
        (
            msgspec.defstruct(f"_{name}", [("data", data)], tag_field="type", tag=name)
            for name, data in KNOWN_TYPES.items()
        ),
    )
)
_envelopes: WireDecoder[_Envelope] = WireDecoder(_Envelope)
_metadata: WireDecoder[dict[str, Any]] = WireDecoder(dict[str, Any])


def parse(frame: str | bytes) -> Event | None:
    """Return the event of one WebSocket message, text or binary; None for a type that this version
    does not know.

    Raises ``ProtocolError`` for a frame of a known type that is broken, or one above the size caps.
    """
    return _parse_text(frame) if isinstance(frame, str) else _parse_binary(frame)


def _parse_text(frame: str) -> Event | None:
    """``{"type": str, "data": object}`` (comfyui-protocol.md, "WebSocket")."""
    if len(frame) > MAX_TEXT_FRAME_BYTES:
        raise ProtocolError(f"text frame of {len(frame)} characters", frame)
    try:
        event: Event = _frames.decode(frame).data
    except msgspec.ValidationError as exc:
        if _type_of(frame) not in KNOWN_TYPES:
            return None
        raise ProtocolError(f"broken frame ({exc})", frame) from exc
    return event


def _type_of(frame: str) -> str:
    """The type of a frame that did not decode."""
    try:
        name = _envelopes.decode(frame).type
    except msgspec.ValidationError as exc:
        raise ProtocolError("not a frame", frame) from exc
    if not isinstance(name, str):
        raise ProtocolError("frame without a type", frame)
    return name


def _parse_binary(frame: bytes) -> Event | None:
    """Big-endian uint32 type, then payload (comfyui-protocol.md, "Binary frames")."""
    if len(frame) > MAX_BINARY_FRAME_BYTES:
        raise ProtocolError(f"binary frame of {len(frame)} bytes", frame)
    match _uint32(frame, 0):
        case 1:
            # uint32 image type (1 JPEG, 2 PNG), image
            return Preview(image_type=_image_type(_uint32(frame, 4), frame), image=frame[8:])
        case 4:
            return _preview_with_metadata(frame)
        case _:
            return None


def _uint32(frame: bytes, offset: int) -> int:
    if len(frame) < offset + 4:
        raise ProtocolError(f"binary frame of {len(frame)} bytes is cut short", frame)
    number: int = struct.unpack_from(">I", frame, offset)[0]
    return number


def _preview_with_metadata(frame: bytes) -> Preview:
    """Type 4: uint32 length, JSON, image."""
    end = 8 + (length := _uint32(frame, 4))
    if length > MAX_METADATA_BYTES or end > len(frame):
        raise ProtocolError(f"metadata of {length} bytes in a frame of {len(frame)}", frame)
    try:
        metadata = _metadata.decode(frame[8:end])
    except msgspec.ValidationError as exc:
        raise ProtocolError("preview metadata is no object", frame) from exc
    return Preview(
        image_type=_image_type(metadata.get("image_type"), frame),
        image=frame[end:],
        prompt_id=_text_or_none(metadata.get("prompt_id")),
        node_id=_text_or_none(metadata.get("node_id")),
    )


def _image_type(sent: Any, frame: bytes) -> ImageType:
    match sent:
        case 1 | "image/jpeg":
            return "jpeg"
        case 2 | "image/png":
            return "png"
        case _:
            raise ProtocolError(f"preview of unknown image type {sent!r}", frame)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
