"""ComfyUI's HTTP answers: a body in, a typed answer out (comfyui-protocol.md, "HTTP"). Pure.

Workflows inside queue and history are not decoded. Every function raises ``ProtocolError`` for a body of another shape.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from backends.comfyui.errors import ProtocolError, Refusal
from backends.comfyui.protocol import ExecutionError, QueueLength
from backends.comfyui.texts import one_line
from backends.comfyui.versions import Feature, has
from backends.comfyui.wire_json import WireDecoder

Outcome: TypeAlias = Literal["success", "error", "interrupted"]
T = TypeVar("T")

PREVIEW_OPTION: Final = "--preview-method"


class Accepted(msgspec.Struct):
    """ComfyUI queued the prompt."""

    prompt_id: str  #: The valid id, also if we sent another one (a ComfyUI before July 2025 ignores ours).
    number: float  #: Place in its queue: lowest runs first; fractions and negatives occur.
    node_errors: Any = None  #: Not empty if only some of the outputs are valid and will be executed.

    def __post_init__(self) -> None:
        self.node_errors = _node_errors(self.node_errors)


class QueueItem(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt at a ComfyUI."""

    prompt_id: str
    client_id: str | None  #: None for a prompt without one, or with one that is no string.
    extra_data: dict[str, msgspec.Raw]  #: By key, without ``extra_pnginfo``, which has the editor's whole workflow.
    outputs: tuple[str, ...] | None  #: Output nodes that will be executed, or were; None if the answer has no list.

    def mark(self, key: str) -> Any:
        """The value under ``key`` of the prompt's ``extra_data``; None where there is none."""
        raw = self.extra_data.get(key)
        return None if raw is None else msgspec.json.decode(raw)


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What runs and what waits. ``pending`` is in the order of running, unlike ComfyUI's answer."""

    running: tuple[QueueItem, ...]
    pending: tuple[QueueItem, ...]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ended prompt."""

    item: QueueItem
    outcome: Outcome
    outputs: dict[str, dict[str, Any]]  #: Node id to its ``ui`` object, also from before an error or interrupt.
    messages: tuple[tuple[str, dict[str, Any]], ...]  #: Type and data of each message, in order.
    error: ExecutionError | None  #: Why it failed; None for any other outcome.
    raised: tuple[ExecutionError, ...]  #: Every error in its messages, also of blocked nodes in a success.


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of ``/system_stats``; for ``cpu`` the memory is the machine's."""

    name: str
    vram_total: int | None = None  #: Bytes.
    vram_free: int | None = None  #: Bytes.

    def to_json(self) -> dict[str, str | int | None]:
        """Return what of a device is stored and shown to clients."""
        return {"name": self.name, "vram_total": self.vram_total, "vram_free": self.vram_free}


class SystemStats(msgspec.Struct, frozen=True, kw_only=True):
    """ComfyUI's description of its server."""

    version: str | None  #: None in old versions.
    python: str = ""  #: ``3.12.7 (main, …)``, ``2.6.0+cu124`` and ``posix``; empty if it does not say.
    pytorch: str = ""
    os: str = ""
    devices: tuple[Device, ...]
    arguments: tuple[str, ...]  #: Its command line: ``main.py --preview-method auto …``.

    @property
    def has_assets(self) -> bool:
        """Whether it keeps a database of assets, which no second ComfyUI can open."""
        is_on = "--enable-assets" in self.arguments or has(self.version, Feature.ASSETS)
        return is_on and "--disable-assets" not in self.arguments

    @property
    def makes_previews(self) -> bool:
        """Whether its command line chooses a method of previews; ComfyUI's default is ``none``."""
        words = [word for argument in self.arguments for word in argument.split("=", 1)]
        return any(
            option == PREVIEW_OPTION and method not in ("none", "") for option, method in itertools.pairwise(words)
        )

    def to_json(self) -> dict[str, Any]:
        """Return what is stored of it with each job."""
        return {
            "comfyui_version": self.version,
            "python_version": self.python,
            "pytorch_version": self.pytorch,
            "os": self.os,
            "devices": [{"name": one.name, "vram_total": one.vram_total} for one in self.devices],
        }


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


class _WireSystem(msgspec.Struct):
    comfyui_version: str | None = None
    python_version: Any = None
    pytorch_version: Any = None
    os: Any = None
    argv: Any = None


class _WireStats(msgspec.Struct):
    system: _WireSystem
    devices: tuple[Device, ...]


class _WireError(msgspec.Struct):
    type: str = ""
    message: str = ""
    details: str = ""
    extra_info: Any = None


class _WireRefusal(msgspec.Struct):
    error: _WireError | str
    node_errors: dict[str, Any] | list[Any] | None = None


class Job(msgspec.Struct, kw_only=True):
    """What is read of the answers of the routes of jobs: a job, an error, a list of jobs, or whether one was cancelled."""

    id: str | None = None
    status: str | None = None
    error: Any = None
    jobs: "list[Job] | None" = None
    cancelled: bool | None = None


_accepted = WireDecoder(Accepted)
_queue = WireDecoder(_WireQueue)
_history: WireDecoder[dict[str, _WireEntry]] = WireDecoder(dict[str, _WireEntry])
_depth = WireDecoder(QueueLength)
_stats = WireDecoder(_WireStats)
_refusal = WireDecoder(_WireRefusal)
_job = WireDecoder(Job)
_object: WireDecoder[dict[str, Any]] = WireDecoder(dict[str, Any])


def _decode(decoder: WireDecoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"{what} of another shape ({exc})", body) from exc


def accepted(body: bytes) -> Accepted:
    """The 200 of ``POST /prompt``."""
    return _decode(_accepted, body, "prompt answer")


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
        return Refusal(message=text.strip())
    error = _WireError(message=wire.error) if isinstance(wire.error, str) else wire.error
    return Refusal(
        error_type=error.type,
        message=error.message,
        details=error.details,
        node_errors=_node_errors(wire.node_errors),
        extra_info=error.extra_info if isinstance(error.extra_info, dict) else {},
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
    """``GET /history/{prompt_id}``; None where ComfyUI answers ``{}``.

    Pending, running, deleted, unknown or lost in a restart all look the same (comfyui-protocol.md, trap 7).
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
    )


def _outcome(status: _WireStatus) -> Outcome:
    """An interrupt is ``error`` too and is recognised by the last message (comfyui-protocol.md, "Other routes").

    A ``success`` that ends in ``execution_error`` is none: ComfyUI 0.3.64 writes that for a dependency cycle
    through an undeclared input. After the error of a blocked output ``execution_success`` follows.
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


def job(body: bytes) -> Job:
    """An answer of a route below ``/api/jobs``."""
    return _decode(_job, body, "job")


def system_stats(body: bytes) -> SystemStats:
    """``GET /system_stats``."""
    wire = _decode(_stats, body, "system stats")
    version = wire.system.comfyui_version
    python, pytorch, system = (
        one_line(one) if isinstance(one, str) else ""
        for one in (wire.system.python_version, wire.system.pytorch_version, wire.system.os)
    )
    return SystemStats(
        # Shown on one line, in terminals too.
        version=None if version is None else one_line(version),
        python=python,
        pytorch=pytorch,
        os=system,
        devices=tuple(msgspec.structs.replace(one, name=one_line(one.name)) for one in wire.devices),
        arguments=_strings(wire.system.argv),
    )


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def json_object(body: bytes) -> dict[str, Any]:
    """Any answer that is one JSON object, such as ``/object_info``."""
    return _decode(_object, body, "answer")
