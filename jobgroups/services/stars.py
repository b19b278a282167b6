"""What people want to keep. A star is a note on a child, no part of what happened to it."""

from __future__ import annotations

from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.events import log
from jobgroups.models import ChildJob, JobGroup


def child_star(*, group_id: str, job_id: str, starred: bool) -> None:
    """Give a child a star or take it away, whatever its status; twice is no error.

    No event tells of it, for a group's log ends with ``group_complete`` and stars come after; open
    pages are told all the same.

    Raises:
        GroupNotFound: there is no such group.
        ChildNotFound: the group has no such child.
    """
    if ChildJob.objects.filter(pk=job_id, group_id=group_id).update(starred=starred):
        log.publish_star(group_id, job_id, starred=starred)
        return
    if JobGroup.objects.filter(pk=group_id).exists():
        raise ChildNotFound(job_id)
    raise GroupNotFound(group_id)
