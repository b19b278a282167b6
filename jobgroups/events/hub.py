"""Publish/subscribe hub: delivers committed events to every socket that is subscribed to the group.

Each process joins a group once and copies its messages to a bounded queue per socket. A message
reaches the sockets of its own process directly, and other processes through the channel layer
(Redis), which can lose and reorder messages: a timer compares the ``seq`` of each subscribed group
every 2 s, and whether the group is still shared.

Previews are large and may be lost, so they are published only while a socket is subscribed to them.
For a socket in another process, that process announces its interest every 2 s; it expires after 6
s.

Frames of ComfyUI for clients of the ComfyUI listener may be lost as well, and are published in the
same way. For a later subscription the runner publishes the latest ones again.

A key that a submission brought goes to every runner, and is stored by none. A runner without it
requests it from the others.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import Error as DatabaseError

from jobgroups.database.threads import log_outage
from jobgroups.events import messages
from jobgroups.events.messages import Entry, ListenerFrame, Message, PreviewFrame, ProgressFrame
from jobgroups.events.relay import CALL_SECONDS, LayerRelay
from jobgroups.metrics import event_lag

logger = logging.getLogger(__name__)

#: Entries in a socket's queue above which the socket is closed as too slow.
QUEUE_LIMIT: Final = 5_000
POLL_SECONDS: Final = 2.0  #: Seconds between two reads of the state of the subscribed groups.
INSTALLATION: Final = ""  #: In the place of a group: the key of the installation.
_RUNNERS: Final = "director.runners"
_WAKE: Final = {"type": "hub.wake"}
_WAKE_WORK_ONLY: Final = {**_WAKE, "work_alone": True}
_PROMPTS: Final = "director.prompts"
_PROMPT: Final = "hub.prompt"
_INTEREST: Final = "hub.previews"
_FRAME_INTEREST: Final = "hub.frames"
_KEY: Final = "hub.key"
_KEY_WANTED: Final = "hub.key_wanted"
_KEY_POLL_SECONDS: Final = 0.05
#: Seconds after which another process's interest in previews expires.
_INTEREST_SECONDS: Final = 3 * POLL_SECONDS
#: Seconds for which a group has previews after the last client that wanted them has left.
_LATELY_SECONDS: Final = 60.0

#: Returns the stored ``seq`` of each group, and whether the group is shared.
ReadSeqs = Callable[[list[str]], Awaitable[dict[str, tuple[int, bool]]]]
RunnerCallback = Callable[..., None]  #: Called with ``work_only``: whether no backend has changed.
#: Called with a group, and the owner and the client id of its prompt.
PromptCallback = Callable[[str, str, str], None]


def _layer_group(group_id: str) -> str:
    return f"group.{group_id}"


class Subscription:
    """The queue of one client. The hub writes it and the client's task reads it, in one event loop.

    ``on_overflow`` is called once when the queue is full: all queued and later entries are dropped.
    ``only`` are the kinds of entries that are delivered; without it all are, and ``frames`` of
    ComfyUI only if they are wanted.
    """

    def __init__(
        self,
        group_id: str,
        on_overflow: Callable[[], None] | None = None,
        *,
        previews: bool = False,
        frames: bool = False,
        only: tuple[type[Entry], ...] = (),
    ) -> None:
        self.group_id = group_id
        self.previews = previews
        self.frames = frames
        self._only = only
        self.overflowed = False
        self._on_overflow = on_overflow
        self._entries: list[Entry | list[ProgressFrame | PreviewFrame]] = []
        self._ready = asyncio.Event()
        # The position of each child's unsent progress and preview: a newer frame replaces it there.
        self._pending: dict[tuple[type, str], list[ProgressFrame | PreviewFrame]] = {}

    def put(self, entry: Entry) -> None:
        """Queue an entry. Above the limit progress is dropped, and an event overflows the queue."""
        if self.overflowed or (self._only and not isinstance(entry, self._only)):
            return
        if isinstance(entry, ProgressFrame | PreviewFrame):
            self._put_latest(entry)
        elif len(self._entries) >= QUEUE_LIMIT:
            self._overflow()
        else:
            if isinstance(entry, messages.EventFrame) and entry.child_id:
                # Later frames must follow this event.
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
        """Wait for entries and return all of them in order; an empty list after an overflow."""
        await self._ready.wait()
        return self.take_now()

    def take_now(self) -> list[Entry]:
        """Return all entries that are queued, in order."""
        self._ready.clear()
        taken = [entry[0] if isinstance(entry, list) else entry for entry in self._entries]
        self._entries.clear()
        self._pending.clear()
        return taken


class _Channel:
    """The subscriptions of one group and the last ``seq`` that was delivered to them."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.last_seq = 0
        self.is_gone = False  #: Whether the sockets know that the group was deleted.
        #: Whether a socket may follow the group only because it is shared, until that ends.
        self.may_be_shared = False
        self.previews: dict[str, PreviewFrame] = {}  #: The last one of each running child.
        self._ended: set[str | None] = set()  #: Children whose last event was final.

    def broadcast(self, message: Message) -> None:
        for frame in message.progress:
            self._put_in_all(frame)
        for preview in message.previews:
            self._put_preview(preview)
        for frame_of_comfyui in message.frames:
            self._put_frame(frame_of_comfyui)
        for event in message.events:
            self._track(event)
            self._put_in_all(event)
        for star in message.stars:
            self._put_in_all(star)
        for child_id in message.replaced:
            self._put_in_all(messages.ReplacedFrame(child_id))
        if message.changed:
            self.mark_changed()

    def _track(self, event: messages.EventFrame) -> None:
        # An event that arrives late does not describe the child's present state.
        if event.seq > self.last_seq:
            self.last_seq = event.seq
            self.previews.pop(event.child_id or "", None)
            (self._ended.add if event.is_final else self._ended.discard)(event.child_id)

    def mark_changed(self) -> None:
        """Notify the sockets that the group was renamed, archived or deleted."""
        self._put_in_all(messages.ChangedFrame())

    def check(self, seq: int | None, *, is_shared: bool) -> None:
        """Notify the sockets of what was stored and not delivered: events, the end of the sharing;
        ``seq`` None: the deletion of the group.
        """
        if seq is None:
            if not self.is_gone:
                self.is_gone = True
                self.mark_changed()
            return
        if self.may_be_shared and not is_shared:
            self.may_be_shared = False
            self._put_in_all(messages.UnsharedFrame())
        if seq > self.last_seq:
            self.last_seq = seq
            self._put_in_all(messages.SeqHint(seq))

    def _put_in_all(self, entry: Entry) -> None:
        for subscription in self.subscriptions:
            subscription.put(entry)

    def _put_preview(self, preview: PreviewFrame) -> None:
        # The last one of a child may come after its end, and nothing would remove it.
        if preview.child_id in self._ended:
            return
        self.previews[preview.child_id] = preview
        for subscription in self.subscriptions:
            if subscription.previews:
                subscription.put(preview)

    def _put_frame(self, frame: ListenerFrame) -> None:
        for subscription in self.subscriptions:
            if subscription.frames:
                subscription.put(frame)

    @property
    def wants_previews(self) -> bool:
        return any(subscription.previews for subscription in self.subscriptions)

    @property
    def wants_frames(self) -> bool:
        return any(subscription.frames for subscription in self.subscriptions)


class Hub:
    """The hub of a process. ``publish`` and ``notify_runners`` are thread-safe; the rest belongs to
    the loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_seqs: ReadSeqs | None = None
        self._channels: dict[str, _Channel] = defaultdict(_Channel)
        self._runner_callbacks: set[RunnerCallback] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._relay: LayerRelay | None = None
        #: The keys for partner nodes that the runner of this process has, by group; see
        #: ``INSTALLATION``.
        self.keys: dict[str, str] = {}
        #: By group: progress and previews that wait for the layer and are replaced by newer ones.
        self._latest: dict[str, messages.LatestFrames] = {}
        #: Groups whose previews another process wants, with the monotonic time at which that
        #: expires.
        self._interest: dict[str, float] = {}
        #: Groups whose previews a client of any process wanted, with the monotonic time until which
        #: that is lately.
        self._lately: dict[str, float] = {}
        #: As ``_interest``, of frames of ComfyUI.
        self._frame_interest: dict[str, float] = {}
        self._frame_callbacks: set[Callable[[str], None]] = set()
        self._prompt_callbacks: set[PromptCallback] = set()

    def bind(self, loop: asyncio.AbstractEventLoop, *, read_seqs: ReadSeqs) -> None:
        """Attach the hub to the running event loop, that of the sockets and the runner. Another
        loop resets the hub.

        ``read_seqs`` returns what is stored of each group id, without those that do not exist.
        """
        if self._loop is loop:
            return
        self.__init__()  # type: ignore[misc]  # objects of the old loop cannot be awaited in this one
        self._loop, self._read_seqs = loop, read_seqs
        services = [self._poll_missed_events()]
        layer = get_channel_layer()
        if layer is not None:
            self._relay = relay = LayerRelay(layer, self._on_message)
            services += [relay.run_sending(), relay.run_receiving()]
        # The tasks live as long as the loop, so no TaskGroup can own them. The loop keeps no
        # reference.
        self._tasks = {loop.create_task(service, name="hub") for service in services}

    async def aclose(self) -> None:
        tasks, self._tasks = self._tasks, set()
        relay, self._relay = self._relay, None
        self._loop = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if relay is not None:
            await relay.aclose()

    def publish(self, message: Message) -> None:
        """Publish committed events or progress. Thread-safe; does not block."""
        if not self._in_loop(self._deliver, message):
            self._publish_unbound(_layer_group(message.group_id), msgspec.to_builtins(message))

    def notify_runners(self, *, work_only: bool = False) -> None:
        """Notify every runner that there may be work; ``work_only``: no backend has changed."""
        form = _WAKE_WORK_ONLY if work_only else _WAKE
        if not self._in_loop(self._to_runners, form):
            self._publish_unbound(_RUNNERS, form)

    def notify_prompt(self, group_id: str, owner: str, client_id: str) -> None:
        """Notify the sockets of the ComfyUI listener of a new prompt. Thread-safe; does not block."""
        form = {"type": _PROMPT, "group": group_id, "owner": owner, "client": client_id}
        self._in_loop(self._to_all, _PROMPTS, form)

    def send_key(self, group_id: str, key: str) -> None:
        """Give every runner the key that a group's submitter has sent. Thread-safe; does not block."""
        self._in_loop(self._to_runners, {"type": _KEY, "group": group_id, "key": key})

    async def key_of(self, group_id: str, *, within: float) -> str | None:
        """Return the key of a group; request it from other runners and wait ``within`` seconds.
        None: it is lost.
        """
        until = time.monotonic() + within
        if self.keys.get(group_id) is None and self._relay is not None:
            self._relay.send(_RUNNERS, {"type": _KEY_WANTED, "group": group_id})
        while (key := self.keys.get(group_id)) is None and time.monotonic() < until:  # noqa: ASYNC110 rare and short
            await asyncio.sleep(_KEY_POLL_SECONDS)
        return key

    def _to_runners(self, form: Mapping[str, Any]) -> None:
        """Give a message to the runner of this process and to those of others."""
        self._to_all(_RUNNERS, form)

    def _to_all(self, group: str, form: Mapping[str, Any]) -> None:
        self._on_message(form)
        if self._relay is not None:
            self._relay.send(group, form)

    def _in_loop(self, call: Callable[..., None], *args: Any) -> bool:
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            # The loop is closed. The transaction is committed, so the caller must not see an error.
            return False
        return True

    def _publish_unbound(self, group: str, form: dict[str, Any]) -> None:
        # A process without a hub (a shell, a command). The rows are committed: a lost message only
        # delays the events.
        layer = get_channel_layer()
        if layer is None or _is_in_a_loop():
            # Within a loop the process is shutting down, and its loop must not be blocked.
            return
        try:
            async_to_sync(asyncio.wait_for)(layer.group_send(group, form), CALL_SECONDS)
        except Exception:
            logger.warning("channel layer: message not sent", exc_info=True)

    def _deliver(self, message: Message) -> None:
        self._broadcast(message)
        if self._relay is None or (
            message.previews and not self._is_wanted_elsewhere(message.group_id)
        ):
            return
        if message.frames:
            # All, and in order: their source limits their number.
            if _is_valid(self._frame_interest, message.group_id):
                self._relay.send(_layer_group(message.group_id), msgspec.to_builtins(message))
        elif message.events or message.stars or message.replaced or message.changed:
            # Later progress must follow this message.
            self._latest.pop(message.group_id, None)
            self._relay.send(_layer_group(message.group_id), msgspec.to_builtins(message))
        else:
            self._send_latest(message, self._relay)

    def _send_latest(self, message: Message, relay: LayerRelay) -> None:
        """Queue progress and previews; when they are sent, only the newest frame of each child is
        left.

        With a slow layer the queue would otherwise grow, and delay the events behind it.
        """
        latest = self._latest.get(message.group_id)
        if latest is not None:
            latest.add(message)
            return
        latest = self._latest[message.group_id] = messages.LatestFrames(message.group_id)
        latest.add(message)
        make = partial(self._serialize_latest, message.group_id, latest)
        relay.send_lazy(_layer_group(message.group_id), make)

    def _serialize_latest(self, group_id: str, latest: messages.LatestFrames) -> dict[str, Any]:
        if self._latest.get(group_id) is latest:
            del self._latest[group_id]
        form: dict[str, Any] = msgspec.to_builtins(latest.message())
        return form

    def _broadcast(self, message: Message, origin: str = "same") -> None:
        if message.group_id in self._channels:
            self._channels[message.group_id].broadcast(message)
            if message.stored_at:
                event_lag.labels(origin).observe(max(0.0, time.time() - message.stored_at))

    def _on_message(self, form: Mapping[str, Any]) -> None:
        if form["type"] == _WAKE["type"]:
            self._wake_runners(work_only=form.get("work_alone", False))
        elif form["type"] == _INTEREST:
            self._note_interest(form["group"])
        elif form["type"] == _FRAME_INTEREST:
            self._note_frame_interest(form["group"], is_new=form["new"])
        elif form["type"] == _PROMPT:
            self._announce_prompt(form["group"], form["owner"], form["client"])
        elif form["type"] == _KEY:
            if self._runner_callbacks:
                self.keys[form["group"]] = form["key"]
        elif form["type"] == _KEY_WANTED:
            if self._relay is not None and (key := self.keys.get(form["group"])) is not None:
                self._relay.send(_RUNNERS, {"type": _KEY, "group": form["group"], "key": key})
        else:
            self._broadcast(msgspec.convert(form, Message), "other")

    def _wake_runners(self, *, work_only: bool) -> None:
        for callback in tuple(self._runner_callbacks):
            callback(work_only=work_only)

    def _announce_prompt(self, group_id: str, owner: str, client_id: str) -> None:
        for callback in tuple(self._prompt_callbacks):
            callback(group_id, owner, client_id)

    async def subscribe(
        self,
        group_id: str,
        on_overflow: Callable[[], None] | None = None,
        *,
        previews: bool = False,
        frames: bool = False,
        only: tuple[type[Entry], ...] = (),
        sees_all: bool = True,
    ) -> Subscription:
        """Return a queue of everything that is published for the group from now on, and the last
        preview of each child.

        Subscribe before reading the snapshot, so that no event between the two is lost. A client
        that does not see all groups (``sees_all``) gets an ``UnsharedFrame`` within 2 s if the
        group is not shared, or not any more, also if that notification is lost.
        """
        subscription = Subscription(
            group_id, on_overflow, previews=previews, frames=frames, only=only
        )
        channel = self._channels[group_id]
        channel.subscriptions.add(subscription)
        channel.may_be_shared |= not sees_all
        for preview in channel.previews.values() if previews else ():
            subscription.put(preview)
        if self._relay is not None:
            try:
                await self._relay.join(_layer_group(group_id))
            except asyncio.CancelledError:
                await self.unsubscribe(subscription)
                raise
            if previews:
                self._announce_preview_interest(group_id)
        if frames:
            self._announce_frame_interest(group_id, is_new=True)
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription, and leave its group after the last one. Idempotent."""
        watched = self._channels.get(subscription.group_id)
        if watched is None:
            return
        watched.subscriptions.discard(subscription)
        if subscription.previews:
            self._lately = _note(self._lately, subscription.group_id, _LATELY_SECONDS)
        if not watched.subscriptions:
            del self._channels[subscription.group_id]
            if self._relay is not None:
                await self._relay.leave(_layer_group(subscription.group_id))

    async def add_runner_listener(self, callback: RunnerCallback) -> None:
        """Call ``callback`` in the loop whenever runners are notified."""
        self._runner_callbacks.add(callback)
        if self._relay is not None:
            await self._relay.join(_RUNNERS)

    def remove_runner_listener(self, callback: RunnerCallback) -> None:
        self._runner_callbacks.discard(callback)

    async def add_prompt_listener(self, callback: PromptCallback) -> None:
        """Call ``callback`` in the loop for each new prompt of the ComfyUI listener."""
        self._prompt_callbacks.add(callback)
        if self._relay is not None:
            await self._relay.join(_PROMPTS)

    def add_frame_source(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` in the loop with each group whose frames are wanted by one more
        subscription: it publishes the latest ones again.
        """
        self._frame_callbacks.add(callback)

    def remove_frame_source(self, callback: Callable[[str], None]) -> None:
        self._frame_callbacks.discard(callback)

    def wants_frames(self, group_id: str) -> bool:
        """Return whether a subscription of any process wants the group's frames of ComfyUI."""
        channel = self._channels.get(group_id)
        here = channel is not None and channel.wants_frames
        return here or _is_valid(self._frame_interest, group_id)

    def wants_previews(self, group_id: str) -> bool:
        """Return whether a socket of any process is subscribed to the group's previews."""
        watched = self._channels.get(group_id)
        here = watched is not None and watched.wants_previews
        return here or self._is_wanted_elsewhere(group_id)

    def wanted_previews_lately(self, group_id: str) -> bool:
        """Return whether a client is subscribed to the group's previews, or was in the last minute."""
        return time.monotonic() < self._lately.get(group_id, 0.0) or self.wants_previews(group_id)

    def _is_wanted_elsewhere(self, group_id: str) -> bool:
        return _is_valid(self._interest, group_id)

    def _note_interest(self, group_id: str) -> None:
        self._interest = _note(self._interest, group_id, _INTEREST_SECONDS)
        self._lately = _note(self._lately, group_id, _LATELY_SECONDS)

    def _announce_preview_interest(self, *group_ids: str) -> None:
        if self._relay is not None:
            for group_id in group_ids:
                self._relay.send(_RUNNERS, {"type": _INTEREST, "group": group_id})

    def _note_frame_interest(self, group_id: str, *, is_new: bool) -> None:
        self._frame_interest = _note(self._frame_interest, group_id, _INTEREST_SECONDS)
        if is_new:
            self._send_latest_frames(group_id)

    def _send_latest_frames(self, group_id: str) -> None:
        for publish in tuple(self._frame_callbacks):
            publish(group_id)

    def _announce_frame_interest(self, group_id: str, *, is_new: bool = False) -> None:
        if is_new:
            self._send_latest_frames(group_id)
        if self._relay is not None:
            self._relay.send(_RUNNERS, {"type": _FRAME_INTEREST, "group": group_id, "new": is_new})

    async def _poll_missed_events(self) -> None:
        """Every 2 s, notify the sockets of groups of which something was not delivered."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._relay is not None:
                await self._relay.rejoin()
                wanted = [
                    watched_id
                    for watched_id, group in self._channels.items()
                    if group.wants_previews
                ]
                self._announce_preview_interest(*wanted)
                for followed_id, group in self._channels.items():
                    if group.wants_frames:
                        self._announce_frame_interest(followed_id)
            if not self._channels or self._read_seqs is None:
                continue
            try:
                subscribed = set(self._channels)
                seqs = await self._read_seqs(list(subscribed))
            except DatabaseError as error:
                log_outage("subscribed groups", error)
            except Exception:
                logger.warning("subscribed groups: unexpected error", exc_info=True)
            else:
                for group_id in subscribed & self._channels.keys():
                    seq, is_shared = seqs.get(group_id, (None, False))
                    self._channels[group_id].check(seq, is_shared=is_shared)


def _is_valid(times: Mapping[str, float], group_id: str) -> bool:
    return time.monotonic() < times.get(group_id, 0.0)


def _note(times: Mapping[str, float], group_id: str, seconds: float) -> dict[str, float]:
    """Return the times that are not over, with one for a group in so many seconds."""
    moment = time.monotonic()
    return {other_id: until for other_id, until in times.items() if until > moment} | {
        group_id: moment + seconds
    }


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


hub = Hub()  #: The process's hub.
