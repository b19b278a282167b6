"""A group's events, each state event once and in order, over any number of connections.

1. Connect, with ``?since=`` once a number is known.
2. Yield the event with the next number, drop earlier ones, connect again after a gap.
3. ``initial_state`` replaces everything before it, also in the middle (the server's log went back).
4. A lost connection is opened again after a growing delay; after 4008 (client too slow) at once.
5. End after ``group_complete`` of the newest run; with ``follow`` never.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from director.client import calls, requests
from director.client.backoff import Outage, ReconnectPolicy
from director.client.decode import load
from director.client.errors import DirectorError, GroupNotFound, StreamClosed, UnexpectedAnswer, error_from_body
from director.client.events import Event, GroupComplete, InitialState, parse_event
from director.client.groups import parse_group
from director.client.wire import Closed, Wire

#: Close codes of the server (docs/api.md).
TOO_SLOW: Final = 4008
SHUTTING_DOWN: Final = 4012
NOT_FOUND: Final = 4404
#: The server's own codes. Those that do not mean a retry end the stream.
_APPLICATION_CODES: Final = range(4000, 5000)


class Verdict(Enum):
    """What to do with an event."""

    TAKE = "take"
    DROP = "drop"
    GAP = "gap"


@dataclass(slots=True)
class Position:
    """The caller's position in a group's log.

    Attributes:
        seq: Number of the last state event that was yielded; None before the first.
        run: The newest run of the events so far.
    """

    seq: int | None = None
    run: int = 1

    def admit(self, event: Event) -> Verdict:
        """Return what to do with ``event``; advance if it is taken."""
        if isinstance(event, InitialState):
            self.seq = event.seq
        elif event.seq is not None:
            if self.seq is not None and event.seq <= self.seq:
                return Verdict.DROP
            if self.seq is not None and event.seq > self.seq + 1:
                return Verdict.GAP
            self.seq = event.seq
        self.run = max(self.run, event.run or 1)
        return Verdict.TAKE

    def is_end(self, event: Event) -> bool:
        """Whether ``event`` ends the group: no later run than its own is known."""
        return isinstance(event, GroupComplete) and (event.run or self.run) >= self.run


class _Gap(DirectorError):
    """The numbering jumped; connecting again with ``since`` fills the gap. Never leaves this module."""

    @property
    def transient(self) -> bool:
        return True


@dataclass(slots=True)
class Stream:
    """One caller's stream of one group."""

    group_id: str
    position: Position
    outage: Outage
    follow: bool
    #: Position of the last gap. A second gap at the same position is in the server's log itself.
    gap_at: int | None = None
    #: The last ``error`` frame: the reason of the close that follows.
    error_frame: dict[str, Any] | None = None

    async def read(self, wire: Wire) -> AsyncGenerator[Event]:
        """Connect and yield events until the group's end.

        Raises:
            DirectorError: The connection could not be opened, or was closed.
        """
        self.error_frame = None
        path = requests.stream_path(self.group_id, self.position.seq)
        async with aclosing(await wire.connect(path)) as socket:
            while (frame := await socket.receive()) is not None:
                if isinstance(frame, Closed):
                    raise self._close_error(frame.code)
                event = self._accept(load(frame))
                if event is None:
                    continue
                yield event
                if self.position.is_end(event) and not self.follow:
                    return

    def _accept(self, frame: dict[str, Any]) -> Event | None:
        """Return the event of a frame if it is to be yielded."""
        if frame.get("type") == "error":
            self.error_frame = frame
            return None
        event = parse_event(frame)
        match self.position.admit(event):
            case Verdict.TAKE:
                self.outage.reset()
                return event
            case Verdict.DROP:
                return None
            case Verdict.GAP:
                raise self._gap(event)

    def _gap(self, event: Event) -> DirectorError:
        at = self.position.seq
        if at == self.gap_at:
            return UnexpectedAnswer(f"Event {event.seq} came after event {at}.")
        self.gap_at = at
        return _Gap("The numbering of events jumped.")

    def _close_error(self, code: int) -> DirectorError:
        frame = self.error_frame or {}
        if code == NOT_FOUND:
            detail = frame.get("detail") or f"Job group {self.group_id} not found"
            return GroupNotFound(str(detail), code="group_not_found", body=frame)
        if code in _APPLICATION_CODES and code not in {TOO_SLOW, SHUTTING_DOWN} and frame:
            return error_from_body(frame, status=None)
        return StreamClosed(code)

    def delay_after(self, error: DirectorError) -> float:
        """Return the seconds to wait before the next connection.

        Raises:
            DirectorError: ``error``, if the outage has lasted too long.
        """
        if isinstance(error, _Gap):
            return 0.0
        delay = self.outage.delay(error)
        too_slow = isinstance(error, StreamClosed) and error.close_code == TOO_SLOW
        return 0.0 if too_slow else delay

    async def is_over(self, wire: Wire) -> bool:
        """Return whether no event follows the position, and set the newest run.

        A finished group that is resumed at its end sends no event (unless it is retried later), so the
        status is read.
        """
        group = await calls.call(wire, requests.get("job-groups", self.group_id), parse_group)
        self.position.run = group.run
        return group.finished and group.seq == self.position.seq


async def stream(
    wire: Wire, group_id: str, *, since: int | None, reconnect: bool, follow: bool, policy: ReconnectPolicy
) -> AsyncGenerator[Event]:
    """Yield the events of a group.

    Raises:
        GroupNotFound: There is no such group.
        StreamClosed: The connection ended and ``reconnect`` is off.
        DirectorError: The error of the last connection, after ``give_up_seconds``.
    """
    requests.stream_path(group_id, since)  # a wrong id raises at once
    reader = Stream(group_id, Position(seq=since), Outage(policy), follow)
    if since is not None and not follow and await reader.is_over(wire):
        return
    while True:
        try:
            async with aclosing(reader.read(wire)) as events:
                async for event in events:
                    yield event
            return
        except DirectorError as error:
            if not error.transient or not (reconnect or isinstance(error, _Gap)):
                raise
            delay = reader.delay_after(error)
        await wire.sleep(delay)
