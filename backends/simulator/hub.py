"""The sockets of one server and the one line of frames to all of them.

Frames are sent one after another, each awaited before the next, as ComfyUI does: a socket that
does not read stalls all clients (comfyui-protocol.md, trap 2).
"""

import asyncio
import json
import struct
from typing import Any

from aiohttp import web

_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4
_IMAGE_TYPES = {"jpeg": 1, "png": 2}

Frame = str | bytes


class Hub:
    def __init__(self) -> None:
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.features: dict[str, Any] = {}
        # Every open socket, also those no clientId leads to any more, with its connection.
        self.open: dict[web.WebSocketResponse, asyncio.Transport] = {}
        self.stalled: set[web.WebSocketResponse] = set()
        self._frames: asyncio.Queue[tuple[Frame, Any]] = asyncio.Queue()

    def send(self, event: str, data: Any, client_id: Any = None) -> None:
        """Queue a JSON frame for one client, or for all sockets if it's None."""
        self.send_frame(json.dumps({"type": event, "data": data}), client_id)

    def send_frame(self, frame: Frame, client_id: Any = None) -> None:
        self._frames.put_nowait((frame, client_id))

    def send_text(self, node_id: str, text: str, client_id: Any) -> None:
        node = node_id.encode()
        head = struct.pack(">II", _TEXT, len(node))
        self.send_frame(head + node + text.encode(), client_id)

    def send_preview(self, image: bytes, kind: str, client_id: Any) -> None:
        """Queue a preview without a name on it (binary type 1); kind is "jpeg" or "png"."""
        self.send_frame(struct.pack(">II", _PREVIEW, _IMAGE_TYPES[kind]) + image, client_id)

    def send_named_preview(
        self, image: bytes, kind: str, metadata: dict[str, Any], client_id: Any
    ) -> None:
        text = json.dumps(metadata | {"image_type": f"image/{kind}"}).encode()
        head = struct.pack(">II", _PREVIEW_WITH_METADATA, len(text))
        self.send_frame(head + text + image, client_id)

    def wants_metadata(self, client_id: Any) -> bool:
        """Return whether that client's first message requested previews with metadata (exactly
        true).
        """
        features = self.features.get(client_id) if isinstance(client_id, str) else None
        return isinstance(features, dict) and features.get("supports_preview_metadata") is True

    async def publish(self) -> None:
        """Send queued frames for ever. Raises TypeError for a client_id no dict can look up:
        ComfyUI's process ends then (comfyui-protocol.md, trap 1c)."""
        while True:
            frame, client_id = await self._frames.get()
            if client_id is None:
                for socket in list(self.sockets.values()):
                    await self._deliver(socket, frame)
            elif client_id in self.sockets:
                await self._deliver(self.sockets[client_id], frame)

    async def send_now(self, event: str, data: Any, client_id: str) -> None:
        """Send past the queue: what a socket gets when it connects."""
        if (socket := self.sockets.get(client_id)) is not None:
            await self._deliver(socket, json.dumps({"type": event, "data": data}))

    async def _deliver(self, socket: web.WebSocketResponse, frame: Frame) -> None:
        if socket in self.stalled:
            return
        try:
            if isinstance(frame, str):
                await socket.send_str(frame)
            else:
                await socket.send_bytes(frame)
        except ConnectionError:
            return  # it's closing; its handler notices by itself

    def drop(self, client_id: str = "") -> None:
        """Break the connections of a client's socket (or of all) without a close frame."""
        for socket in self.chosen(client_id):
            self.open[socket].abort()

    def stall(self, client_id: str = "") -> None:
        """Neither read nor write a client's socket (or any) from now on; it stays open."""
        for socket in self.chosen(client_id):
            self.stalled.add(socket)
            self.open[socket].pause_reading()

    def chosen(self, client_id: str) -> list[web.WebSocketResponse]:
        """The open sockets of a client, or all of them for ""."""
        if not client_id:
            return list(self.open)
        socket = self.sockets.get(client_id)
        return [socket] if socket is not None else []

    def forget(self, client_id: str) -> None:
        """Send no more frames to a client's socket (to all of them for ""); it stays open."""
        for name in [client_id] if client_id else list(self.sockets):
            self.sockets.pop(name, None)
            self.features.pop(name, None)
