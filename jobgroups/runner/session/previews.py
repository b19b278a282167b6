"""Previews of running prompts, from a backend's sockets to the subscribed clients.

Previews are decoded only while a client is subscribed: at most four per second and child, the latest wins.
They are not stored, and no other work waits for them.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable
from typing import Final

from backends.comfyui.protocol import (
    Event,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    Preview,
)
from jobgroups.events.hub import Hub
from jobgroups.events.messages import Message, PreviewFrame
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.serializers import MAX_FRAME_BYTES, to_json

logger = logging.getLogger(__name__)

MIN_INTERVAL: Final = 0.25  #: Seconds between two previews of a child.


class SessionPreviews:
    """Previews of one backend, for the attempts that ``specs`` returns."""

    def __init__(self, hub: Hub, backend_id: str, specs: Callable[[], Iterable[tuple[str, AttemptSpec]]]) -> None:
        self._hub = hub
        self._backend_id = backend_id
        self._specs = specs
        self._executing: str | None = None
        self._throttles: dict[str, _Throttle] = {}

    def are_wanted(self) -> bool:
        """Return whether a client is subscribed to a group with a prompt at the backend."""
        return any(self._hub.wants_previews(spec.group_id) for _, spec in self._specs())

    def track(self, event: Event) -> None:
        """Record which prompt executes: a preview without a name (type 1) belongs to it."""
        match event:
            case ExecutionStart(prompt_id=prompt_id):
                self._executing = prompt_id
            case Executing(node=str(), prompt_id=str(prompt_id)):
                self._executing = prompt_id
            case Executing(node=None) | ExecutionSuccess() | ExecutionError() | ExecutionInterrupted():
                # ComfyUI shows everybody the previews of prompts that were sent without a client.
                self._executing = None

    def publish(self, preview: Preview) -> None:
        """Publish a preview of a prompt of ours, if a client is subscribed to its group."""
        prompt_id = preview.prompt_id or self._executing
        spec = dict(self._specs()).get(prompt_id or "")
        if prompt_id is None or spec is None or not self._hub.wants_previews(spec.group_id):
            return
        throttle = self._throttles.get(prompt_id)
        if throttle is None:
            present = {active_id for active_id, _ in self._specs()}
            self._throttles = {active_id: w for active_id, w in self._throttles.items() if active_id in present}
            throttle = self._throttles[prompt_id] = _Throttle(self._hub, self._backend_id, spec)
        throttle.publish(preview)


class _Throttle:
    """One attempt's previews: the latest, now or when the interval is over."""

    def __init__(self, hub: Hub, backend_id: str, spec: AttemptSpec) -> None:
        self._hub = hub
        self._backend_id = backend_id
        self._spec = spec
        self._sent_at = float("-inf")
        self._latest: Preview | None = None
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, preview: Preview) -> None:
        self._latest = preview
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._sent_at + MIN_INTERVAL - loop.time()
        if wait <= 0:
            self._send()
        else:
            self._timer = loop.call_later(wait, self._send)

    def _send(self) -> None:
        self._timer = None
        preview, self._latest = self._latest, None
        if preview is None or not self._hub.wants_previews(self._spec.group_id):
            return
        self._sent_at = asyncio.get_running_loop().time()
        # SaveImageWebsocket sends whole PNGs this way; base64 makes four bytes of three.
        if len(preview.image) * 4 // 3 > MAX_FRAME_BYTES - 1024:
            logger.debug("A preview of %d bytes is too large to be shown.", len(preview.image))
            return
        frame = PreviewFrame(self._spec.child_id, self._spec.number, self._text(preview))
        self._hub.publish(Message(group_id=self._spec.group_id, previews=(frame,)))

    def _text(self, preview: Preview) -> str:
        return to_json(
            {
                "type": "child_preview",
                "job_id": self._spec.child_id,
                "backend_id": self._backend_id,
                "attempt": self._spec.number,
                "mime": f"image/{preview.image_type}",
                "image": base64.b64encode(preview.image).decode("ascii"),
            }
        )
