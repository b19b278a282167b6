"""A group's events, each state event once and in order, over any number of connections.

1. Connect, with ``?since=`` once a number is known.
2. Pass on what continues the numbering; drop what was seen; at a gap, connect again.
3. ``initial_state`` replaces all that was known, also in the middle (the server's log went back).
4. A lost connection is opened again after a growing delay; 4008 (we read too slowly) at once.
5. End after ``group_complete`` of the newest run, or never if asked to follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from director.client import calls, requests
from director.client.backoff import Outage, Patience
from director.client.decode import load
from director.client.errors import (
    DirectorError,
    GroupNotFound,
    StreamClosed,
    UnexpectedAnswer,
    error_from_body,
)
from director.client.events import Event, GroupComplete, InitialState, parse_event
from director.client.steps import Closed, Connect, Emit, Flow, Hangup, Pause, Receive

#: Close codes of the server, see the contract of the stream.
TOO_SLOW: Final = 4008
SHUTTING_DOWN: Final = 4012
NOT_FOUND: Final = 4404
#: Everything from here on is the server's own; what it does not mean to be retried ends the stream.
_APPLICATION_CODES: Final = range(4000, 5000)


class Verdict(Enum):
    """What to do with an event."""

    TAKE = "take"
    DROP = "drop"
    GAP = "gap"


@dataclass(slots=True)
class Position:
    """Where in a group's log the caller stands.

    Attributes:
        seq: Number of the last state event passed on; None before the first.
        run: The newest run heard of.
    """

    seq: int | None = None
    run: int = 1

    def admit(self, event: Event) -> Verdict:
        """Decide about ``event``, and move on if it is passed on."""
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
    """The numbering jumped; connecting again with ``since`` fills it. Never leaves this module."""

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
    #: Where the last gap was met: a second one at the same place is in the server's log itself.
    gap_at: int | None = None
    #: The last ``error`` frame; it gives the reason of the close that comes after it.
    complaint: dict[str, Any] | None = None

    def read(self) -> Flow[None]:
        """Connect and emit until the group's end.

        Raises:
            DirectorError: The connection could not be opened, or was closed.
        """
        self.complaint = None
        yield Hangup()
        yield Connect(requests.stream_path(self.group_id, self.position.seq))
        while True:
            frame: str | Closed = yield Receive()
            if isinstance(frame, Closed):
                raise self._reason(frame.code)
            event = self._accepted(load(frame))
            if event is None:
                continue
            yield Emit(event)
            if self.position.is_end(event) and not self.follow:
                yield Hangup()
                return

    def _accepted(self, frame: dict[str, Any]) -> Event | None:
        """Return the event to pass on, None if there is none."""
        if frame.get("type") == "error":
            self.complaint = frame
            return None
        event = parse_event(frame)
        match self.position.admit(event):
            case Verdict.TAKE:
                self.outage.over()
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

    def _reason(self, code: int) -> DirectorError:
        if code == NOT_FOUND:
            complaint = self.complaint or {}
            detail = complaint.get("detail") or f"Job group {self.group_id} not found"
            return GroupNotFound(str(detail), code="group_not_found", body=complaint)
        if code in _APPLICATION_CODES and code not in {TOO_SLOW, SHUTTING_DOWN} and self.complaint:
            return error_from_body(self.complaint, status=None)
        return StreamClosed(code)

    def pause_after(self, error: DirectorError) -> float:
        """Return the seconds to wait before connecting again.

        Raises:
            DirectorError: ``error``, if the outage has lasted too long.
        """
        if isinstance(error, _Gap):
            return 0.0
        delay = self.outage.delay(error)
        too_slow = isinstance(error, StreamClosed) and error.close_code == TOO_SLOW
        return 0.0 if too_slow else delay


def stream(
    group_id: str, *, since: int | None, reconnect: bool, follow: bool, patience: Patience
) -> Flow[None]:
    """Emit the events of a group.

    Raises:
        GroupNotFound: There is no such group.
        StreamClosed: The connection ended and ``reconnect`` is off.
        DirectorError: What kept the stream from coming back, when the patience was at its end.
    """
    requests.stream_path(group_id, since)  # a wrong id is the caller's error, told at once
    watched = Stream(group_id, Position(seq=since), Outage(patience), follow)
    if since is not None and not follow and (yield from _is_over(watched)):
        return
    while True:
        try:
            return (yield from watched.read())
        except DirectorError as error:
            if not error.transient or not (reconnect or isinstance(error, _Gap)):
                raise
            pause = watched.pause_after(error)
        yield Pause(pause)


def _is_over(watched: Stream) -> Flow[bool]:
    """Tell whether nothing comes after the position any more, and learn of the newest run.

    A finished group that is resumed at its very end says nothing at all (unless it is retried
    some day), so that has to be asked.
    """
    group = yield from calls.status(watched.group_id)
    watched.position.run = group.run
    return group.finished and group.seq == watched.position.seq
