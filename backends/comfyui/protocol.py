"""ComfyUI's event frames: a frame in, an event out.

Pure: no socket, no clock, no loop. ``parse`` is the only entry point. Only the fields
that are read are decoded; new fields and new types of later ComfyUI versions
change nothing. docs/comfyui-protocol.md describes the wire format.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeAlias

import msgspec

from backends.comfyui.errors import ProtocolError
from backends.comfyui.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    ImageType,
    NodeState,
    Preview,
    Progress,
    ProgressState,
    Status,
    Text,
)
from backends.comfyui.wire_json import WireDecoder

__all__ = [
    "KNOWN_TYPES",
    "MAX_BINARY_FRAME_BYTES",
    "MAX_METADATA_BYTES",
    "MAX_NODE_ID_BYTES",
    "MAX_TEXT_FRAME_BYTES",
    "Event",
    "Executed",
    "Executing",
    "ExecutionCached",
    "ExecutionError",
    "ExecutionInterrupted",
    "ExecutionStart",
    "ExecutionSuccess",
    "FeatureFlags",
    "ImageType",
    "NodeState",
    "Preview",
    "Progress",
    "ProgressState",
    "ProtocolError",
    "Status",
    "Text",
    "parse",
]

#: A larger text frame is refused unread: decoding blocks the loop.
MAX_TEXT_FRAME_BYTES: Final = 16 * 1024 * 1024
#: A larger binary frame is refused unread. Previews are 30–50 kB; SaveImageWebsocket sends whole PNGs.
MAX_BINARY_FRAME_BYTES: Final = 64 * 1024 * 1024
#: A preview's metadata was 166 bytes in the recordings.
MAX_METADATA_BYTES: Final = 64 * 1024
#: Node ids are short; expansion makes ``1.0.0.1`` of them.
MAX_NODE_ID_BYTES: Final = 1024


class _ExecInfo(msgspec.Struct):
    queue_remaining: int


class _StatusBody(msgspec.Struct):
    exec_info: _ExecInfo


class _StatusData(msgspec.Struct):
    status: _StatusBody
    sid: str | None = None


class _ExecutedData(msgspec.Struct):
    prompt_id: str
    node: str
    display_node: str | None = None
    output: dict[str, Any] | None = None


class _StatusFrame(msgspec.Struct, tag_field="type", tag="status"):
    data: _StatusData


class _ExecutedFrame(msgspec.Struct, tag_field="type", tag="executed"):
    data: _ExecutedData


class _ExecutionStartFrame(msgspec.Struct, tag_field="type", tag="execution_start"):
    data: ExecutionStart


class _ExecutionCachedFrame(msgspec.Struct, tag_field="type", tag="execution_cached"):
    data: ExecutionCached


class _ExecutingFrame(msgspec.Struct, tag_field="type", tag="executing"):
    data: Executing


class _ProgressFrame(msgspec.Struct, tag_field="type", tag="progress"):
    data: Progress


class _ProgressStateFrame(msgspec.Struct, tag_field="type", tag="progress_state"):
    data: ProgressState


class _ExecutionSuccessFrame(msgspec.Struct, tag_field="type", tag="execution_success"):
    data: ExecutionSuccess


class _ExecutionErrorFrame(msgspec.Struct, tag_field="type", tag="execution_error"):
    data: ExecutionError


class _ExecutionInterruptedFrame(msgspec.Struct, tag_field="type", tag="execution_interrupted"):
    data: ExecutionInterrupted


class _FeatureFlagsFrame(msgspec.Struct, tag_field="type", tag="feature_flags"):
    data: FeatureFlags


_Frame: TypeAlias = (
    _StatusFrame
    | _ExecutedFrame
    | _ExecutionStartFrame
    | _ExecutionCachedFrame
    | _ExecutingFrame
    | _ProgressFrame
    | _ProgressStateFrame
    | _ExecutionSuccessFrame
    | _ExecutionErrorFrame
    | _ExecutionInterruptedFrame
    | _FeatureFlagsFrame
)
#: Types that ``parse`` knows; any other is a later version's or a custom node's.
KNOWN_TYPES: Final = frozenset(
    {
        "status",
        "executed",
        "execution_start",
        "execution_cached",
        "executing",
        "progress",
        "progress_state",
        "execution_success",
        "execution_error",
        "execution_interrupted",
        "feature_flags",
    }
)


class _Envelope(msgspec.Struct):
    type: Any = None


_frames: WireDecoder[_Frame] = WireDecoder(_Frame)  # type: ignore[arg-type]  # a union is no type[T]
_envelopes: WireDecoder[_Envelope] = WireDecoder(_Envelope)
_metadata: WireDecoder[dict[str, Any]] = WireDecoder(dict[str, Any])


def parse(frame: str | bytes) -> Event | None:
    """Read one WebSocket message.

    Args:
        frame: ``str`` for a text message, ``bytes`` for a binary one.

    Returns:
        The event, or None for a type that this version does not know.

    Raises:
        ProtocolError: a frame of a known type that is broken, or one above the size caps.
    """
    return _parse_text(frame) if isinstance(frame, str) else _parse_binary(frame)


def _parse_text(frame: str) -> Event | None:
    """``{"type": str, "data": object}`` (comfyui-protocol.md, "WebSocket")."""
    if len(frame) > MAX_TEXT_FRAME_BYTES:
        raise ProtocolError(f"text frame of {len(frame)} characters", frame)
    try:
        decoded = _frames.decode(frame)
    except msgspec.ValidationError as exc:
        if _type_of(frame) not in KNOWN_TYPES:
            return None
        raise ProtocolError(f"broken frame ({exc})", frame) from exc
    match decoded:
        case _StatusFrame(data=data):
            return Status(queue_remaining=data.status.exec_info.queue_remaining, sid=data.sid)
        case _ExecutedFrame(data=data):
            return _executed(data)
        case _:
            return decoded.data


def _executed(data: _ExecutedData) -> Executed:
    return Executed(prompt_id=data.prompt_id, node=data.node, display_node=data.display_node, output=data.output or {})


def _type_of(frame: str) -> str:
    """The frame's type, for a frame that did not decode.

    Raises:
        ProtocolError: it is not an object with a type at all.
    """
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
            return _preview(frame)
        case 3:
            return _text(frame)
        case 4:
            return _preview_with_metadata(frame)
        case _:
            return None


def _uint32(frame: bytes, offset: int) -> int:
    if len(frame) < offset + 4:
        raise ProtocolError(f"binary frame of {len(frame)} bytes is cut short", frame)
    number: int = struct.unpack_from(">I", frame, offset)[0]
    return number


def _preview(frame: bytes) -> Preview:
    """Type 1: uint32 image type (1 JPEG, 2 PNG), image."""
    match _uint32(frame, 4):
        case 1:
            return Preview(image_type="jpeg", image=frame[8:])
        case 2:
            return Preview(image_type="png", image=frame[8:])
        case other:
            raise ProtocolError(f"preview of unknown image type {other}", frame)


def _counted(frame: bytes, limit: int, what: str) -> tuple[bytes, bytes]:
    """Split ``uint32 length, that many bytes, rest`` behind the type."""
    length = _uint32(frame, 4)
    if length > limit or 8 + length > len(frame):
        raise ProtocolError(f"{what} of {length} bytes in a frame of {len(frame)}", frame)
    return frame[8 : 8 + length], frame[8 + length :]


def _text(frame: bytes) -> Text:
    """Type 3: uint32 length, node id, UTF-8 text."""
    node_id, text = _counted(frame, MAX_NODE_ID_BYTES, "node id")
    try:
        return Text(node_id=node_id.decode(), text=text.decode().replace("\0", "\ufffd"))
    except UnicodeDecodeError as exc:
        raise ProtocolError("text frame is not UTF-8", frame) from exc


def _preview_with_metadata(frame: bytes) -> Preview:
    """Type 4: uint32 length, JSON, image."""
    head, image = _counted(frame, MAX_METADATA_BYTES, "metadata")
    try:
        metadata = _metadata.decode(head)
    except msgspec.ValidationError as exc:
        raise ProtocolError("preview metadata is no object", frame) from exc
    return Preview(
        image_type=_image_type(metadata, frame),
        image=image,
        prompt_id=_text_or_none(metadata.get("prompt_id")),
        node_id=_text_or_none(metadata.get("node_id")),
        metadata=metadata,
    )


def _image_type(metadata: dict[str, Any], frame: bytes) -> ImageType:
    match metadata.get("image_type"):
        case "image/jpeg":
            return "jpeg"
        case "image/png":
            return "png"
        case _:
            raise ProtocolError("preview of unknown image type", frame)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
