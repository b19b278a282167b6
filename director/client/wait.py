"""Waits for a group's end. The status decides; the stream only says when to read the status.

A stream that is lost, silent or impossible (a proxy without WebSockets) costs lateness, never the
result.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

from director.client import calls, requests
from director.client.calls import Outage
from director.client.decode import load
from director.client.errors import DirectorError, StreamClosed, WaitTimeout
from director.client.groups import Group, parse_group
from director.client.wire import Closed, Socket, Wire

#: Seconds between reads of the status where there is no stream.
POLL_S: Final = 2.0
#: Seconds after which the status is read although the stream sent no end.
SAFETY_POLL_S: Final = 15.0


@dataclass(slots=True)
class Watch:
    """One caller's wait for one group."""

    wire: Wire
    group_id: str
    outage: Outage
    #: When the caller's time is up.
    deadline: float
    socket: Socket | None = None
    is_streamable: bool = True

    def left(self, at_most: float) -> float:
        """Return the seconds until the deadline, at most ``at_most`` and never below 0."""
        return max(0.0, min(at_most, self.deadline - time.monotonic()))

    def is_expired(self) -> bool:
        """Return whether the caller's time is up."""
        return time.monotonic() >= self.deadline

    async def status(self) -> Group:
        """Read the status, again after each failure that may pass; raise ``WaitTimeout`` after the deadline."""
        request = requests.get("job-groups", self.group_id)
        while True:
            try:
                # The last request of an expired wait still needs time for its answer.
                limit = None if self.deadline == math.inf else max(1.0, self.left(30.0))
                answer = calls.success(await self.wire.send(request, limit))
                group = parse_group(load(answer.content))
            except DirectorError as error:
                if not error.transient:
                    raise
                delay = self.outage.delay(error)
                if self.is_expired():
                    raise WaitTimeout(f"Job group {self.group_id} had not ended in time.") from error
                await self.wire.sleep(self.left(delay))
            else:
                self.outage.reset()
                return group

    async def listen(self, seq: int | None) -> None:
        """Return when the group may have ended, or when the status is to be read anyway."""
        if self.is_streamable and self.socket is None:
            await self._connect(seq)
        if self.socket is not None:
            await self._until_end(self.socket)
        elif not self.is_streamable:
            await self.wire.sleep(self.left(POLL_S))

    async def _connect(self, seq: int | None) -> None:
        try:
            path = requests.stream_path(self.group_id, seq)
            self.socket = await self.wire.connect(path, max(1.0, self.left(10.0)))
        except DirectorError as error:
            # A permanent refusal: poll. Otherwise connect again after the next status.
            self.is_streamable = error.transient
            if error.transient:
                await self.wire.sleep(self.left(self.outage.delay(error)))

    async def _until_end(self, socket: Socket) -> None:
        end = time.monotonic() + self.left(SAFETY_POLL_S)
        while (remaining := end - time.monotonic()) > 0:
            frame = await socket.receive(remaining)
            if frame is None:
                return
            if isinstance(frame, Closed):
                await self.hang_up()
                await self.wire.sleep(self.left(self.outage.delay(StreamClosed(frame.code))))
                return
            if load(frame).get("type") == "group_complete":
                return

    async def hang_up(self) -> None:
        """Close the stream if it is open."""
        if self.socket is not None:
            await self.socket.aclose()
            self.socket = None


async def wait(wire: Wire, group_id: str, timeout: float | None, outage: Outage) -> Group:
    """Return the group once ``completed_at`` is set.

    Raises ``WaitTimeout`` after ``timeout`` seconds, ``GroupNotFound``, or the error of an outage of
    ``give_up_seconds``.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    watch = Watch(wire, group_id, outage, deadline)
    try:
        while True:
            group = await watch.status()
            if group.finished:
                return group
            if watch.is_expired():
                raise WaitTimeout(f"Job group {group_id} is {group.status} after {timeout:g} s.")
            await watch.listen(group.seq)
    finally:
        await watch.hang_up()
