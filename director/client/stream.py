"""A group's events, each state event once and in order, over any number of connections.

1. Connect, with ``?since=`` once a number is known.
2. Yield the event with the next number, drop earlier ones, connect again after a gap.
3. ``initial_state`` replaces everything before it, also in the middle (the server's log went back).
4. A lost connection is opened again after a growing delay; after 4008 (client too slow) at once.
5. End after ``group_complete`` of the newest run; with ``follow`` never.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from director.client import calls, requests
from director.client.calls import Outage
from director.client.decode import load
from director.client.errors import (
    DirectorError,
    NotFound,
    StreamClosed,
    UnexpectedAnswer,
    error_from_body,
)
from director.client.events import GroupComplete, InitialState, parse_event
from director.client.groups import parse_group
from director.client.wire import Wire
from jobgroups.domain.shapes.events import Event

#: Close codes of the server (docs/api.md).
TOO_SLOW: Final = 4008
SHUTTING_DOWN: Final = 4012
TOO_MANY: Final = 4029
NOT_FOUND: Final = 4404
#: The server's own codes. Those that do not mean a retry end the stream.
_APPLICATION_CODES: Final = range(4000, 5000)


class _Gap(DirectorError):
    """The numbering jumped; connecting again with ``since`` fills the gap. Never leaves this
    module.
    """

    _is_transient = True


@dataclass(slots=True)
class Stream:
    """One caller's stream of one group."""

    group_id: str
    #: Number of the last state event that was yielded; None before the first.
    seq: int | None
    outage: Outage
    follow: bool
    #: The newest run of the events so far.
    run: int = 1
    #: Position of the last gap. A second gap at the same position is in the server's log itself.
    gap_at: int | None = None
    #: The last ``error`` frame: the reason of the close that follows.
    error_frame: dict[str, Any] | None = None

    async def read(self, wire: Wire) -> AsyncGenerator[Event]:
        """Connect and yield events until the group's end; raise the error of a connection that
        fails or is closed.
        """
        self.error_frame = None
        path = requests.stream_path(self.group_id, self.seq)
        try:
            async with aclosing(wire.frames(path)) as frames:
                async for frame in frames:
                    if (event := self._accept(await calls.whole(wire, load(frame)))) is None:
                        continue
                    yield event
                    # Not the end of an earlier run than the newest one.
                    is_end = (
                        isinstance(event, GroupComplete) and (event.run or self.run) >= self.run
                    )
                    if is_end and not self.follow:
                        return
        except StreamClosed as closed:
            raise self._close_error(closed) from closed.__cause__

    def _accept(self, frame: dict[str, Any]) -> Event | None:
        if frame.get("type") == "error":
            self.error_frame = frame
            return None
        event = parse_event(frame)
        if isinstance(event, InitialState):
            self.seq = event.seq
        elif event.seq is not None:
            if self.seq is not None and event.seq <= self.seq:
                return None
            if self.seq is not None and event.seq > self.seq + 1:
                if self.seq == self.gap_at:
                    raise UnexpectedAnswer(f"Event {event.seq} came after event {self.seq}.")
                self.gap_at = self.seq
                raise _Gap("The numbering of events jumped.")
            self.seq = event.seq
        self.run = max(self.run, event.run or 1)
        self.outage.reset()
        return event

    def _close_error(self, closed: StreamClosed) -> DirectorError:
        code, frame = closed.close_code, self.error_frame or {}
        if code == NOT_FOUND:
            detail = frame.get("detail") or f"Job group {self.group_id} not found"
            return NotFound(str(detail), body={"code": "group_not_found", **frame})
        if code in _APPLICATION_CODES and code not in {TOO_SLOW, SHUTTING_DOWN} and frame:
            return error_from_body(frame, status=429 if code == TOO_MANY else None)
        return closed

    def delay_after(self, error: DirectorError) -> float:
        """Return the seconds to wait before the next connection; raise ``error`` if the outage has
        lasted too long.
        """
        if isinstance(error, _Gap):
            return 0.0
        delay = self.outage.delay(error)
        too_slow = isinstance(error, StreamClosed) and error.close_code == TOO_SLOW
        return 0.0 if too_slow else delay

    async def is_over(self, wire: Wire) -> bool:
        """Return whether no event follows the position, and set the newest run.

        A finished group that is resumed at its end sends no event (unless it is retried later), so
        the status is read.
        """
        group = await calls.call(wire, requests.get("job-groups", self.group_id), parse_group)
        self.run = group.run
        return group.finished and group.seq == self.seq


async def stream(
    wire: Wire, group_id: str, *, since: int | None, reconnect: bool, follow: bool, outage: Outage
) -> AsyncGenerator[Event]:
    """Yield the events of a group.

    Raises ``NotFound``, ``StreamClosed`` if the connection ended and ``reconnect`` is off, or the
    error of the last connection after ``give_up_seconds``.
    """
    requests.stream_path(group_id, since)  # a wrong id raises at once
    reader = Stream(group_id, since, outage, follow)
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
