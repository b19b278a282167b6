"""A session's event sockets: the main socket, and one for each older client id of an active prompt.

ComfyUI sends a prompt's events only to the socket whose id sent it. A second socket with that id
silences both (comfyui-protocol.md, "WebSocket"). So every main socket has a random id, which is
stored on its attempts. After a reconnect the old ids are followed until their prompts have ended.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from backends.comfyui.errors import BackendError
from backends.comfyui.event_socket import EventSocket
from backends.comfyui.protocol import Event, Status
from jobgroups.runner.context import SessionContext
from jobgroups.runner.session.attempts import ActiveAttempts

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Sockets:
    context: SessionContext
    attempts: ActiveAttempts
    on_event: Callable[[Event], None]  #: Called with each event; it must not wait.
    wants_previews: Callable[[], bool]  #: Returns whether previews are to be decoded.
    #: Called when the main socket receives its first status frame.
    on_open: Callable[[], None] = field(init=False)
    #: The id of the main socket while it receives events.
    client_id: str | None = field(default=None, init=False)
    #: When the main socket was lost, while it is.
    lost_at: float = field(default_factory=time.monotonic, init=False)
    #: The main socket's id, until that socket is closed.
    _main_id: str | None = field(default=None, init=False)
    _follows: set[str] = field(default_factory=set, init=False)
    #: The main socket while it is open.
    _main: EventSocket | None = field(default=None, init=False)
    _heard_at: float = field(default=0.0, init=False)
    _status_at: float = field(default=0.0, init=False)
    _replaced_at: float = field(default=float("-inf"), init=False)

    @property
    def is_active(self) -> bool:
        """Whether a frame came recently: then the backend is online and has sent its queue's
        length.
        """
        return (
            self.client_id is not None
            and time.monotonic() - self._heard_at < self.context.intervals.probe
        )

    def replace(self) -> None:
        if self._main is not None:
            self.client_id = None
            self.context.task_group.create_task(self._main.close())

    async def run(self) -> None:
        pause = self.context.intervals.reconnect_first
        while True:
            client_id = self._main_id = f"director-{uuid.uuid4()}"
            try:
                async with self.context.client.events(
                    client_id, wants_previews=self.wants_previews, tap=self.attempts.tap
                ) as socket:
                    pause = self.context.intervals.reconnect_first
                    self._main = socket
                    await self._receive_main(client_id, socket)
            except BackendError as error:
                self.context.availability.socket_lost(error.detail)
            finally:
                self.attempts.socket_lost(client_id)
                # It may restart, with another clock.
                self.context.files_ahead = None
                self.client_id = self._main_id = self._main = None
                if pause == self.context.intervals.reconnect_first:
                    self.lost_at = time.monotonic()
            for old in {driver.spec.client_id for driver in self.attempts.drivers.values()}:
                self.follow(old)
            self.attempts.look_up_now()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 jitter
            pause = min(pause * 2, self.context.intervals.reconnect_most)

    async def _receive_main(self, client_id: str, socket: EventSocket) -> None:
        async for event in socket:
            self._heard_at = self.context.availability.last_frame_at = time.monotonic()
            if isinstance(event, Status):
                self._status_at = self._heard_at
                if self.client_id is None:
                    self.client_id = client_id
                    self.on_open()
            self.on_event(event)

    def expect_status_since(self, sent_at: float) -> None:
        """Replace the main socket if no status frame follows an accepted prompt: it is silent."""
        name = f"{self.context.backend_id}: silent?"
        self.context.task_group.create_task(self._check_silent(sent_at), name=name)

    async def _check_silent(self, sent_at: float) -> None:
        await asyncio.sleep(self.context.intervals.deaf_after)
        moment = time.monotonic()
        if (
            self.client_id is not None
            and self._status_at < sent_at
            and moment - self._replaced_at >= self.context.intervals.replace_every
        ):
            logger.warning("%s: event socket is silent; replacing it", self.context.backend_id)
            self._replaced_at = moment
            self.replace()

    def follow(self, client_id: str) -> None:
        """Receive the events of an older socket's id, until none of its attempts is active."""
        if client_id != self._main_id and client_id not in self._follows:
            self._follows.add(client_id)
            name = f"{self.context.backend_id}: follow {client_id}"
            self.context.task_group.create_task(self._run_follower(client_id), name=name)

    async def _run_follower(self, client_id: str) -> None:
        try:
            while self._is_followed(client_id):
                try:
                    async with self.context.client.events(
                        client_id, wants_previews=self.wants_previews, tap=self.attempts.tap
                    ) as socket:
                        self.attempts.socket_opened(client_id)
                        await self._receive_follower(client_id, socket)
                except BackendError as error:
                    logger.debug("%s: follow socket: %s", self.context.backend_id, error)
                self.attempts.socket_lost(client_id)
                await asyncio.sleep(self.context.intervals.reconnect_most)
        finally:
            self._follows.discard(client_id)

    async def _receive_follower(self, client_id: str, socket: EventSocket) -> None:
        """Read a socket until it is lost, or until a frame comes after the end of its attempts."""
        async for event in socket:
            self.context.availability.last_frame_at = time.monotonic()
            if not self._is_followed(client_id):
                return
            # Status frames come to every socket; those of the main socket count.
            if not isinstance(event, Status):
                self.on_event(event)

    def _is_followed(self, client_id: str) -> bool:
        drivers = self.attempts.drivers.values()
        return any(driver.spec.client_id == client_id for driver in drivers)
