"""Cancel a group, one child of it, or all open groups."""

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.groups import CancelResult, OpenWork
from jobgroups.domain.states import CHILD_OPEN, ChildStatus, GroupStatus
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.queries.groups import open_groups_of, open_work
from jobgroups.services.audit import record
from jobgroups.services.transactions import group_transaction

_SECONDS: Final = 10.0  #: After which a cancel of all groups leaves the others to the next request.


@retry_on_conflict
def group_cancel(*, group_id: str, statuses: Collection[ChildStatus] = CHILD_OPEN) -> CancelResult:
    """Cancel every child that is not final, and request the stop of active attempts. Repeating it
    is no error.

    ``statuses``: of a group of one job, the ones in which it is cancelled. Raises
    ``GroupNotFound``.
    """
    with group_transaction(group_id) as tx:
        open_children = tx.children(status__in=statuses)
        if open_children:
            tx.group.cancelled_at = now()
            tx.cancel_children(open_children)
            record(Action.GROUP_CANCELLED, group_id, jobs=len(open_children))
        finished = tx.group.completed_count, tx.group.failed_count
    return CancelResult(
        cancelled=tx.group.status == GroupStatus.CANCELLED,
        interrupted=len(open_children),
        already_complete=finished[0],
        already_failed=finished[1],
    )


def prompts_cancel(
    *, group_ids: Iterable[str], statuses: Collection[ChildStatus] = CHILD_OPEN
) -> int:
    """Cancel groups of one job whose job has one of these statuses, in the given order; return how
    many were.
    """
    cancelled = 0
    for group_id in group_ids:
        with suppress(GroupNotFound):  # deleted meanwhile
            cancelled += group_cancel(group_id=group_id, statuses=statuses).interrupted
    return cancelled


@retry_on_conflict
def child_cancel(*, group_id: str, job_id: str) -> bool:
    """Cancel one child; False if it was final already. Raises ``GroupNotFound`` or
    ``ChildNotFound``.
    """
    with group_transaction(group_id) as tx:
        children = tx.children(pk=job_id)
        if not children:
            raise ChildNotFound(job_id)
        open_children = [child for child in children if child.status in CHILD_OPEN]
        tx.cancel_children(open_children)
        if open_children:
            record(Action.JOB_CANCELLED, group_id, job=job_id)
    return bool(open_children)


def groups_cancel(*, owner_id: int | None) -> OpenWork:
    """Cancel the open groups of an account, or of all (None), each as :func:`group_cancel` does.

    The newest come first: while older jobs are stopped, no newer one takes their backends. After
    ``_SECONDS`` the others are left to the next request (``remaining``).
    """
    running, jobs, ends = open_work(owner_id).running, 0, time.monotonic() + _SECONDS
    waiting = list(open_groups_of(owner_id).order_by("created_at").values_list("pk", flat=True))
    groups = len(waiting)
    while waiting:
        with suppress(GroupNotFound):  # deleted meanwhile
            jobs += group_cancel(group_id=waiting.pop()).interrupted
        if time.monotonic() > ends:
            break
    remaining = len(waiting)
    return OpenWork(groups=groups - remaining, jobs=jobs, running=running, remaining=remaining)
