"""Waiting for a group's end: the status decides, the stream only says when to look.

A stream that is lost, silent or impossible (a proxy without WebSockets) costs lateness, never the
result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from director.client import calls, requests
from director.client.backoff import Outage, Patience
from director.client.decode import load
from director.client.errors import DirectorError, StreamClosed, WaitTimeout
from director.client.groups import Group
from director.client.steps import Closed, Connect, Flow, Hangup, Pause, Receive

#: Seconds between looks where there is no stream.
POLL_S: Final = 2.0
#: Seconds after which the status is read although the stream said nothing of an end.
SAFETY_POLL_S: Final = 15.0


@dataclass(slots=True)
class Watch:
    """One caller's wait for one group. Times are of the patience's clock."""

    group_id: str
    patience: Patience
    outage: Outage
    #: When the caller wants to be back; None: at the end, however late.
    deadline: float | None
    connected: bool = False
    streamable: bool = True

    def left(self, at_most: float) -> float:
        """Return the seconds until the deadline, ``at_most`` that many, never below 0."""
        if self.deadline is None:
            return at_most
        return max(0.0, min(at_most, self.deadline - self.patience.clock()))

    def expired(self) -> bool:
        """Whether the caller's time is up."""
        return self.deadline is not None and self.patience.clock() >= self.deadline

    def look(self) -> Flow[Group]:
        """Read the status, through an outage if need be.

        Raises:
            WaitTimeout: The deadline came first.
        """
        while True:
            try:
                # The last look of an expired wait still needs time to be answered.
                limit = None if self.deadline is None else max(1.0, self.left(30.0))
                group = yield from calls.status(self.group_id, timeout=limit, delays=())
            except DirectorError as error:
                if not error.transient:
                    raise
                yield from self._pause_or_expire(self.outage.delay(error))
            else:
                self.outage.over()
                return group

    def _pause_or_expire(self, seconds: float) -> Flow[None]:
        if self.expired():
            raise WaitTimeout(f"Job group {self.group_id} had not ended in time.")
        yield Pause(self.left(seconds))

    def listen(self, seq: int | None) -> Flow[None]:
        """Return when the group may have ended, or when it is time to look anyway."""
        if self.streamable and not self.connected:
            yield from self._connect(seq)
        if self.connected:
            yield from self._until_news()
        elif not self.streamable:
            yield Pause(self.left(POLL_S))

    def _connect(self, seq: int | None) -> Flow[None]:
        yield Hangup()
        try:
            path = requests.stream_path(self.group_id, seq)
            yield Connect(path, max(1.0, self.left(10.0)))
        except DirectorError as error:
            # Refused for good: look every now and then instead. Otherwise try again after a look.
            self.streamable = error.transient
            if error.transient:
                yield Pause(self.left(self.outage.delay(error)))
        else:
            self.connected = True

    def _until_news(self) -> Flow[None]:
        look_at = self.patience.clock() + self.left(SAFETY_POLL_S)
        while (remaining := look_at - self.patience.clock()) > 0:
            frame: str | Closed | None = yield Receive(remaining)
            if frame is None:
                return
            if isinstance(frame, Closed):
                self.connected = False
                yield Pause(self.left(self.outage.delay(StreamClosed(frame.code))))
                return
            if load(frame).get("type") == "group_complete":
                return


def wait(group_id: str, *, timeout: float | None, patience: Patience) -> Flow[Group]:
    """Return the group once ``completed_at`` is set.

    Raises:
        WaitTimeout: It had not ended after ``timeout`` seconds.
        GroupNotFound: There is no such group.
        DirectorError: The server stayed away longer than the patience.
    """
    deadline = None if timeout is None else patience.clock() + timeout
    watch = Watch(group_id, patience, Outage(patience), deadline)
    while True:
        group = yield from watch.look()
        if group.finished:
            yield Hangup()
            return group
        if watch.expired():
            raise WaitTimeout(f"Job group {group_id} is {group.status} after {timeout:g} s.")
        yield from watch.listen(group.seq)
