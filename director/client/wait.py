"""Waits for a group's end by requests that the Director answers at the group's next event.

A request that a proxy cuts, a restart, or a Director that lets no request wait costs lateness, never the result.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Final

from director.client import calls, requests
from director.client.calls import Outage
from director.client.decode import load
from director.client.errors import DirectorError, WaitTimeout
from director.client.groups import Group, parse_group
from director.client.wire import Wire

#: Seconds that a request waits at the Director: less than the 30 s after which some proxies cut it.
WAIT_S: Final = 25
#: Pause between two requests as a share of the time since the wait began: a group with many events costs few requests.
SHARE: Final = 0.05
#: Open jobs above which there is such a pause: the end of the last ones is noticed at once.
FEW: Final = 10
#: The shortest and the longest pause in seconds: if requests may wait, and if they may not.
PAUSES_S: Final = (0.0, 1.0)
POLL_PAUSES_S: Final = (2.0, 15.0)


@dataclass(slots=True)
class Watch:
    """One caller's wait for one group.

    Attributes:
        deadline: When the caller's time is up.
        group: The newest status.
        is_whole: It has its jobs.
        has_failed: The last request failed: the next one does not wait, so that its answer ends the outage.
        may_wait: False if too many requests wait at the Director.
    """

    wire: Wire
    group_id: str
    outage: Outage
    deadline: float
    began: float = field(default_factory=time.monotonic)
    group: Group | None = None
    is_whole: bool = False
    has_failed: bool = False
    may_wait: bool = True

    def left(self, at_most: float) -> float:
        """Return the seconds until the deadline, at most ``at_most`` and never below 0."""
        return max(0.0, min(at_most, self.deadline - time.monotonic()))

    def is_expired(self) -> bool:
        """Return whether the caller's time is up."""
        return time.monotonic() >= self.deadline

    async def read(self) -> float:
        """Read the status once there is an event, with the jobs if the group has ended; return the pause in seconds.

        Raises ``WaitTimeout`` if that fails after the deadline, or an error that does not pass.
        """
        params, before = self._params(), self.group
        try:
            group = await self._status(params)
        except DirectorError as error:
            if "wait" in params and error.status == 429:
                self.may_wait = False
            elif not error.transient:
                raise
            else:
                self.has_failed = True
                delay = self.outage.delay(error)
                if self.is_expired():
                    raise WaitTimeout(f"Job group {self.group_id} had not ended in time.") from error
                return delay
        else:
            self.outage.reset()
            self.has_failed = False
            self.group, self.is_whole = group or self.group, not params
        if self._has_ended():
            return 0.0
        return self._pause(has_moved=self.group is not None and (before is None or self.group.seq != before.seq))

    def _params(self) -> dict[str, str]:
        if self._has_ended():
            return {}
        params = {"children": "0"}
        if self.group is not None:
            params["since"] = str(self.group.seq)
            seconds = int(self.left(WAIT_S))
            if seconds and self.may_wait and not self.has_failed:
                params["wait"] = str(seconds)
        return params

    def _has_ended(self) -> bool:
        return self.group is not None and self.group.finished

    async def _status(self, params: dict[str, str]) -> Group | None:
        """Return the status, None if it has no event after ``since``."""
        seconds = int(params.get("wait", 0))
        # The last request of an expired wait still needs time for its answer.
        is_bounded = seconds or self.deadline < math.inf
        limit = max(seconds + 1.0, self.left(seconds + 30.0)) if is_bounded else None
        answer = await self.wire.send(requests.get("job-groups", self.group_id, **params), limit)
        if answer.status_code == 304:
            return None
        return parse_group(await calls.whole(self.wire, load(calls.success(answer).content)))

    def _pause(self, *, has_moved: bool) -> float:
        group, bounds = self.group, PAUSES_S
        if not self.may_wait:
            bounds = POLL_PAUSES_S
        elif has_moved and group is not None:
            final = group.completed_count + group.failed_count + group.cancelled_count
            if group.total_count - final <= FEW:
                return 0.0
        # The last fraction of a second is too short for a request that waits.
        shortest, longest = bounds if self.left(1.0) == 1.0 else (1.0, 1.0)
        return max(shortest, min(longest, SHARE * (time.monotonic() - self.began)))


async def wait(wire: Wire, group_id: str, timeout: float | None, outage: Outage) -> Group:
    """Return the group with its jobs once ``completed_at`` is set.

    Raises ``WaitTimeout`` after ``timeout`` seconds, ``NotFound``, or the error of an outage of
    ``give_up_seconds``.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    watch = Watch(wire, group_id, outage, deadline)
    while True:
        pause = await watch.read()
        group = watch.group
        if group is not None and group.finished:
            if watch.is_whole:
                return group
        elif group is not None and watch.is_expired():
            raise WaitTimeout(f"Job group {group_id} is {group.status} after {timeout:g} s.")
        await wire.sleep(watch.left(pause))
