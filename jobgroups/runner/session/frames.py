"""Frames of prompts that came through the ComfyUI listener, from a backend's sockets to the clients.

They are published as ComfyUI sent them, while a client is connected; of the progress of a prompt
ten times a second, the latest of each kind and node. The latest frames of each prompt are kept, and
published again for a client that connects later.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from backends.comfyui.errors import ProtocolError
from backends.comfyui.event_socket import Tap
from backends.comfyui.wire_json import WireDecoder
from jobgroups.events.hub import Hub
from jobgroups.events.messages import ListenerFrame, Message
from jobgroups.runner.attempt.driver import AttemptDriver
from jobgroups.runner.attempt.spec import AttemptSpec

_GAP: Final = 0.1  #: Seconds between two messages with progress of a prompt.
_PAIR: Final = 0.005  #: Seconds within which ComfyUI's frames of one step follow each other.
#: A larger frame is dropped: it would delay all others between processes.
_MAX_BYTES: Final = 2 * 2**20
#: Text frames that only the newest one of is published of, by node.
_PROGRESS: Final = frozenset({"progress", "progress_state"})
#: Published again for a client that connects later, in this order, before the reports of nodes.
_STATE: Final = ("execution_start", "execution_cached", "progress_state", "executing")

#: Kinds of binary frames, each with its name for listeners.
_TEXT, _WITH_METADATA = 3, 4
_BINARY: Final = {1: "preview", _TEXT: "text", _WITH_METADATA: "preview"}


class _Data(msgspec.Struct):
    prompt_id: Any = None
    node: Any = None


class _Head(msgspec.Struct):
    type: str
    data: _Data


_heads: Final = WireDecoder(_Head)
_metadata: Final[WireDecoder[dict[str, Any]]] = WireDecoder(dict[str, Any])


class FrameTap(Tap):
    """Frames of one backend, for the attempts of ``drivers``, which are by the id of the attempt."""

    def __init__(self, hub: Hub, drivers: dict[int, AttemptDriver]) -> None:
        self._hub = hub
        self._drivers = drivers
        self._outlets: dict[int, _Outlet] = {}

    def follow(self, spec: AttemptSpec) -> None:
        """Publish the frames of an attempt from now on, if it is of the listener."""
        if spec.is_of_listener:
            self._outlets.setdefault(spec.attempt_id, _Outlet(self._hub, spec))
            self.is_open = True

    def forget(self, attempt_id: int) -> None:
        """Publish what is left of an attempt, and nothing more."""
        outlet = self._outlets.pop(attempt_id, None)
        if outlet is not None:
            outlet.flush()
        self.is_open = bool(self._outlets)

    def repeat(self, group_id: str) -> None:
        """Publish the latest frames of a group once more."""
        for outlet in self._outlets.values():
            if outlet.spec.group_id == group_id:
                outlet.repeat()

    def receive(self, frame: str | bytes) -> None:
        if len(frame) > _MAX_BYTES:
            return
        try:
            if isinstance(frame, str):
                self._receive_text(frame)
            else:
                self._receive_binary(frame)
        except (msgspec.MsgspecError, ProtocolError, struct.error, UnicodeError):
            # The parser of events logs it.
            return

    def _receive_text(self, frame: str) -> None:
        head = _heads.decode(frame)
        if isinstance(head.data.prompt_id, str) and head.data.prompt_id:
            node = head.data.node if isinstance(head.data.node, str) else ""
            self._put(driver_of(self._drivers, head.data.prompt_id), head.type, node, text=frame)

    def _receive_binary(self, frame: bytes) -> None:
        kind, number = struct.unpack_from(">II", frame)
        if kind not in _BINARY:
            return
        following = frame[8 : 8 + number]
        metadata = _metadata.decode(following) if kind == _WITH_METADATA else {}
        driver = driver_of(self._drivers, metadata.get("prompt_id"))
        node = following.decode() if kind == _TEXT else str(metadata.get("node_id") or "")
        if outlet := self._outlets.get(driver.spec.attempt_id if driver else 0):
            node = node or outlet.node
        # A result is stored, and sent from there.
        if kind == _TEXT or driver is None or node not in driver.pictures.nodes:
            self._put(driver, _BINARY[kind], node, data=frame)

    def _put(self, driver: AttemptDriver | None, kind: str, node: str, **frame: Any) -> None:
        outlet = None if driver is None else self._outlets.get(driver.spec.attempt_id)
        if driver is not None and outlet is not None:
            number, prompt_id = driver.spec.number, driver.machine.prompt_id
            outlet.put(ListenerFrame(number, prompt_id, kind, node, **frame))


def driver_of(drivers: dict[int, AttemptDriver], prompt_id: str | None) -> AttemptDriver | None:
    """Return the driver of a prompt, or of the one that executes if a frame names none."""
    for driver in reversed(drivers.values()):
        # The last that executes: the end of an earlier one may have been lost.
        machine = driver.machine
        if machine.prompt_id == prompt_id if prompt_id else machine.evidence.is_executing:
            return driver
    return None


class _Outlet:
    """The frames of one attempt."""

    def __init__(self, hub: Hub, spec: AttemptSpec) -> None:
        self.spec = spec
        self.node = ""  #: The node that executes.
        self._hub = hub
        self._state: dict[str, ListenerFrame] = {}
        self._executed: dict[str, ListenerFrame] = {}
        self._pending: dict[tuple[str, str], ListenerFrame] = {}
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def put(self, frame: ListenerFrame) -> None:
        if frame.kind in _STATE:
            self._state[frame.kind] = frame
        if frame.kind == "executed":
            self._executed[frame.node] = frame
        elif frame.kind == "executing":
            self.node = frame.node
            if not frame.node:
                # Its end is what is stored.
                self.flush()
                return
        if not frame.data and frame.kind not in _PROGRESS:
            self.flush(frame)
            return
        key = (frame.kind, "" if frame.kind == "progress_state" else frame.node)
        self._pending.pop(key, None)
        self._pending[key] = frame
        if self._timer is None:
            loop = asyncio.get_running_loop()
            wait = self._sent_at + _GAP - loop.time()
            self._timer = loop.call_later(max(wait, _PAIR), self.flush)

    def flush(self, *more: ListenerFrame) -> None:
        """Publish what waits, then these frames."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        frames = (*self._pending.values(), *more)
        if self._pending:
            self._pending.clear()
            self._sent_at = asyncio.get_running_loop().time()
        self._publish(frames)

    def repeat(self) -> None:
        kept = [self._state[kind] for kind in _STATE if kind in self._state]
        self._publish((*kept[:2], *self._executed.values(), *kept[2:]))

    def _publish(self, frames: Iterable[ListenerFrame]) -> None:
        wanted = tuple(frames)
        if wanted and self._hub.wants_frames(self.spec.group_id):
            self._hub.publish(Message(group_id=self.spec.group_id, frames=wanted))
