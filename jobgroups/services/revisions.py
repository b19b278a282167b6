"""Revisions: a change of what a group's answers show that is no event increases the group's ``revision``."""

from collections.abc import Collection

from django.db.models import F

from jobgroups.models import ChildJob, JobGroup


def groups_revise(ids: Collection[str]) -> None:
    """Increase the revision of groups, in the caller's transaction, before it locks any of their children."""
    # In one order: the progress of several groups is stored by several runners.
    rows = JobGroup.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    found = list(rows.values_list("pk", flat=True))
    JobGroup.objects.filter(pk__in=found).order_by().update(revision=F("revision") + 1)


def groups_of(child_ids: Collection[str]) -> set[str]:
    """Return the groups of children."""
    return set(ChildJob.objects.filter(pk__in=child_ids).order_by().values_list("group_id", flat=True))
