"""A program of ComfyUI, as its script examples are: one socket, prompts with its id, and the frames
until the last one.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.sync.client import connect

PATIENCE = 60.0  #: Seconds to wait for a frame.


class ComfyScript:
    """One program at one address; ``features`` is what its first message offers."""

    def __init__(
        self,
        url: str,
        client_id: str | None = None,
        *,
        features: Mapping[str, Any] | None = None,
        user: str = "",
    ) -> None:
        self.url = url
        self._headers = {"Comfy-User": user}
        self.client_id = str(uuid.uuid4()) if client_id is None else client_id
        self._features = features
        self.frames: list[Any] = []  #: All that came: objects, and bytes.

    def __enter__(self) -> Self:
        self._connection = connect(
            f"ws{self.url.removeprefix('http')}/ws?clientId={self.client_id}",
            additional_headers=self._headers,
            max_size=None,
            proxy=None,
            open_timeout=PATIENCE,
        )
        self.socket = self._connection.__enter__()
        if self._features is not None:
            message = {"type": "feature_flags", "data": dict(self._features)}
            self.socket.send(json.dumps(message))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(
            f"{self.url}{path}", headers=self._headers, trust_env=False, timeout=PATIENCE, **options
        )

    def queue(self, graph: Mapping[str, Any], **more: Any) -> str:
        """Queue a prompt as ``websockets_api_example.py`` does, and return its id."""
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graph, "client_id": self.client_id, "prompt_id": prompt_id, **more}
        # Without a media type, as urllib sends it.
        answer = httpx.post(
            f"{self.url}/prompt",
            content=json.dumps(body).encode(),
            headers=self._headers,
            trust_env=False,
            timeout=PATIENCE,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["prompt_id"] == prompt_id
        return prompt_id

    def receive(self, timeout: float = PATIENCE) -> Any:
        frame = self.socket.recv(timeout)
        self.frames.append(frame if isinstance(frame, bytes) else json.loads(frame))
        return self.frames[-1]

    def until_done(self, prompt_id: str) -> list[Any]:
        """Read until ``executing`` says that a prompt is done; return what came until then."""
        first = len(self.frames)
        while True:
            frame = self.receive()
            if isinstance(frame, bytes):
                continue
            data = frame["data"]
            if (
                frame["type"] == "executing"
                and data["node"] is None
                and data["prompt_id"] == prompt_id
            ):
                return self.frames[first:]

    def images(self, prompt_id: str) -> dict[str, list[bytes]]:
        """Read until a prompt is done, look its history up at once, and return by node the files of
        it, as ``websockets_api_example.py`` does.
        """
        self.until_done(prompt_id)
        history = self.get(f"/history/{prompt_id}").json()[prompt_id]
        return {
            node: [self.view(image) for image in output.get("images", ())]
            for node, output in history["outputs"].items()
        }

    def view(self, image: Mapping[str, str]) -> bytes:
        names = ("filename", "subfolder", "type")
        answer = self.get("/view", params={name: image[name] for name in names})
        assert answer.status_code == 200, answer.text
        return answer.content

    def frame_images(self, prompt_id: str, node: str) -> list[bytes]:
        """Read until a prompt is done, and return the images that came while a node executed, as
        ``websockets_api_example_ws_images.py`` does.
        """
        images, current = list[bytes](), ""
        for frame in self.until_done(prompt_id):
            if isinstance(frame, bytes):
                if current == node:
                    images.append(frame[8:])
            elif frame["type"] == "executing":
                current = frame["data"]["node"]
        return images


def kinds(frames: list[Any]) -> list[str]:
    """Return the type of each frame, of a binary one by its number; the progress is left out."""
    found = [
        f"binary {struct.unpack_from('>I', frame)[0]}"
        if isinstance(frame, bytes)
        else str(frame["type"])
        for frame in frames
    ]
    return [kind for kind in found if kind not in ("progress", "progress_state", "status")]
