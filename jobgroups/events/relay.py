"""The process's one channel on the channel layer: how the hub rings in other processes.

The layer may be away, at the start or in the middle: nothing here raises for that, nothing waits
longer than two seconds, and what it loses the rows make good (see ``jobgroups.events.hub``).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

#: Seconds that one call to the layer may take.
CALL_SECONDS: Final = 2.0
#: Messages that may wait for the layer; what comes on top is dropped.
OUTGOING_LIMIT: Final = 10_000
#: Seconds between two tries to receive while the layer is away.
_PAUSE_SECONDS: Final = 1.0

Form = Mapping[str, Any]


class LayerRelay:
    """Joins groups of the layer, sends to them and hands on what comes. All in one loop.

    Args:
        layer: a channel layer with groups; in practice the Redis pub/sub one.
        hand_on: called in the loop with each message that another process sent.
    """

    def __init__(self, layer: Any, on_message: Callable[[Form], None]) -> None:
        self._layer = layer
        self._on_message = on_message
        #: Marks our own messages, which come back to us and were delivered here already.
        self._sender = uuid.uuid4().hex
        self._channel = ""
        self._channel_lock = asyncio.Lock()
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        self._outgoing: asyncio.Queue[tuple[str, Callable[[], Form]]]
        self._outgoing = asyncio.Queue(OUTGOING_LIMIT)
        self._away = False

    async def join(self, group: str) -> None:
        """Receive what is sent to the group from now on; if the layer is away, once it is back."""
        self._wanted.add(group)
        if group not in self._joined:
            await self._join(group)

    async def _join(self, group: str) -> None:
        if await self._attempt_call(self._add(group)) and group in self._wanted:
            self._joined.add(group)

    async def _add(self, group: str) -> None:
        await self._layer.group_add(group, await self._own_channel())

    async def leave(self, group: str) -> None:
        """Receive nothing of the group any more."""
        was_joined = group in self._joined
        self._wanted.discard(group)
        self._joined.discard(group)
        if self._channel:
            left = self._layer.group_discard(group, self._channel)
            await self._attempt_call(left, reaches_it=was_joined)

    async def rejoin(self) -> None:
        """Join what could not be joined before. Stops at the first that still cannot."""
        for group in self._wanted - self._joined:
            if group in self._wanted:
                await self._join(group)
            if self._away:
                return

    def send(self, group: str, form: Form) -> None:
        """Queue a message for the group's other processes; dropped if too many wait already."""
        self.send_lazy(group, lambda: form)

    def send_lazy(self, group: str, make: Callable[[], Form]) -> None:
        """Queue a message that is made when its turn comes, or when it is dropped instead."""
        try:
            self._outgoing.put_nowait((group, make))
        except asyncio.QueueFull:
            make()
            self._log_outage("too many messages wait for it")

    async def run_sending(self) -> None:
        """Send what is queued until cancelled."""
        while True:
            group, make = await self._outgoing.get()
            form = {**make(), "sender": self._sender}
            if not await self._attempt_call(self._layer.group_send(group, form)):
                self._drop_outgoing()

    def _drop_outgoing(self) -> None:
        # Whoever missed one reads the rows: the others would only come later still.
        while not self._outgoing.empty():
            _, make = self._outgoing.get_nowait()
            make()

    async def run_receiving(self) -> None:
        """Hand on what comes until cancelled."""
        while True:
            try:
                form = await self._layer.receive(await self._own_channel())
            except Exception as error:  # noqa: BLE001 whatever the layer raises, it is tried again
                self._log_outage(error)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._received(form)

    def _received(self, form: Form) -> None:
        if form.get("sender") == self._sender:
            return
        try:
            self._on_message(form)
        except Exception:
            logger.warning("A message of another process was not understood.", exc_info=True)

    async def aclose(self) -> None:
        """Give up the channel and the layer's connections."""
        await self._attempt_call(self._layer.flush(), reaches_it=False)

    async def _own_channel(self) -> str:
        async with self._channel_lock:
            if not self._channel:
                async with asyncio.timeout(CALL_SECONDS):
                    self._channel = await self._layer.new_channel()
        return self._channel

    async def _attempt_call(self, call: Awaitable[Any], *, reaches_it: bool = True) -> bool:
        """Return whether the call came to its end.

        Args:
            reaches_it: whether that proves that the layer is there; giving up what never stood, or
                closing connections, succeeds without it.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call
        except Exception as error:  # noqa: BLE001 whatever the layer raises, it costs lateness only
            self._log_outage(error)
            return False
        if self._away and reaches_it:
            self._away = False
            logger.warning("The channel layer is back.")
        return True

    def _log_outage(self, reason: object) -> None:
        # Once: a layer that is away would else fill the log with one line a message.
        if not self._away:
            self._away = True
            logger.warning("The channel layer is away; events come late: %r", reason)
