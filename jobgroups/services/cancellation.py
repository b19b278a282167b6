"""Cancel a group or one child of it."""

from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.shapes.groups import CancelResult
from jobgroups.domain.states import CHILD_OPEN, GroupStatus
from jobgroups.errors import ChildNotFound
from jobgroups.services.audit import record
from jobgroups.services.transactions import group_transaction


@retry_on_conflict
def group_cancel(*, group_id: str) -> CancelResult:
    """Cancel every child that is not final, and request the stop of active attempts. Repeating it
    is no error.

    Raises ``GroupNotFound``.
    """
    with group_transaction(group_id) as tx:
        open_children = tx.children(status__in=CHILD_OPEN)
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
