"""ComfyUI's HTTP answers: a body in, a typed answer out.

Pure: no socket, no clock, no loop. Workflows inside queue and history are not
decoded. Every function raises ``ProtocolError`` for a body of another shape.
Facts refer to comfyui-protocol.md, "HTTP".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from backends.comfyui.errors import ProtocolError
from backends.comfyui.events import ExecutionError
from backends.comfyui.texts import one_line
from backends.comfyui.wire_json import WireDecoder

Outcome: TypeAlias = Literal["success", "error", "interrupted"]
T = TypeVar("T")


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """ComfyUI queued the prompt."""

    #: The valid id, also if we sent another one (a ComfyUI before July 2025 ignores ours).
    prompt_id: str
    #: Place in its queue: lowest runs first; fractions and negatives occur.
    number: float
    #: Not empty if only some of the outputs are valid and will be executed.
    node_errors: dict[str, Any]


class QueueItem(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt at a ComfyUI."""

    number: float
    prompt_id: str
    #: None for a prompt without one, or with one that is no string.
    client_id: str | None
    #: ``extra_data`` by key, each value still JSON: see ``mark``. Without
    #: ``extra_pnginfo``, which contains the editor's whole workflow.
    extra_data: dict[str, msgspec.Raw]
    #: Ids of the output nodes that will be executed, or were; None if the answer has no such list.
    outputs: tuple[str, ...] | None

    def mark(self, key: str) -> Any:
        """The value under ``key`` of the prompt's ``extra_data``; None where there is none."""
        raw = self.extra_data.get(key)
        return None if raw is None else msgspec.json.decode(raw)


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What runs and what waits. ``pending`` is in the order of running, unlike ComfyUI's answer."""

    running: tuple[QueueItem, ...]
    pending: tuple[QueueItem, ...]


class NodeMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The place of an output node in the graph; an expanded node is shown at its parent."""

    display_node: str | None = None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ended prompt."""

    item: QueueItem
    outcome: Outcome
    #: Node id to its ``ui`` object; entries from before an error or interrupt are kept.
    outputs: dict[str, dict[str, Any]]
    #: Type and data of each message, in order.
    messages: tuple[tuple[str, dict[str, Any]], ...]
    #: Why it failed; None for any other outcome.
    error: ExecutionError | None
    #: Every error in its messages: a success may have some, of nodes that were blocked.
    raised: tuple[ExecutionError, ...]
    meta: dict[str, NodeMeta]


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of ``/system_stats``; for ``cpu`` the memory is the machine's."""

    name: str
    type: str = ""
    index: int | None = None
    #: Bytes.
    vram_total: int | None = None
    #: Bytes.
    vram_free: int | None = None

    def to_json(self) -> dict[str, str | int | None]:
        """Return what of a device is stored and shown to clients."""
        return {"name": self.name, "vram_total": self.vram_total, "vram_free": self.vram_free}


class SystemStats(msgspec.Struct, frozen=True, kw_only=True):
    """ComfyUI's description of its server."""

    #: None in old versions.
    version: str | None
    devices: tuple[Device, ...]
    os: str | None = None
    python_version: str | None = None
    pytorch_version: str | None = None
    #: Its command line: ``main.py --preview-method auto …``.
    arguments: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a prompt was refused."""

    error_type: str
    message: str
    details: str
    node_errors: dict[str, Any]


class _WireAccepted(msgspec.Struct):
    prompt_id: str
    number: float
    node_errors: Any = None


class _WireItem(msgspec.Struct, array_like=True):
    number: float
    prompt_id: str
    prompt: msgspec.Raw
    extra_data: dict[str, msgspec.Raw] | None = None
    outputs: Any = None


class _WireQueue(msgspec.Struct):
    queue_running: list[_WireItem]
    queue_pending: list[_WireItem]


class _WireStatus(msgspec.Struct):
    status_str: Literal["success", "error"]
    messages: list[tuple[str, dict[str, Any]]] = []


class _WireEntry(msgspec.Struct):
    prompt: _WireItem
    status: _WireStatus
    outputs: dict[str, dict[str, Any] | None] = {}
    meta: dict[str, NodeMeta] = {}


class _ExecInfo(msgspec.Struct):
    queue_remaining: Annotated[int, msgspec.Meta(ge=0)]


class _WireDepth(msgspec.Struct):
    exec_info: _ExecInfo


class _WireSystem(msgspec.Struct):
    comfyui_version: str | None = None
    os: str | None = None
    python_version: str | None = None
    pytorch_version: str | None = None
    argv: Any = None


class _WireStats(msgspec.Struct):
    system: _WireSystem
    devices: tuple[Device, ...]


class _WireError(msgspec.Struct):
    type: str = ""
    message: str = ""
    details: str = ""


class _WireRefusal(msgspec.Struct):
    error: _WireError | str
    node_errors: dict[str, Any] | list[Any] | None = None


_accepted = WireDecoder(_WireAccepted)
_queue = WireDecoder(_WireQueue)
_history: WireDecoder[dict[str, _WireEntry]] = WireDecoder(dict[str, _WireEntry])
_depth = WireDecoder(_WireDepth)
_stats = WireDecoder(_WireStats)
_refusal = WireDecoder(_WireRefusal)
_object: WireDecoder[dict[str, Any]] = WireDecoder(dict[str, Any])


def _decode(decoder: WireDecoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"{what} of another shape ({exc})", body) from exc


def accepted(body: bytes) -> Accepted:
    """The 200 of ``POST /prompt``."""
    wire = _decode(_accepted, body, "prompt answer")
    return Accepted(prompt_id=wire.prompt_id, number=wire.number, node_errors=_node_errors(wire.node_errors))


def _node_errors(value: Any) -> dict[str, Any]:
    # ComfyUI answers ``[]`` in some cases where it means ``{}``.
    return value if isinstance(value, dict) else {}


def refusal(body: bytes) -> Refusal:
    """The 400 or 413 of ``POST /prompt``; never raises: the status has already decided.

    A body that is not ComfyUI's own (413 is plain text, a proxy's is HTML) gives
    ``error_type`` ``""`` and the head of its text as message.
    """
    try:
        wire = _decode(_refusal, body, "refusal")
    except ProtocolError:
        text = body[:500].decode("utf-8", "replace").replace("\0", "\ufffd")
        return Refusal(error_type="", message=text.strip(), details="", node_errors={})
    error = _WireError(message=wire.error) if isinstance(wire.error, str) else wire.error
    return Refusal(
        error_type=error.type, message=error.message, details=error.details, node_errors=_node_errors(wire.node_errors)
    )


def queue(body: bytes) -> Queue:
    """``GET /queue``; ComfyUI's pending list is a heap and is sorted here (comfyui-protocol.md, "Other routes")."""
    wire = _decode(_queue, body, "queue")
    pending = sorted(wire.queue_pending, key=lambda item: item.number)
    return Queue(
        running=tuple(_item(item) for item in wire.queue_running), pending=tuple(_item(item) for item in pending)
    )


def _item(wire: _WireItem) -> QueueItem:
    extra_data = wire.extra_data or {}
    client_id = msgspec.json.decode(extra_data.get("client_id", b"null"))
    return QueueItem(
        number=wire.number,
        prompt_id=wire.prompt_id,
        client_id=client_id if isinstance(client_id, str) else None,
        # Copied, or each small mark would keep the whole answer in memory.
        extra_data={key: raw.copy() for key, raw in extra_data.items() if key != "extra_pnginfo"},
        outputs=_strings(wire.outputs) if isinstance(wire.outputs, list) else None,
    )


def queue_remaining(body: bytes) -> int:
    """``GET /prompt``: pending and running prompts together."""
    return _decode(_depth, body, "queue length").exec_info.queue_remaining


def history_entry(body: bytes, prompt_id: str) -> HistoryEntry | None:
    """``GET /history/{prompt_id}``.

    Returns:
        None where ComfyUI answers ``{}``: pending, running, deleted, unknown or
        lost in a restart all look the same (comfyui-protocol.md, trap 7).
    """
    wire = _decode(_history, body, "history").get(prompt_id)
    if wire is None:
        return None
    messages = tuple(wire.status.messages)
    raised = tuple(_raised(messages))
    outcome = _outcome(wire.status)
    return HistoryEntry(
        item=_item(wire.prompt),
        outcome=outcome,
        outputs={node: ui for node, ui in wire.outputs.items() if ui is not None},
        messages=messages,
        error=raised[-1] if outcome == "error" and raised else None,
        raised=raised,
        meta=wire.meta,
    )


def _outcome(status: _WireStatus) -> Outcome:
    """An interrupt is ``error`` too and is recognised by the last message (comfyui-protocol.md, "Other routes").

    A ``success`` whose last message is ``execution_error`` is none: ComfyUI 0.3.64 writes that for a
    dependency cycle through an input that the node's class does not declare (seen on a real one). A
    blocked output also has an ``execution_error``, but ``execution_success`` follows it.
    """
    last = status.messages[-1][0] if status.messages else ""
    if status.status_str == "success" and last != "execution_error":
        return "success"
    return "interrupted" if last == "execution_interrupted" else "error"


def _raised(messages: tuple[tuple[str, dict[str, Any]], ...]) -> Iterator[ExecutionError]:
    for kind, data in messages:
        if kind == "execution_error":
            # It failed: an unusual message of a custom node must not hide the end.
            with contextlib.suppress(msgspec.ValidationError):
                yield msgspec.convert(data, ExecutionError)


def system_stats(body: bytes) -> SystemStats:
    """``GET /system_stats``."""
    wire = _decode(_stats, body, "system stats")
    version = wire.system.comfyui_version
    return SystemStats(
        # Shown on one line, in terminals too.
        version=None if version is None else one_line(version),
        devices=tuple(msgspec.structs.replace(one, name=one_line(one.name)) for one in wire.devices),
        os=wire.system.os,
        python_version=wire.system.python_version,
        pytorch_version=wire.system.pytorch_version,
        arguments=_strings(wire.system.argv),
    )


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def json_object(body: bytes) -> dict[str, Any]:
    """Any answer that is one JSON object, such as ``/object_info``."""
    return _decode(_object, body, "answer")
