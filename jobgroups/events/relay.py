"""The process's channel on the channel layer: sends the hub's messages to other processes.

The layer may be unavailable at any time. Then no method raises or waits longer than 2 s, and
messages are dropped; sockets read missed events from the database (see ``jobgroups.events.hub``).
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

CALL_SECONDS: Final = 2.0  #: Timeout of a call to the layer, in seconds.
OUTGOING_LIMIT: Final = 10_000  #: Queued messages above which further ones are dropped.
#: Seconds between two attempts to receive while the layer is unavailable.
_PAUSE_SECONDS: Final = 1.0

Form = Mapping[str, Any]


class LayerRelay:
    """Joins groups of the layer, sends messages to them and receives messages. All in one event
    loop.

    ``layer`` is a channel layer with groups; in practice the Redis pub/sub one. ``on_message`` is
    called in the loop with each message of another process.
    """

    def __init__(self, layer: Any, on_message: Callable[[Form], None]) -> None:
        self._layer = layer
        self._on_message = on_message
        #: Marks this process's messages: the layer returns them to their sender too.
        self._sender = uuid.uuid4().hex
        self._channel = ""
        self._channel_lock = asyncio.Lock()
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        self._outgoing: asyncio.Queue[tuple[str, Callable[[], Form]]]
        self._outgoing = asyncio.Queue(OUTGOING_LIMIT)
        self._is_unavailable = False

    async def join(self, group: str) -> None:
        """Receive the messages of a group; if the layer is unavailable, as soon as it is back."""
        self._wanted.add(group)
        if (
            group not in self._joined
            and await self._attempt_call(self._add(group))
            and group in self._wanted
        ):
            self._joined.add(group)

    async def _add(self, group: str) -> None:
        await self._layer.group_add(group, await self._own_channel())

    async def leave(self, group: str) -> None:
        was_joined = group in self._joined
        self._wanted.discard(group)
        self._joined.discard(group)
        if self._channel:
            left = self._layer.group_discard(group, self._channel)
            await self._attempt_call(left, reaches_it=was_joined)

    async def rejoin(self) -> None:
        """Join the groups that could not be joined before, until the first failure."""
        for group in self._wanted - self._joined:
            if group in self._wanted:
                await self.join(group)
            if self._is_unavailable:
                return

    def send(self, group: str, form: Form) -> None:
        """Queue a message for the group's other processes; drop it if the queue is full."""
        self.send_lazy(group, lambda: form)

    def send_lazy(self, group: str, make: Callable[[], Form]) -> None:
        """Queue a message; ``make`` is called when it is sent or dropped."""
        try:
            self._outgoing.put_nowait((group, make))
        except asyncio.QueueFull:
            make()
            self._log_outage("its queue is full")

    async def run_sending(self) -> None:
        while True:
            group, make = await self._outgoing.get()
            form = {**make(), "sender": self._sender}
            if not await self._attempt_call(self._layer.group_send(group, form)):
                self._drop_outgoing()

    def _drop_outgoing(self) -> None:
        # Processes read missed events from the database, so late messages are worthless.
        while not self._outgoing.empty():
            _, make = self._outgoing.get_nowait()
            make()

    async def run_receiving(self) -> None:
        while True:
            try:
                form = await self._layer.receive(await self._own_channel())
            except Exception as error:  # noqa: BLE001 retry after any error of the layer
                self._log_outage(error)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._receive(form)

    def _receive(self, form: Form) -> None:
        if form.get("sender") == self._sender:
            return
        try:
            self._on_message(form)
        except Exception:
            logger.warning("channel layer: invalid message of another process", exc_info=True)

    async def aclose(self) -> None:
        await self._attempt_call(self._layer.flush(), reaches_it=False)

    async def _own_channel(self) -> str:
        async with self._channel_lock:
            if not self._channel:
                async with asyncio.timeout(CALL_SECONDS):
                    self._channel = await self._layer.new_channel()
        return self._channel

    async def _attempt_call(self, call: Awaitable[Any], *, reaches_it: bool = True) -> bool:
        """Await a call to the layer and return whether it succeeded.

        ``reaches_it``: success proves that the layer is available. Leaving a group that was not
        joined and closing connections succeed without it.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call
        except Exception as error:  # noqa: BLE001 any error of the layer only delays events
            self._log_outage(error)
            return False
        if self._is_unavailable and reaches_it:
            self._is_unavailable = False
            logger.warning("channel layer: available again")
        return True

    def _log_outage(self, reason: object) -> None:
        # One line per outage, not one per message.
        if not self._is_unavailable:
            self._is_unavailable = True
            logger.warning("channel layer: unavailable, events are delayed (%r)", reason)
