"""Pictures of what is being made, on their way from a backend's sockets to whoever looks.

Nobody looks: nothing is decoded. Somebody does: the latest, four times a second a child at most.
Never stored, never waited for.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from backends.comfyui.protocol import (
    Event,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    Preview,
)
from jobgroups.events.hub import Hub, Message, PreviewFrame
from jobgroups.serializers import MAX_FRAME_BYTES, to_json

if TYPE_CHECKING:
    from jobgroups.runner.attempt.driver import Course

logger = logging.getLogger(__name__)

#: Seconds between two previews of a child.
GAP: Final = 0.25


class SessionPreviews:
    """One backend's previews.

    Args:
        hub: asked who looks, and told what is to be seen.
        courses: gives the attempts that stand at the backend now.
    """

    def __init__(
        self, hub: Hub, backend_id: str, courses: Callable[[], Iterable[tuple[str, Course]]]
    ) -> None:
        self._hub = hub
        self._backend_id = backend_id
        self._courses = courses
        self._executing: str | None = None
        self._windows: dict[str, _Window] = {}

    def are_wanted(self) -> bool:
        """Whether somebody looks at a child that stands at the backend."""
        return any(self._hub.wants_previews(course.group_id) for _, course in self._courses())

    def note(self, event: Event) -> None:
        """Take in which prompt executes: a preview without a name (type 1) is of that one."""
        match event:
            case ExecutionStart(prompt_id=prompt_id):
                self._executing = prompt_id
            case Executing(node=str(), prompt_id=str(prompt_id)):
                self._executing = prompt_id
            case (
                Executing(node=None)
                | ExecutionSuccess()
                | ExecutionError()
                | ExecutionInterrupted()
            ):
                # ComfyUI shows everybody the previews of prompts that were sent without a client.
                self._executing = None

    def show(self, preview: Preview) -> None:
        """Pass a preview on if it is of a prompt of ours that somebody looks at."""
        prompt_id = preview.prompt_id or self._executing
        course = dict(self._courses()).get(prompt_id or "")
        if prompt_id is None or course is None or not self._hub.wants_previews(course.group_id):
            return
        window = self._windows.get(prompt_id)
        if window is None:
            present = {one for one, _ in self._courses()}
            self._windows = {one: w for one, w in self._windows.items() if one in present}
            window = self._windows[prompt_id] = _Window(self._hub, self._backend_id, course)
        window.show(preview)


class _Window:
    """One attempt's previews: the latest, now or when the gap is over."""

    def __init__(self, hub: Hub, backend_id: str, course: Course) -> None:
        self._hub = hub
        self._backend_id = backend_id
        self._course = course
        self._sent_at = float("-inf")
        self._latest: Preview | None = None
        self._timer: asyncio.TimerHandle | None = None

    def show(self, preview: Preview) -> None:
        self._latest = preview
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._sent_at + GAP - loop.time()
        if wait <= 0:
            self._send()
        else:
            self._timer = loop.call_later(wait, self._send)

    def _send(self) -> None:
        self._timer = None
        preview, self._latest = self._latest, None
        if preview is None or not self._hub.wants_previews(self._course.group_id):
            return
        self._sent_at = asyncio.get_running_loop().time()
        # SaveImageWebsocket sends whole PNGs this way; base64 makes four bytes of three.
        if len(preview.image) * 4 // 3 > MAX_FRAME_BYTES - 1024:
            logger.debug("A preview of %d bytes is too large to be shown.", len(preview.image))
            return
        frame = PreviewFrame(self._course.child_id, self._course.number, self._text(preview))
        self._hub.publish(Message(group_id=self._course.group_id, previews=(frame,)))

    def _text(self, preview: Preview) -> str:
        return to_json(
            {
                "type": "child_preview",
                "job_id": self._course.child_id,
                "backend_id": self._backend_id,
                "attempt": self._course.number,
                "mime": f"image/{preview.image_type}",
                "image": base64.b64encode(preview.image).decode("ascii"),
            }
        )
