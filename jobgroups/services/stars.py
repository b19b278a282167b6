"""Stars: users mark the children that they want to keep."""

from jobgroups.database.retry import retried_transaction
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.events import log
from jobgroups.models import ChildJob, JobGroup
from jobgroups.services.revisions import groups_revise


@retried_transaction
def child_star(*, group_id: str, job_id: str, starred: bool) -> None:
    """Set or remove a child's star, in any status; repeating it is no error.

    It is not an event, since a group's log ends with ``group_complete``. Open pages are notified.
    Raises ``GroupNotFound`` or ``ChildNotFound``.
    """
    groups_revise([group_id])
    if ChildJob.objects.filter(pk=job_id, group_id=group_id).update(starred=starred):
        log.publish_star(group_id, job_id, starred=starred)
        return
    if JobGroup.objects.filter(pk=group_id).exists():
        raise ChildNotFound(job_id)
    raise GroupNotFound(group_id)
