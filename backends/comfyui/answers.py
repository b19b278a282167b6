"""ComfyUI's HTTP answers: a body in, a typed answer out (comfyui-protocol.md, "HTTP"). Pure.

Workflows inside queue and history are not decoded. Every function raises ``ProtocolError`` for a
body of another shape.
"""

import contextlib
import itertools
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from backends.comfyui.errors import DirectorFound, ProtocolError, Refusal
from backends.comfyui.protocol import ExecutionError, QueueLength
from backends.comfyui.texts import one_line
from backends.comfyui.versions import Feature, has
from backends.comfyui.wire_json import WireDecoder

Outcome: TypeAlias = Literal["success", "error", "interrupted"]
T = TypeVar("T")

PREVIEW_OPTION: Final = "--preview-method"


class Accepted(msgspec.Struct):
    #: The valid id, also if we sent another one (a ComfyUI before July 2025 ignores ours).
    prompt_id: str
    number: float  #: Place in its queue: lowest runs first; fractions and negatives occur.
    #: Not empty if only some of the outputs are valid and will be executed.
    node_errors: Any = None

    def __post_init__(self) -> None:
        # ComfyUI answers ``[]`` in some cases where it means ``{}``.
        self.node_errors = _object_or_empty(self.node_errors)


class QueueItem(msgspec.Struct, array_like=True):
    """One prompt at a ComfyUI. Its workflow, and ``extra_pnginfo`` with the editor's one, are not
    kept.
    """

    number: float
    prompt_id: str
    prompt: msgspec.Raw
    extra_data: dict[str, msgspec.Raw] | None = None
    #: A tuple of the output nodes that are executed; None if the answer has no list.
    outputs: Any = None

    def __post_init__(self) -> None:
        # Copied, or each small mark would keep the whole answer in memory.
        self.prompt = msgspec.Raw()
        self.extra_data = {
            key: raw.copy()
            for key, raw in (self.extra_data or {}).items()
            if key != "extra_pnginfo"
        }
        self.outputs = _strings(self.outputs) if isinstance(self.outputs, list) else None

    def mark(self, key: str) -> Any:
        """The value under ``key`` of the prompt's ``extra_data``; None where there is none."""
        raw = (self.extra_data or {}).get(key)
        return None if raw is None else msgspec.json.decode(raw)

    @property
    def client_id(self) -> str | None:
        """None for a prompt without one, or with one that is no string."""
        return client_id if isinstance(client_id := self.mark("client_id"), str) else None


class Queue(msgspec.Struct):
    """What runs and what waits. ``pending`` is in the order of running; ComfyUI's answer has a
    heap.
    """

    running: list[QueueItem] = msgspec.field(name="queue_running")
    pending: list[QueueItem] = msgspec.field(name="queue_pending")

    def __post_init__(self) -> None:
        self.pending.sort(key=lambda item: item.number)


class _Status(msgspec.Struct):
    status_str: Literal["success", "error"]
    messages: list[tuple[str, dict[str, Any]]] = []


class HistoryEntry(msgspec.Struct):
    item: QueueItem = msgspec.field(name="prompt")
    status: _Status
    ui: dict[str, dict[str, Any] | None] = msgspec.field(name="outputs", default_factory=dict)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Node id to its ``ui`` object, also from before an error or interrupt."""
        return {node: ui for node, ui in self.ui.items() if ui is not None}

    @property
    def messages(self) -> list[tuple[str, dict[str, Any]]]:
        return self.status.messages

    @property
    def outcome(self) -> Outcome:
        """An interrupt is ``error`` too and is recognised by the last message (comfyui-protocol.md,
        "Other routes").

        A ``success`` that ends in ``execution_error`` is none: ComfyUI 0.3.64 writes that for a
        dependency cycle through an undeclared input. After the error of a blocked output
        ``execution_success`` follows.
        """
        last = self.messages[-1][0] if self.messages else ""
        if self.status.status_str == "success" and last != "execution_error":
            return "success"
        return "interrupted" if last == "execution_interrupted" else "error"

    @property
    def raised(self) -> list[ExecutionError]:
        """Every error in its messages, also of blocked nodes in a success."""
        errors = []
        for kind, data in self.messages:
            if kind == "execution_error":
                # It failed: an unusual message of a custom node must not hide the end.
                with contextlib.suppress(msgspec.ValidationError):
                    errors.append(msgspec.convert(data, ExecutionError))
        return errors

    @property
    def error(self) -> ExecutionError | None:
        """Why it failed; None for any other outcome."""
        return self.raised[-1] if self.outcome == "error" and self.raised else None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of ``/system_stats``; for ``cpu`` the memory is the machine's."""

    name: str
    vram_total: int | None = None  #: Bytes.
    vram_free: int | None = None  #: Bytes.

    def to_json(self) -> dict[str, str | int | None]:
        """Return what of a device is stored and shown to clients."""
        return {"name": self.name, "vram_total": self.vram_total, "vram_free": self.vram_free}


class SystemStats(msgspec.Struct, frozen=True, kw_only=True):
    version: str | None  #: None in old versions.
    #: ``3.12.7 (main, …)``, ``2.6.0+cu124`` and ``posix``; empty if it does not say.
    python: str = ""
    pytorch: str = ""
    os: str = ""
    editor: str = ""  #: Version of ComfyUI's editor that it requires; empty if it does not say.
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
            option == PREVIEW_OPTION and method not in ("none", "")
            for option, method in itertools.pairwise(words)
        )

    def to_json(self) -> dict[str, Any]:
        """Return what is stored of it with each job."""
        return {
            "comfyui_version": self.version,
            "python_version": self.python,
            "pytorch_version": self.pytorch,
            "os": self.os,
            "devices": [
                {"name": device.name, "vram_total": device.vram_total} for device in self.devices
            ],
        }


class _Stats(msgspec.Struct):
    system: dict[str, Any]
    devices: tuple[Device, ...]


class Job(msgspec.Struct, kw_only=True):
    """What is read of the answers of the routes of jobs: a job, an error, a list of jobs, or
    whether one was cancelled.
    """

    id: str | None = None
    status: str | None = None
    error: Any = None
    jobs: "list[Job] | None" = None
    cancelled: bool | None = None


class _LogLine(msgspec.Struct):
    t: str


class _Log(msgspec.Struct):
    entries: list[_LogLine]


_accepted = WireDecoder(Accepted)
_queue = WireDecoder(Queue)
_history: WireDecoder[dict[str, HistoryEntry]] = WireDecoder(dict[str, HistoryEntry])
_depth = WireDecoder(QueueLength)
_stats = WireDecoder(_Stats)
_job = WireDecoder(Job)
_log = WireDecoder(_Log)
_object: WireDecoder[dict[str, Any]] = WireDecoder(dict[str, Any])
_texts: WireDecoder[dict[str, msgspec.Raw]] = WireDecoder(dict[str, msgspec.Raw])
_list: WireDecoder[list[Any]] = WireDecoder(list[Any])
_any: WireDecoder[Any] = WireDecoder(Any)


def _decode(decoder: WireDecoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"{what} of another shape ({exc})", body) from exc


def parse_accepted(body: bytes) -> Accepted:
    """The 200 of ``POST /prompt``."""
    return _decode(_accepted, body, "prompt answer")


def refusal(body: bytes) -> Refusal:
    """The 400 or 413 of ``POST /prompt``; never raises: the status has already decided.

    A body that is not ComfyUI's own (413 is plain text, a proxy's is HTML) gives
    ``error_type`` ``""`` and the head of its text as message.
    """
    try:
        answer = json_object(body)
    except ProtocolError:
        answer = {}
    error = answer.get("error")
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        text = body[:500].decode("utf-8", "replace").replace("\0", "\ufffd")
        return Refusal(message=text.strip())
    return Refusal(
        error_type=_text(error.get("type")),
        message=_text(error.get("message")),
        details=_text(error.get("details")),
        node_errors=_object_or_empty(answer.get("node_errors")),
        extra_info=_object_or_empty(error.get("extra_info")),
    )


def queue(body: bytes) -> Queue:
    """``GET /queue``."""
    return _decode(_queue, body, "queue")


def queue_remaining(body: bytes) -> int:
    """``GET /prompt``: pending and running prompts together."""
    return _decode(_depth, body, "queue length").exec_info.queue_remaining


def history_entry(body: bytes, prompt_id: str) -> HistoryEntry | None:
    """``GET /history/{prompt_id}``; None where ComfyUI answers ``{}``.

    Pending, running, deleted, unknown or lost in a restart all look the same (comfyui-protocol.md,
    trap 7).
    """
    return _decode(_history, body, "history").get(prompt_id)


def job(body: bytes) -> Job:
    """An answer of a route below ``/api/jobs``."""
    return _decode(_job, body, "job")


#: The key of ``system`` in the ``/system_stats`` of a Director's ComfyUI listener.
DIRECTOR_KEY: Final = "director_version"
#: The code of the error with which a Director answers without credentials.
_DIRECTOR_CODE: Final = "sign_in_required"


def is_director_refusal(body: bytes) -> bool:
    """Return whether the body of a 401 is that of a Director, of its API or its listener."""
    try:
        refusal = json_object(body)
    except ProtocolError:
        return False
    error = refusal.get("error")
    kind = error.get("type") if isinstance(error, dict) else refusal.get("code")
    return kind == _DIRECTOR_CODE


def system_stats(body: bytes) -> SystemStats:
    """``GET /system_stats``; raise ``DirectorFound`` for that of a Director."""
    wire = _decode(_stats, body, "system stats")
    if DIRECTOR_KEY in wire.system:
        raise DirectorFound(status=200)
    # Shown on one line, in terminals too.
    texts = {name: one_line(value) for name, value in wire.system.items() if isinstance(value, str)}
    return SystemStats(
        version=texts.get("comfyui_version"),
        python=texts.get("python_version", ""),
        pytorch=texts.get("pytorch_version", ""),
        os=texts.get("os", ""),
        editor=texts.get("required_frontend_version", ""),
        devices=tuple(
            msgspec.structs.replace(device, name=one_line(device.name)) for device in wire.devices
        ),
        arguments=_strings(wire.system.get("argv")),
    )


def log_times(body: bytes) -> frozenset[str]:
    """``GET /internal/logs/raw``: the time of each line."""
    return frozenset(line.t for line in _decode(_log, body, "log").entries)


def _object_or_empty(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def json_object(body: bytes) -> dict[str, Any]:
    """Any answer that is one JSON object, such as ``/object_info``."""
    return _decode(_object, body, "answer")


def json_texts(body: bytes) -> dict[str, bytes]:
    """Any answer that is one JSON object, with the JSON text of each value."""
    # A copy: the text would keep the whole body.
    return {name: bytes(value) for name, value in _decode(_texts, body, "answer").items()}


def json_value(body: bytes) -> Any:
    """Any answer that is JSON."""
    return _decode(_any, body, "answer")


def json_list(body: bytes) -> list[Any]:
    """Any answer that is one JSON list."""
    return _decode(_list, body, "answer")
