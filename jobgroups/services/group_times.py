"""Fills what the lists of groups read in rows that an earlier release wrote."""

from typing import Any, Final

from django.db.models import OuterRef, Subquery

from jobgroups.database.retry import retried_transaction
from jobgroups.models import ChildJob, GroupLabel, JobGroup

_AT_ONCE: Final = 500


@retried_transaction
def group_times_fill() -> int:
    """Store the times of their groups in some jobs and labels; return how many."""
    count = 0
    kinds: tuple[Any, Any] = (GroupLabel, ChildJob)
    for kind in kinds:
        rows = kind.objects.filter(group_created_at=None).order_by()
        # A row that another transaction changes has its turn later.
        keys = list(
            rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:_AT_ONCE]
        )
        created = Subquery(JobGroup.objects.filter(pk=OuterRef("group_id")).values("created_at"))
        count += rows.filter(pk__in=keys).update(group_created_at=created) if keys else 0
    return count
