"""Previews of running prompts, from a backend's sockets to the subscribed clients.

Previews are decoded only while a client is subscribed: at most four per second and child, the
latest wins. They are not stored, and no other work waits for them.
"""

import asyncio
import base64
import logging
from typing import Final

from backends.comfyui.protocol import Preview
from jobgroups.events.hub import Hub
from jobgroups.events.messages import Message, PreviewFrame
from jobgroups.runner.attempt.driver import AttemptDriver
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.session.frames import driver_of
from jobgroups.serializers import MAX_FRAME_BYTES, to_json

logger = logging.getLogger(__name__)

MIN_INTERVAL: Final = 0.25  #: Seconds between two previews of a child.


class SessionPreviews:
    """Previews of one backend, for the attempts of ``drivers``, which are by the id of the attempt."""

    def __init__(self, hub: Hub, backend_id: str, drivers: dict[int, AttemptDriver]) -> None:
        self._hub = hub
        self._backend_id = backend_id
        self._drivers = drivers
        self._throttles: dict[int, _Throttle] = {}

    def are_wanted(self) -> bool:
        """Return whether a client is subscribed to a group with a prompt at the backend, or a
        prompt sends results so.
        """
        return any(
            driver.pictures.nodes or self._hub.wants_previews(driver.spec.group_id)
            for driver in self._drivers.values()
        )

    def publish(self, preview: Preview) -> None:
        """Publish a preview of a prompt of ours that is not to be stopped, if a client is
        subscribed to its group.

        A result that came like a preview is kept too. ComfyUI shows everybody the previews of
        prompts that were sent without a client.
        """
        driver = driver_of(self._drivers, preview.prompt_id)
        if driver is not None:
            driver.pictures.receive(preview)
        if (
            driver is None
            or driver.machine.stop_pending
            or not self._hub.wants_previews(driver.spec.group_id)
        ):
            return
        attempt_id = driver.spec.attempt_id
        throttle = self._throttles.get(attempt_id)
        if throttle is None:
            self._throttles = {
                driven_id: kept
                for driven_id, kept in self._throttles.items()
                if driven_id in self._drivers
            }
            throttle = self._throttles[attempt_id] = _Throttle(
                self._hub, self._backend_id, driver.spec
            )
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
