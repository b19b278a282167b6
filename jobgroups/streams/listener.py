"""The sockets of the ComfyUI listener in this process: each client's prompts are followed while a
socket of it is open, and its presentation decides what the sockets get.

A prompt is followed by its group's channel of the hub. New prompts are announced by the hub; once a
second a query finds those whose announcement was lost.
"""

import asyncio
import json
import logging
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.db import Error as DatabaseError

from jobgroups.database.pools import act
from jobgroups.database.threads import log_outage
from jobgroups.events.hub import Subscription, hub
from jobgroups.events.messages import ChangedFrame, Entry, EventFrame, ListenerFrame, SeqHint
from jobgroups.queries.listener_streams import (
    PromptState,
    open_counts,
    prompt_state,
    prompts_to_present,
)
from jobgroups.runner.intervals import wait_set
from jobgroups.services.listener_prompts import prompts_note_presented
from jobgroups.streams.presentation import STATUS, Frame, Presentation, deleted_end
from jobgroups.streams.reads import read

logger = logging.getLogger(__name__)

#: A client that opens more has lost the older ones.
MAX_SOCKETS_OF_CLIENT: Final = 16
MAX_SOCKETS_OF_OWNER: Final = 256
#: Unsent frames of a socket above which it is closed: their number, and their bytes.
MAX_UNSENT: Final = 2_000
MAX_UNSENT_BYTES: Final = 16 * 2**20
#: Prompts of one client that are followed; the next ones follow when these have ended.
MAX_FOLLOWED: Final = 200
_POLL_SECONDS: Final = 1.0
#: A client that waits gets a status at least so often: comfy-cli gives up after 30 s of silence.
STATUS_SECONDS: Final = 10.0
#: At most so many status frames in a second: on each, ComfyUI's page loads its lists again.
_MAX_STATUS: Final = 2
_FOLLOWED: Final = (ListenerFrame, EventFrame, SeqHint, ChangedFrame)

Key = tuple[str, str]  #: Of a client: its owner and its id.


class TooManySockets(Exception):
    """An owner has the most sockets that it may have in a process."""


class Outbox:
    """The frames that one socket is to send. ``on_overflow`` is called once if it is too slow."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        self._on_overflow = on_overflow
        self._frames: dict[int, Frame] = {}
        self._number = 0
        #: The numbers of frames that a later one replaces.
        self._places: dict[tuple[str, str], int] = {}
        self._bytes = 0
        self._ready = asyncio.Event()
        self.is_closed = False

    def close(self) -> None:
        """Take nothing more, and have the socket closed."""
        if not self.is_closed:
            self.is_closed = True
            self._frames.clear()
            self._on_overflow()

    def put(self, frame: Frame) -> None:
        if self.is_closed:
            return
        if frame.key is None:
            # Later progress must follow it.
            self._places.clear()
        elif (place := self._places.get(frame.key)) is not None:
            self._bytes -= self._frames.pop(place).size
        self._number += 1
        if frame.key is not None:
            self._places[frame.key] = self._number
        self._frames[self._number] = frame
        self._bytes += frame.size
        if len(self._frames) > MAX_UNSENT or self._bytes > MAX_UNSENT_BYTES:
            self.close()
        self._ready.set()

    async def take(self) -> list[Frame]:
        """Wait for frames, and return all of them."""
        await self._ready.wait()
        self._ready.clear()
        taken = list(self._frames.values())
        self._frames.clear()
        self._places.clear()
        self._bytes = 0
        return taken


@dataclass(slots=True, eq=False)
class _Client:
    key: Key
    outboxes: list[Outbox] = field(default_factory=list)
    presentation: Presentation = field(default_factory=Presentation)
    #: By group, the task that follows its prompt.
    followed: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    #: The prompts and groups whose end was taken in, until it is stored that a socket got it.
    ended: dict[int, str] = field(default_factory=dict)
    #: Prompts are taken in one by one, in the order in which they were found.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: When the last status frames were sent, by ``time.monotonic``.
    status_at: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_STATUS))
    status_timer: asyncio.TimerHandle | None = None


class Listener:
    """All sockets of the ComfyUI listener in this process. Used from one event loop."""

    def __init__(self) -> None:
        self._clients: dict[Key, _Client] = {}
        self._remaining: dict[str, int] = {}  #: By owner, as last read.
        self._presented: set[int] = set()  #: Prompts whose end was sent, to be stored.
        self._due = asyncio.Event()
        self._poll_at = 0.0  #: By ``time.monotonic``.
        self._task: asyncio.Task[None] | None = None

    async def open(self, key: Key, outbox: Outbox) -> None:
        """Put the first frames of a new socket into its outbox, and all later ones.

        Raises ``TooManySockets``.
        """
        loop, owner = asyncio.get_running_loop(), key[0]
        if self._task is not None and self._task.get_loop() is not loop:
            self.__init__()  # type: ignore[misc]  # as that of the hub
        if owner not in self._remaining:
            counts = await read(open_counts, [owner])
            self._remaining |= counts
        clients = [client for client in self._clients.values() if client.key[0] == owner]
        if sum(len(client.outboxes) for client in clients) >= MAX_SOCKETS_OF_OWNER:
            raise TooManySockets
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client(key)
            self._poll_at = 0.0
            self._due.set()
        elif len(client.outboxes) >= MAX_SOCKETS_OF_CLIENT:
            client.outboxes.pop(0).close()
        client.outboxes.append(outbox)
        outbox.put(self._status(owner, sid=key[1]))
        client.status_at.append(time.monotonic())
        for frame in client.presentation.catch_up():
            outbox.put(frame)
        if self._task is None:
            self._task = loop.create_task(self._run(), name="listener")

    def close(self, key: Key, outbox: Outbox) -> None:
        """Forget a socket, and after the last one its client. Idempotent."""
        outbox.is_closed = True
        client = self._clients.get(key)
        if client is None:
            return
        if outbox in client.outboxes:
            client.outboxes.remove(outbox)
        if not client.outboxes:
            del self._clients[key]
            if client.status_timer is not None:
                client.status_timer.cancel()
            for task in client.followed.values():
                task.cancel()
            self._due.set()

    def started(self, owner: str) -> set[int]:
        """Return the prompts of an owner whose start sockets of this process know, by the keys of
        their rows, which may not have it yet. Callable from every thread.
        """
        clients = [client for client in list(self._clients.values()) if client.key[0] == owner]
        return {prompt for client in clients for prompt in client.presentation.started}

    def note_sent(self, prompt: int) -> None:
        """Note that a socket has sent the last frame of a prompt.

        It is stored with the next poll, or once the last socket is closed: a program sends its next
        prompt at this moment, whose write would wait.
        """
        self._presented.add(prompt)

    async def _run(self) -> None:
        """Follow new prompts, store what was presented, and send what is due, while a socket is
        open.
        """
        try:
            await hub.add_prompt_listener(self._on_prompt)
            while self._clients or self._presented:
                self._due.clear()
                if is_due := time.monotonic() >= self._poll_at:
                    self._poll_at = time.monotonic() + _POLL_SECONDS
                try:
                    if is_due or not self._clients:
                        await self._store_presented()
                    if is_due:
                        await self._poll()
                except DatabaseError as error:
                    log_outage("ComfyUI listener", error)
                except Exception:
                    logger.warning("ComfyUI listener: unexpected error", exc_info=True)
                self._send_due_status()
                await wait_set(self._due, within=max(0.0, self._poll_at - time.monotonic()))
        finally:
            # The callback stays: a leave and a new join of the group could overtake each other.
            self._task = None

    async def _store_presented(self) -> None:
        if not (presented := set(self._presented)):
            return
        await act(prompts_note_presented, prompt_ids=presented)
        self._presented -= presented
        for client in self._clients.values():
            for prompt in presented & client.ended.keys():
                del client.ended[prompt]

    async def _poll(self) -> None:
        if not self._clients:
            return
        # One with very many prompts leaves the others out only once.
        has_room = [
            key for key, client in self._clients.items() if len(client.followed) < MAX_FOLLOWED
        ]
        if has_room:
            for prompt in await read(prompts_to_present, has_room, MAX_FOLLOWED * len(has_room)):
                self._on_prompt(prompt.group_id, prompt.owner, prompt.client_id)
        counts = await read(open_counts, list({owner for owner, _ in self._clients}))
        before, self._remaining = self._remaining, counts
        for client in self._clients.values():
            owner = client.key[0]
            if before.get(owner) != counts.get(owner, 0):
                self._send_status(client)

    def _send_due_status(self) -> None:
        for client in self._clients.values():
            is_silent = time.monotonic() - client.status_at[-1] >= STATUS_SECONDS
            if is_silent and self._remaining.get(client.key[0]):
                self._send_status(client)

    def _on_prompt(self, group_id: str, owner: str, client_id: str) -> None:
        client = self._clients.get((owner, client_id))
        if (
            client is None
            or group_id in client.followed
            or group_id in client.ended.values()
            or len(client.followed) >= MAX_FOLLOWED
        ):
            return
        follow = self._follow(client, group_id)
        task = asyncio.get_running_loop().create_task(follow, name=f"listener: {group_id}")
        client.followed[group_id] = task

    async def _follow(self, client: _Client, group_id: str) -> None:
        """Present a prompt until its end is taken in."""
        subscription: Subscription | None = None
        try:
            # At once: a prompt may take only some milliseconds.
            subscription = await hub.subscribe(group_id, frames=True, only=_FOLLOWED)
            async with client.turn:
                state = await self._read_state(client, subscription, None)
            while state is not None and state.end is None and not subscription.overflowed:
                if self._take(client, state, await subscription.take()):
                    state = await self._read_state(client, subscription, state)
        except Exception:
            # The next poll follows it again.
            logger.warning("ComfyUI listener: %s: unexpected error", group_id, exc_info=True)
        finally:
            client.followed.pop(group_id, None)
            if subscription is not None:
                await hub.unsubscribe(subscription)

    def _take(self, client: _Client, state: PromptState, entries: list[Entry]) -> bool:
        """Take in what came of a prompt; return whether its state is to be read: an event was
        stored, or one may be missed.
        """
        for entry in entries:
            if isinstance(entry, ListenerFrame):
                try:
                    frames = client.presentation.frame(
                        state.id, entry, at_ms=int(time.time() * 1000)
                    )
                except (ValueError, LookupError, TypeError, struct.error):
                    logger.debug("ComfyUI listener: skipped a frame", exc_info=True)
                else:
                    self._send(client, frames)
        return any(not isinstance(entry, ListenerFrame) for entry in entries)

    async def _read_state(
        self, client: _Client, subscription: Subscription, known: PromptState | None
    ) -> PromptState | None:
        """Read the state of a prompt and take it in; None: there is no such prompt any more."""
        group_id = subscription.group_id
        state = await read(prompt_state, group_id)
        if state is None and known is not None:
            # It had ended, and was deleted since.
            state = replace(known, end=deleted_end(int(time.time() * 1000)))
        if state is None:
            return None
        presentation, owner = client.presentation, client.key[0]
        is_new_count = self._remaining.get(owner) != state.remaining
        self._remaining[owner] = state.remaining
        presentation.follow(state.id, prompt_id=state.prompt_id, job_id=state.job_id)
        frames: list[Frame] = []
        if state.end is not None:
            # What came during the read was sent before the end.
            self._take(client, state, subscription.take_now())
            client.ended[state.id] = group_id
            frames = presentation.end(state.id, state.end)
            if state.id not in presentation:
                # Also if nothing of it is sent.
                self.note_sent(state.id)
        elif state.started_ms is not None:
            frames = presentation.start(
                state.id, attempt=state.attempt, started_ms=state.started_ms
            )
        self._send(client, frames)
        if is_new_count:
            self._send_status_of(owner, but=client if Frame(kind=STATUS) in frames else None)
        return state

    def _send_status_of(self, owner: str, *, but: _Client | None) -> None:
        for client in self._clients.values():
            if client.key[0] == owner and client is not but:
                self._send_status(client)

    def _send(self, client: _Client, frames: Iterable[Frame]) -> None:
        for frame in frames:
            if frame.kind == STATUS and not frame.text:
                self._send_status(client)
                continue
            for outbox in tuple(client.outboxes):
                outbox.put(frame)

    def _send_status(self, client: _Client) -> None:
        """Send the length of the queue, now or as soon as it may be sent."""
        if client.status_timer is not None:
            return
        moment, sent = time.monotonic(), client.status_at
        wait = sent[0] + 1.0 - moment if len(sent) == _MAX_STATUS else 0.0
        if wait <= 0:
            self._send_status_now(client)
        else:
            loop = asyncio.get_running_loop()
            client.status_timer = loop.call_later(wait, self._send_status_now, client)

    def _send_status_now(self, client: _Client) -> None:
        client.status_timer = None
        client.status_at.append(time.monotonic())
        self._send(client, [self._status(client.key[0])])

    def _status(self, owner: str, **more: Any) -> Frame:
        info = {"exec_info": {"queue_remaining": self._remaining.get(owner, 0)}}
        text = json.dumps({"type": STATUS, "data": {"status": info, **more}})
        return Frame(kind=STATUS, text=text)


listener = Listener()  #: That of the process.
