"""ComfyUI's socket events: one frozen type for each kind of frame.

Pure data. ``protocol.parse`` makes them; docs/comfyui-protocol.md describes the wire format.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

ImageType: TypeAlias = Literal["jpeg", "png"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The queue's length; goes to every socket, and is each socket's first frame (comfyui-protocol.md, "WebSocket")."""

    #: Pending and running prompts together.
    queue_remaining: int
    #: The socket's client id; only in the first frame.
    sid: str | None = None


class ExecutionStart(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt left the queue and is being executed."""

    prompt_id: str


class ExecutionCached(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that need not run; always sent, empty if there are none."""

    prompt_id: str
    nodes: tuple[str, ...]


class Executing(msgspec.Struct, frozen=True, kw_only=True):
    """A node began, or, with ``node`` None, the prompt has ended, however it ended.

    After a reconnect ComfyUI repeats the current node without ``prompt_id`` and
    ``display_node`` (comfyui-protocol.md, "WebSocket").
    """

    node: str | None
    prompt_id: str | None = None
    display_node: str | None = None


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


class ProgressState(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of the prompt that are not pending, so far."""

    prompt_id: str
    nodes: dict[str, NodeState]


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """A node's result for the user interface; for a cached output node with its old file names."""

    prompt_id: str
    node: str
    display_node: str | None
    #: ComfyUI's ``ui`` object as it is; ``{}`` where it was null.
    output: dict[str, Any]


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
    #: Nodes that had finished, in no order.
    executed: tuple[str, ...] = ()


class ExecutionInterrupted(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt was stopped; ``node_id`` may be the node after the one that would not stop (comfyui-protocol.md, trap 5)."""

    prompt_id: str
    node_id: str | None = None
    node_type: str | None = None
    executed: tuple[str, ...] = ()


class FeatureFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to our feature flags."""

    supports_preview_metadata: bool = False
    #: Bytes; None if the server does not send it.
    max_upload_size: int | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a running node, or one that SaveImageWebsocket sends.

    Without metadata (type 1) it belongs to the last ``executing``.
    """

    image_type: ImageType
    image: bytes
    prompt_id: str | None = None
    node_id: str | None = None
    #: As sent with type 4, None with type 1.
    metadata: dict[str, Any] | None = None


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that a node shows while it runs."""

    node_id: str
    text: str


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
    | FeatureFlags
    | Preview
    | Text
)
