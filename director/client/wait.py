"""Waits for a group's end by requests that the Director answers at the group's next event.

A request that a proxy cuts, a restart, or a Director that lets no request wait costs lateness,
never the result.
"""

import math
import time
from typing import Final

from director.client import calls, requests
from director.client.calls import Outage
from director.client.decode import load
from director.client.errors import DirectorError, WaitTimeout
from director.client.groups import Group, parse_group
from director.client.wire import Wire

#: Seconds that a request waits at the Director: less than the 30 s after which some proxies cut it.
WAIT_S: Final = 25
#: Pause between two requests as a share of the time since the wait began: a group with many events
#: costs few requests.
SHARE: Final = 0.05
#: Open jobs above which there is such a pause: the end of the last ones is noticed at once.
FEW: Final = 10
#: The shortest and the longest pause in seconds: if requests may wait, and if they may not.
PAUSES_S: Final = (0.0, 1.0)
POLL_PAUSES_S: Final = (2.0, 15.0)


async def wait(wire: Wire, group_id: str, timeout: float | None, outage: Outage) -> Group:
    """Return the group with its jobs once ``completed_at`` is set.

    Raises ``WaitTimeout`` after ``timeout`` seconds, ``NotFound``, or the error of an outage of
    ``give_up_seconds``.
    """
    began = time.monotonic()
    deadline = math.inf if timeout is None else began + timeout
    group: Group | None = None
    may_wait, has_failed = True, False
    while True:
        # After a failure the next request does not wait, so that its answer ends the outage.
        wait_s = (
            int(_seconds_left(deadline, WAIT_S))
            if group is not None and may_wait and not has_failed
            else 0
        )
        before, has_failed = group, False
        since = None if group is None else group.seq
        pause = None
        try:
            group = (
                await _status(wire, group_id, deadline, wait_s, children=0, since=since) or group
            )
            if group is not None and group.finished:
                group = await _status(wire, group_id, deadline)
                if group is not None and group.finished:
                    return group
            outage.reset()
        except DirectorError as error:
            if wait_s and error.status == 429:
                may_wait = False
            elif not error.transient:
                raise
            else:
                has_failed = True
                pause = outage.delay(error)
                if time.monotonic() >= deadline:
                    raise WaitTimeout(f"Job group {group_id} had not ended in time.") from error
        if group is not None and not group.finished and time.monotonic() >= deadline:
            raise WaitTimeout(f"Job group {group_id} is {group.status} after {timeout:g} s.")
        if pause is None:
            has_moved = group is not None and (before is None or group.seq != before.seq)
            pause = _pause(
                group if has_moved else None, may_wait=may_wait, began=began, deadline=deadline
            )
        await wire.sleep(_seconds_left(deadline, pause))


def _seconds_left(deadline: float, at_most: float) -> float:
    """Return the seconds until the deadline, at most ``at_most`` and never below 0."""
    return max(0.0, min(at_most, deadline - time.monotonic()))


async def _status(
    wire: Wire, group_id: str, deadline: float, wait_s: int = 0, **params: int | None
) -> Group | None:
    """Return the status once there is an event after ``since``; None if there is none within
    ``wait_s``.
    """
    if wait_s:
        params["wait"] = wait_s
    # The last request of an expired wait still needs time for its answer.
    is_bounded = wait_s or deadline < math.inf
    limit = max(wait_s + 1.0, _seconds_left(deadline, wait_s + 30.0)) if is_bounded else None
    answer = await wire.send(requests.get("job-groups", group_id, **params), limit)
    if answer.status_code == 304:
        return None
    return parse_group(await calls.whole(wire, load(calls.success(answer).content)))


def _pause(moved: Group | None, *, may_wait: bool, began: float, deadline: float) -> float:
    """Return the seconds until the next request; ``moved`` is the group if it has had an event."""
    bounds = PAUSES_S
    if not may_wait:
        bounds = POLL_PAUSES_S
    elif moved is not None:
        final = moved.completed_count + moved.failed_count + moved.cancelled_count
        if moved.total_count - final <= FEW:
            return 0.0
    # The last fraction of a second is too short for a request that waits.
    shortest, longest = bounds if _seconds_left(deadline, 1.0) == 1.0 else (1.0, 1.0)
    return max(shortest, min(longest, SHARE * (time.monotonic() - began)))
