"""Revisions: a change of what a group's answers show that is no event increases the group's
``revision``.
"""

from collections.abc import Collection

from django.db.models import F

from jobgroups.models import ChildJob, JobGroup


def groups_revise(ids: Collection[str], *, skip_locked: bool = False) -> set[str]:
    """Increase the revision of groups, in the caller's transaction, before it locks any of their
    children.

    Returns the groups that exist; with ``skip_locked`` without those that another transaction has
    locked.
    """
    # In one order: the progress of several groups is stored by several runners.
    rows = (
        JobGroup.objects.select_for_update(no_key=True, skip_locked=skip_locked)
        .filter(pk__in=ids)
        .order_by("pk")
    )
    group_ids = set(rows.values_list("pk", flat=True))
    JobGroup.objects.filter(pk__in=group_ids).order_by().update(revision=F("revision") + 1)
    return group_ids


def groups_of(child_ids: Collection[str]) -> dict[str, str]:
    return dict(ChildJob.objects.filter(pk__in=child_ids).order_by().values_list("pk", "group_id"))
