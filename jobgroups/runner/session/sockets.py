"""A session's sockets: one that hears, and one for each older id that a prompt is told to.

ComfyUI sends a prompt's events only to the socket whose id sent it; a second socket with that id
silences both (comfyui-protocol.md, "WebSocket"). So every main socket has a new id, kept on the attempts it hears,
and after a reconnect the old ids are followed until their prompts have ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from backends.comfyui.errors import BackendError
from backends.comfyui.protocol import Status

if TYPE_CHECKING:
    from jobgroups.runner.session.session import BackendSession

logger = logging.getLogger(__name__)


class Sockets:
    """One session's main socket, and those that follow older ones."""

    def __init__(self, session: BackendSession) -> None:
        self._session = session
        self._intervals = session.intervals
        self._connections = 0
        #: The id of the main socket while it hears.
        self.client_id: str | None = None
        #: When the main socket was lost, while it is.
        self.lost_at = time.monotonic()
        #: The main socket's id, until that socket is closed.
        self._main_id: str | None = None
        self._follows: set[str] = set()
        self._reconnect = asyncio.Event()
        self._heard_at = self._status_at = 0.0
        #: When the last frame came, over any of them.
        self.last_frame_at = 0.0
        self._replaced_at = float("-inf")

    @property
    def is_active(self) -> bool:
        """Whether the backend has just been heard: then it is there, and has told how long its queue is."""
        return (
            self.client_id is not None and time.monotonic() - self._heard_at < self._intervals.probe
        )

    def replace(self) -> None:
        """Have the main socket closed and another one opened."""
        self._reconnect.set()

    # --- the main one -----------------------------------------------------------------------------

    def _next_client_id(self) -> str:
        self._connections += 1
        session = self._session
        return f"director-{session.context.instance}-{session.fence.epoch}-{self._connections}"

    async def run(self) -> None:
        """Keep a main socket open, until cancelled."""
        session = self._session
        pause = self._intervals.reconnect_first
        while True:
            client_id = self._main_id = self._next_client_id()
            try:
                async with session.client.events(client_id, previews=True) as socket:
                    socket.wants_previews = session.previews.are_wanted
                    pause = self._intervals.reconnect_first
                    await self._hear_main(client_id, socket)
            except BackendError as error:
                session.health.socket_lost(error.detail)
            finally:
                self.client_id = self._main_id = None
                if pause == self._intervals.reconnect_first:
                    self.lost_at = time.monotonic()
            for old in {driver.client_id for driver in session.drivers.values()}:
                self.follow(old)
            for driver in session.drivers.values():
                driver.look_up_now()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 jitter
            pause = min(pause * 2, self._intervals.reconnect_most)

    async def _hear_main(self, client_id: str, socket: Any) -> None:
        """Read the main socket until it is lost, or until it is to be replaced."""
        self._reconnect.clear()
        closer = self._session.tasks.create_task(self._close_when_dropped(socket))
        try:
            async for event in socket:
                self._heard_at = self.last_frame_at = time.monotonic()
                if isinstance(event, Status):
                    self._status_at = self._heard_at
                    if self.client_id is None:
                        self.client_id = client_id
                        self._session.health.mark_available()
                self._session.on_event(event)
        finally:
            closer.cancel()

    async def _close_when_dropped(self, socket: Any) -> None:
        await self._reconnect.wait()
        self.client_id = None
        await socket.close()

    async def check_silent(self, sent_at: float) -> None:
        """Replace the main socket if no status frame came since a prompt was accepted."""
        await asyncio.sleep(self._intervals.deaf_after)
        moment = time.monotonic()
        if (
            self.client_id is not None
            and self._status_at < sent_at
            and moment - self._replaced_at >= self._intervals.replace_every
        ):
            name = self._session.backend_id
            logger.warning("%s: the event socket is deaf; it is replaced.", name)
            self._replaced_at = moment
            self.replace()

    # --- the older ones ---------------------------------------------------------------------------

    def follow(self, client_id: str) -> None:
        """Hear what is still sent to an older socket's id, until none of its attempts is active."""
        if client_id != self._main_id and client_id not in self._follows:
            self._follows.add(client_id)
            name = f"{self._session.backend_id}: follow {client_id}"
            self._session.tasks.create_task(self._keep_follow(client_id), name=name)

    async def _keep_follow(self, client_id: str) -> None:
        session = self._session
        try:
            while self._is_followed(client_id):
                try:
                    async with session.client.events(client_id, previews=True) as socket:
                        socket.wants_previews = session.previews.are_wanted
                        await self._hear_follow(client_id, socket)
                except BackendError as error:
                    logger.debug("%s: follow socket: %s", session.backend_id, error)
                await asyncio.sleep(self._intervals.reconnect_most)
        finally:
            self._follows.discard(client_id)

    async def _hear_follow(self, client_id: str, socket: Any) -> None:
        closer = self._session.tasks.create_task(self._close_when_done(client_id, socket))
        try:
            async for event in socket:
                self.last_frame_at = time.monotonic()
                # Status frames come to every socket: the main one tells.
                if not isinstance(event, Status):
                    self._session.on_event(event)
        finally:
            closer.cancel()

    async def _close_when_done(self, client_id: str, socket: Any) -> None:
        while self._is_followed(client_id):  # noqa: ASYNC110 nothing waits for it: a slow look will do
            await asyncio.sleep(self._intervals.stop_retry)
        await socket.close()

    def _is_followed(self, client_id: str) -> bool:
        drivers = self._session.drivers.values()
        return any(driver.client_id == client_id for driver in drivers)
