"""Cancel a group or one child of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobgroups.database.retry import unit_of_work
from jobgroups.domain.clock import now
from jobgroups.domain.states import (
    CHILD_OPEN,
    ChildStatus,
    GroupStatus,
    StopReason,
)
from jobgroups.errors import ChildNotFound
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.group_transaction import GroupWrite
from jobgroups.services.transactions import group_transaction


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel did, as the reference names it."""

    cancelled: bool
    interrupted: int
    already_complete: int
    already_failed: int


@unit_of_work
def group_cancel(*, group_id: str) -> Cancelled:
    """Cancel every child that is not final, and owe the stop of what may run. Repeating is no error.

    Raises:
        GroupNotFound: there is no such group.
    """
    with group_transaction(group_id) as write:
        open_children = write.children(status__in=CHILD_OPEN)
        if open_children:
            write.group.cancelled_at = now()
            _cancel(write, open_children)
        finished = write.group.completed_count, write.group.failed_count
    return Cancelled(
        cancelled=write.group.status == GroupStatus.CANCELLED,
        interrupted=len(open_children),
        already_complete=finished[0],
        already_failed=finished[1],
    )


@unit_of_work
def child_cancel(*, group_id: str, job_id: str) -> bool:
    """Cancel one child; False if it was final already.

    Raises:
        GroupNotFound: there is no such group.
        ChildNotFound: the group has no such child.
    """
    with group_transaction(group_id) as write:
        found = write.children(pk=job_id)
        if not found:
            raise ChildNotFound(job_id)
        cancelled = _cancel(write, [one for one in found if one.status in CHILD_OPEN])
    return bool(cancelled)


def _cancel(write: GroupWrite, children: Sequence[ChildJob]) -> list[ChildJob]:
    cancelled = [one for one in children if write.move_child(one, ChildStatus.CANCELLED)]
    for one in cancelled:
        write.add(log.child_cancelled(one))
    # Every active attempt, not the current one alone: an older one may still be stopping.
    active = Attempt.objects.filter(child__in=cancelled, ended_at__isnull=True)
    write.owe_stop(list(active.values_list("pk", flat=True)), StopReason.CANCEL)
    if cancelled:
        log.notify_runners_on_commit(work_only=True)
    return cancelled
