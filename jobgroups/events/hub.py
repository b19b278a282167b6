"""The doorbell: what a transaction committed, carried to every socket that watches the group.

One subscription a process and group, fanned out to a bounded queue of ready text for each socket.
The process rings itself at once; where there is a channel layer (Redis, pub/sub) each message goes
to the other processes through it. Messages may be lost there, and those of two processes may
overtake each other: whoever sees a gap reads the rows, and a slow timer reads one row for each
watched group.

Previews are large, and nobody misses one: they are made only while somebody looks. A socket that
wants them says so when it subscribes; for one in another process that process says it to the
runners every two seconds, and they forget it after six.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Protocol

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import Error as DatabaseError

from jobgroups.events.messages import (
    Entry,
    EventFrame,
    LatestFrames,
    Message,
    PreviewFrame,
    ProgressFrame,
    ReplacedFrame,
    SeqHint,
    StarFrame,
    deserialize,
    serialize,
)
from jobgroups.events.relay import CALL_SECONDS, LayerRelay

__all__ = [
    "Entry",
    "EventFrame",
    "Hub",
    "Message",
    "PreviewFrame",
    "ProgressFrame",
    "ReadSeqs",
    "ReplacedFrame",
    "SeqHint",
    "StarFrame",
    "Subscription",
    "hub",
]

logger = logging.getLogger(__name__)

#: Entries a socket may lag behind before it is closed as too slow.
QUEUE_LIMIT: Final = 5_000
#: Seconds between two looks at the watched groups' rows.
POLL_SECONDS: Final = 2.0
_RUNNERS: Final = "director.runners"
_WAKE: Final = {"type": "hub.wake"}
_WAKE_WORK_ONLY: Final = {**_WAKE, "work_alone": True}
_INTEREST: Final = "hub.previews"
#: Seconds for which another process's wish for previews is remembered.
_INTEREST_SECONDS: Final = 3 * POLL_SECONDS

ReadSeqs = Callable[[list[str]], Awaitable[dict[str, int]]]


class RunnerCallback(Protocol):
    """What a runner is told by that there may be work."""

    def __call__(self, *, work_only: bool) -> None:
        """Look for work; for backends too, unless it is known that they are as they were."""


def _layer_group(group_id: str) -> str:
    return f"group.{group_id}"


class Subscription:
    """One socket's queue. Written by the hub, read by the socket's writer, both in one loop.

    Args:
        group_id: the group it is of.
        on_overflow: called once when the socket lags too far behind. What waited is dropped then,
            and so is all that comes later.
        previews: whether previews are wanted.
        stars_alone: whether stars and marks of replaced files are all that is wanted.
    """

    def __init__(
        self,
        group_id: str,
        on_overflow: Callable[[], None] | None = None,
        *,
        previews: bool = False,
        stars_alone: bool = False,
    ) -> None:
        self.group_id = group_id
        self.previews = previews
        self._stars_alone = stars_alone
        self.overflowed = False
        self._on_overflow = on_overflow
        self._entries: list[Entry | list[ProgressFrame | PreviewFrame]] = []
        self._ready = asyncio.Event()
        # A child's progress (and preview) that was not sent yet is replaced where it stands: latest
        # wins.
        self._pending: dict[tuple[type, str], list[ProgressFrame | PreviewFrame]] = {}

    def put(self, entry: Entry) -> None:
        """Queue an entry; past the limit progress is dropped, and an event overflows the queue."""
        if self.overflowed or (
            self._stars_alone and not isinstance(entry, StarFrame | ReplacedFrame)
        ):
            return
        if isinstance(entry, ProgressFrame | PreviewFrame):
            self._put_latest(entry)
        elif len(self._entries) >= QUEUE_LIMIT:
            self._overflow()
        else:
            if isinstance(entry, EventFrame) and entry.child_id:
                # What comes later belongs behind this event.
                for kind in (ProgressFrame, PreviewFrame):
                    self._pending.pop((kind, entry.child_id), None)
            self._entries.append(entry)
        self._ready.set()

    def _put_latest(self, entry: ProgressFrame | PreviewFrame) -> None:
        key = (type(entry), entry.child_id)
        place = self._pending.get(key)
        if place is not None:
            place[0] = entry
        elif len(self._entries) < QUEUE_LIMIT:
            place = self._pending[key] = [entry]
            self._entries.append(place)

    def _overflow(self) -> None:
        self.overflowed = True
        self._entries.clear()
        self._pending.clear()
        if self._on_overflow is not None:
            self._on_overflow()

    async def take(self) -> list[Entry]:
        """Wait for entries and return all of them, in order; none where it has overflowed."""
        await self._ready.wait()
        self._ready.clear()
        taken = [entry[0] if isinstance(entry, list) else entry for entry in self._entries]
        self._entries.clear()
        self._pending.clear()
        return taken


class _Channel:
    """What the hub knows of a group that at least one socket watches."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.last_seq = 0
        self.ended: set[str] = set()

    def broadcast(self, message: Message) -> None:
        for frame in message.progress:
            if frame.child_id not in self.ended:
                self._put(frame)
        for preview in message.previews:
            self._put_preview(preview)
        for event in message.events:
            self._track(event)
            self._put(event)
        for star in message.stars:
            self._put(star)
        for replaced in message.replaced:
            self._put(replaced)

    def _track(self, event: EventFrame) -> None:
        # One that was overtaken tells nothing of how the child stands now.
        if event.seq <= self.last_seq:
            return
        self._advance(event.seq - 1)
        self.last_seq = event.seq
        if event.child_id:
            (self.ended.add if event.is_final else self.ended.discard)(event.child_id)

    def check_seq(self, seq: int) -> None:
        """Pass on that the log has reached ``seq``, if that was not heard."""
        if self._advance(seq):
            self._put(SeqHint(seq))

    def _advance(self, seq: int) -> bool:
        if seq <= self.last_seq:
            return False
        # Events were missed, perhaps the start of a child that had ended in an earlier run: the
        # sockets, which read the rows now, decide about progress by themselves.
        self.ended.clear()
        self.last_seq = seq
        return True

    def _put(self, entry: Entry) -> None:
        for subscription in self.subscriptions:
            subscription.put(entry)

    def _put_preview(self, preview: PreviewFrame) -> None:
        if preview.child_id in self.ended:
            return
        for subscription in self.subscriptions:
            if subscription.previews:
                subscription.put(preview)

    @property
    def wants_previews(self) -> bool:
        """Whether a socket of this process wants the group's previews."""
        return any(subscription.previews for subscription in self.subscriptions)


class Hub:
    """The process's doorbell. ``publish`` may be called from any thread; the rest from its loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_seqs: ReadSeqs | None = None
        self._channels: dict[str, _Channel] = defaultdict(_Channel)
        self._runner_callbacks: set[RunnerCallback] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._relay: LayerRelay | None = None
        #: By group: what waits for the layer and may be replaced by newer.
        self._latest: dict[str, LatestFrames] = {}
        #: Group whose previews another process wants, to the loop's time when that is forgotten.
        self._interest: dict[str, float] = {}

    def bind(self, loop: asyncio.AbstractEventLoop, *, read_seqs: ReadSeqs) -> None:
        """Attach the hub to the process's loop; again with another loop starts it afresh.

        Args:
            loop: the loop that serves the sockets and runs the runner; the caller runs in it.
            read_seqs: returns the stored ``seq`` of each group id, for the slow timer.
        """
        if self._loop is loop:
            return
        self.__init__()  # type: ignore[misc]  # afresh: nothing of the old loop may be awaited here
        self._loop, self._read_seqs = loop, read_seqs
        layer = get_channel_layer()
        if layer is not None:
            self._relay = LayerRelay(layer, self._on_message)
            self._start("sending", self._relay.run_sending())
            self._start("receiving", self._relay.run_receiving())
        self._start("healing", self._poll_missed_events())

    def _start(self, name: str, service: Coroutine[Any, Any, None]) -> None:
        # The hub lives as long as its loop and belongs to no request, so no TaskGroup can own it;
        # the reference is kept, since the loop itself keeps none.
        assert self._loop is not None  # noqa: S101 called from bind alone
        self._tasks.add(self._loop.create_task(service, name=f"hub {name}"))

    async def aclose(self) -> None:
        """Stop the hub's services and close its layer's connections."""
        tasks, self._tasks = self._tasks, set()
        relay, self._relay = self._relay, None
        self._loop = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if relay is not None:
            await relay.aclose()

    # --- ringing ----------------------------------------------------------------------------------

    def publish(self, message: Message) -> None:
        """Ring for a committed transaction or for progress. From any thread; never blocks."""
        if not self._in_loop(self._deliver, message):
            self._publish_unbound(_layer_group(message.group_id), serialize(message))

    def notify_runners(self, *, work_only: bool = False) -> None:
        """Notify every runner that there may be work.

        Args:
            work_only: whether no backend has changed: a new group, a cancel, a retry.
        """
        form = _WAKE_WORK_ONLY if work_only else _WAKE
        if not self._in_loop(self._notify_all_runners, form):
            self._publish_unbound(_RUNNERS, form)

    def _in_loop(self, call: Callable[..., None], *args: Any) -> bool:
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            # Closed, perhaps only now: what was committed must not look as if it had failed.
            return False
        return True

    def _publish_unbound(self, group: str, form: dict[str, Any]) -> None:
        # A process without a loop of ours (a shell, a command): the rows are written already, so a
        # bell that fails costs lateness only.
        layer = get_channel_layer()
        if layer is None or _is_in_a_loop():
            # In a loop, it is a process that ends: its hub is closed, and the loop must not be held up.
            return
        try:
            async_to_sync(_send_once)(layer, group, form)
        except Exception:
            logger.warning("The channel layer did not take a message.", exc_info=True)

    def _deliver(self, message: Message) -> None:
        self._broadcast(message)
        if self._relay is None or (
            message.previews and not self._is_wanted_elsewhere(message.group_id)
        ):
            return
        if message.events or message.stars or message.replaced:
            # What comes later belongs behind this message.
            self._latest.pop(message.group_id, None)
            self._relay.send(_layer_group(message.group_id), serialize(message))
        else:
            self._send_latest(message, self._relay)

    def _send_latest(self, message: Message, relay: LayerRelay) -> None:
        """Send progress and previews when their turn comes, the newest of each child by then.

        A layer that is slower than they come would else be told each of them, ever later, and events
        behind them.
        """
        gathered = self._latest.get(message.group_id)
        if gathered is not None:
            gathered.add(message)
            return
        gathered = self._latest[message.group_id] = LatestFrames(message.group_id)
        gathered.add(message)
        made = partial(self._serialize_latest, message.group_id, gathered)
        relay.send_lazy(_layer_group(message.group_id), made)

    def _serialize_latest(self, group_id: str, gathered: LatestFrames) -> dict[str, Any]:
        if self._latest.get(group_id) is gathered:
            del self._latest[group_id]
        return serialize(gathered.message())

    def _broadcast(self, message: Message) -> None:
        if message.group_id in self._channels:
            self._channels[message.group_id].broadcast(message)

    def _notify_all_runners(self, form: dict[str, Any]) -> None:
        self._notify_local_runners(form)
        if self._relay is not None:
            self._relay.send(_RUNNERS, form)

    def _notify_local_runners(self, form: Mapping[str, Any]) -> None:
        for callback in tuple(self._runner_callbacks):
            callback(work_only=form.get("work_alone", False))

    def _on_message(self, form: Mapping[str, Any]) -> None:
        if form["type"] == _WAKE["type"]:
            self._notify_local_runners(form)
        elif form["type"] == _INTEREST:
            self._note_interest(form["group"])
        else:
            self._broadcast(deserialize(form))

    # --- listening --------------------------------------------------------------------------------

    async def subscribe(
        self,
        group_id: str,
        on_overflow: Callable[[], None] | None = None,
        *,
        previews: bool = False,
        stars_alone: bool = False,
    ) -> Subscription:
        """Return a queue that gets all that is published of the group from now on.

        Subscribe first, then read the snapshot: what comes in between is in the queue.
        """
        subscription = Subscription(
            group_id, on_overflow, previews=previews, stars_alone=stars_alone
        )
        self._channels[group_id].subscriptions.add(subscription)
        if self._relay is not None:
            try:
                await self._relay.join(_layer_group(group_id))
            except asyncio.CancelledError:
                await self.unsubscribe(subscription)
                raise
            if previews:
                self._announce_preview_interest(group_id)
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a queue; its group too, if nobody else watches it. Twice is no error."""
        watched = self._channels.get(subscription.group_id)
        if watched is None:
            return
        watched.subscriptions.discard(subscription)
        if not watched.subscriptions:
            del self._channels[subscription.group_id]
            if self._relay is not None:
                await self._relay.leave(_layer_group(subscription.group_id))

    async def add_runner_listener(self, callback: RunnerCallback) -> None:
        """Call ``callback`` (in the loop) whenever runners are told that there may be work."""
        self._runner_callbacks.add(callback)
        if self._relay is not None:
            await self._relay.join(_RUNNERS)

    def remove_runner_listener(self, callback: RunnerCallback) -> None:
        """Forget a callback."""
        self._runner_callbacks.discard(callback)

    # --- previews ---------------------------------------------------------------------------------

    def wants_previews(self, group_id: str) -> bool:
        """Whether anybody looks at the group's previews, here or in another process."""
        watched = self._channels.get(group_id)
        here = watched is not None and watched.wants_previews
        return here or self._is_wanted_elsewhere(group_id)

    def _is_wanted_elsewhere(self, group_id: str) -> bool:
        until = self._interest.get(group_id)
        return until is not None and self._loop is not None and self._loop.time() < until

    def _note_interest(self, group_id: str) -> None:
        if self._loop is None:
            return
        moment = self._loop.time()
        self._interest = {one: until for one, until in self._interest.items() if until > moment}
        self._interest[group_id] = moment + _INTEREST_SECONDS

    def _announce_preview_interest(self, *group_ids: str) -> None:
        if self._relay is not None:
            for group_id in group_ids:
                self._relay.send(_RUNNERS, {"type": _INTEREST, "group": group_id})

    # --- healing ----------------------------------------------------------------------------------

    async def _poll_missed_events(self) -> None:
        """Every two seconds, poke the sockets of groups whose log is longer than was heard."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._relay is not None:
                await self._relay.rejoin()
                wanted = [one for one, group in self._channels.items() if group.wants_previews]
                self._announce_preview_interest(*wanted)
            if not self._channels or self._read_seqs is None:
                continue
            try:
                seqs = await self._read_seqs(list(self._channels))
            except DatabaseError as error:
                # A server that is restarted is worth a line, not a traceback every two seconds.
                reason = str(error).strip().partition("\n")[0]
                logger.warning("The watched groups could not be read: %s", reason)
            except Exception:
                logger.warning("The watched groups could not be read.", exc_info=True)
            else:
                self._check_seqs(seqs)

    def _check_seqs(self, seqs: Mapping[str, int]) -> None:
        for group_id, seq in seqs.items():
            if group_id in self._channels:
                self._channels[group_id].check_seq(seq)


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _send_once(layer: Any, group: str, form: dict[str, Any]) -> None:
    async with asyncio.timeout(CALL_SECONDS):
        await layer.group_send(group, form)


#: The process's hub.
hub = Hub()
