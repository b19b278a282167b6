"""Ends of children that never came to execute: their backend is away, disabled, or it took a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from jobgroups import events
from jobgroups.clock import unjumped
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.writing import Fence, GroupWrite, group_transaction, unit_of_work
from jobgroups.shapes import compact
from jobgroups.states import ChildStatus, ErrorType, StopReason

EndChild = Callable[[GroupWrite, ChildJob], None]


def children_give_up(*, fence: Fence, away_s: float, reason: str) -> int:
    """Fail the backend's children that have not executed: it was away too long in a row.

    Args:
        fence: the lease on the backend.
        away_s: for how long, in seconds, for the message.
        reason: what was wrong with the backend, as a clause.

    Returns:
        How many children failed by this call.
    """
    message = f"{fence.backend_id} was not reachable for {away_s:.0f} s: {reason}"
    return _end_waiting(fence, {}, _failing(message))


def children_of_disabled(*, fence: Fence) -> int:
    """Fail the children that wait for a backend that is disabled now; what was sent there goes on."""
    message = f"{fence.backend_id} was disabled before this job was sent to it."
    return _end_waiting(fence, {"current_attempt__isnull": True}, _failing(message))


def children_waited_too_long(*, fence: Fence, limit_s: int) -> int:
    """Time out the backend's children that have waited longer than ``limit_s`` in all.

    While this process lives, that is measured by a clock that nobody can set.
    """
    oldest = unjumped() - dt.timedelta(seconds=limit_s)
    return _end_waiting(fence, {"queued_at__lt": oldest}, _timing_out(limit_s))


def _failing(message: str) -> EndChild:
    def end(write: GroupWrite, child: ChildJob) -> None:
        moved = write.move_child(
            child,
            ChildStatus.FAILED,
            error_message=message,
            error_type=ErrorType.CONNECTION,
            error_details_json=compact({"phase": "queued"}),
        )
        if moved:
            write.add(events.child_failed(child))

    return end


def _timing_out(limit_s: int) -> EndChild:
    def end(write: GroupWrite, child: ChildJob) -> None:
        moved = write.move_child(
            child,
            ChildStatus.TIMEOUT,
            error_message=f"Not executed within {limit_s} s",
            error_type=ErrorType.TIMEOUT,
            error_details_json=compact({"phase": "queued"}),
        )
        if moved:
            write.add(events.child_timeout(child, write.group.timeout_seconds))

    return end


def _end_waiting(fence: Fence, conditions: dict[str, Any], end: EndChild) -> int:
    waiting = ChildJob.objects.filter(
        backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions
    )
    ended = 0
    for group_id in list(
        waiting.order_by("group_id").values_list("group_id", flat=True).distinct()
    ):
        ended += _end_in_group(group_id, fence, conditions, end)
    return ended


@unit_of_work
def _end_in_group(group_id: str, fence: Fence, conditions: dict[str, Any], end: EndChild) -> int:
    """End one group's waiting children, one transaction, and owe the stop of what was sent."""
    with group_transaction(group_id, fence=fence) as write:
        children = write.children(
            backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions
        )
        for child in children:
            end(write, child)
        active = Attempt.objects.filter(child__in=children, ended_at__isnull=True)
        write.owe_stop(list(active.values_list("pk", flat=True)), StopReason.GAVE_UP)
    return len(children)
