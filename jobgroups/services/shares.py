"""Turns in the queue: what submitters have used, their weights, and the order of groups."""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from django.db.models import F, Min, QuerySet
from django.db.models.functions import Coalesce

from backends.errors import FieldInvalid
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.states import ChildStatus
from jobgroups.events import log
from jobgroups.models import JobGroup, ShareCount, Submitter
from jobgroups.queries.groups import open_groups
from jobgroups.queries.shares import ended_uses, half_lives
from jobgroups.services.audit import record
from jobgroups.services.revisions import open_group_revise

#: Ends are counted so many seconds after their times: a transaction that stores one may have waited
#: for a lock, and clocks of hosts differ.
_SETTLED: Final = dt.timedelta(seconds=20)
_STEP: Final = dt.timedelta(microseconds=1)  #: Between two groups that are placed side by side.
#: Within this time before a group, others are moved to make place for one before it.
_NEAR: Final = dt.timedelta(milliseconds=100)
_INTERVAL: Final = dt.timedelta(seconds=10)  #: Between two counts.


@retried_transaction
def uses_count() -> None:
    """Count what has ended since the last count, unless that was a moment ago.

    Each end is counted once, by the runner that locks the row first. Readers add what has ended
    since: the sums do not depend on when this runs.
    """
    until = now() - _SETTLED
    count = ShareCount.objects.select_for_update(no_key=True, skip_locked=True).first()
    if count is None:
        ShareCount.objects.bulk_create([ShareCount(counted_until=until)], ignore_conflicts=True)
        return
    if until - count.counted_until < _INTERVAL:
        return
    sums = defaultdict[str, float](float)
    for name, seconds, ended_at in ended_uses(count.counted_until, until):
        sums[name] += seconds * 0.5 ** half_lives(ended_at, until)
    known = Submitter.objects.in_bulk(list(sums))
    for name, row in known.items():
        sums[name] += row.used_seconds * 0.5 ** half_lives(row.used_at or until, until)
    Submitter.objects.bulk_create(
        [Submitter(name=name, used_seconds=sums[name], used_at=until) for name in sorted(sums)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["used_seconds", "used_at"],
    )
    ShareCount.objects.filter(pk=count.pk).update(counted_until=until)


@retried_transaction
def groups_mark_waiting(*, waiting: Collection[str], served: Collection[str]) -> None:
    """Store since when no backend has a job of some groups, and of which of them backends have one.

    A group that another transaction has locked is left for the next time.
    """
    for ids, since in ((waiting, now()), (served, None)):
        rows = JobGroup.objects.select_for_update(no_key=True, skip_locked=True)
        free = rows.filter(pk__in=ids, waiting_since__isnull=since is not None).order_by("pk")
        JobGroup.objects.filter(pk__in=list(free.values_list("pk", flat=True))).order_by().update(
            waiting_since=since
        )


@retried_transaction
def group_next(*, group_id: str, in_level: bool) -> None:
    """Bring a group to the front of its level, or else of the groups of its submitter.

    Raises ``GroupNotFound``, or ``GroupEnded``.
    """
    own = _own_groups(group_id)
    if in_level:
        JobGroup.objects.filter(pk=group_id).update(front_at=now())
    else:
        first: dt.datetime = own.aggregate(at=Min(Coalesce("ordered_at", F("created_at"))))["at"]
        JobGroup.objects.filter(pk=group_id).update(ordered_at=first - _STEP)
    _report(group_id, in_level=in_level)


@retried_transaction
def group_move(*, group_id: str, before: str) -> None:
    """Place a group directly before another one of its submitter.

    Raises ``GroupNotFound``, ``GroupEnded``, or ``FieldInvalid`` if ``before`` is no open group of
    the submitter.
    """
    own = _own_groups(group_id).exclude(pk=group_id)
    other = own.filter(pk=before).first()
    if other is None:
        message = "Must be another group of the same submitter that has not ended."
        raise FieldInvalid("before", message)
    at = other.ordered_at or _queued_at(other)
    JobGroup.objects.filter(pk=group_id).update(ordered_at=(at := at - _STEP))
    # Groups that were placed there before move one step forward each.
    placed = own.filter(ordered_at__lte=at, ordered_at__gt=at - _NEAR).order_by("-ordered_at")
    for neighbour in placed.only("ordered_at"):
        if neighbour.ordered_at != at:
            break
        JobGroup.objects.filter(pk=neighbour.pk).update(ordered_at=(at := at - _STEP))
    _report(group_id, before=before)


def _report(group_id: str, **place: Any) -> None:
    record(Action.GROUP_BROUGHT_FORWARD, group_id, **place)
    log.publish_changed(group_id)
    log.notify_runners_on_commit(work_only=True)


def _own_groups(group_id: str) -> QuerySet[JobGroup]:
    """Lock a group, and return the open ones of its submitter.

    Raises ``GroupNotFound``, or ``GroupEnded``.
    """
    group = open_group_revise(group_id)
    return open_groups().filter(share_of=group.share_of, submitter=group.submitter).order_by()


def _queued_at(group: JobGroup) -> dt.datetime:
    """Return when the first waiting jobs of a group were queued, as the order counts it."""
    queued = [
        rows.aggregate(at=Min("queued_at"))["at"]
        for rows in (group.variants.all(), group.children.filter(status=ChildStatus.QUEUED))
    ]
    return min(filter(None, queued), default=group.created_at)


@retried_transaction
def submitter_change(*, name: str, **columns: float | None) -> None:
    """Set some of the columns of a submitter.

    These are ``weight``, to which its share is in proportion (positive), and ``max_running`` and
    ``max_queued`` (None: any number).
    """
    Submitter.objects.update_or_create(name=name, defaults=columns)
    details: dict[str, Any] = {key: value or "any" for key, value in columns.items()}
    record(Action.SUBMITTER_CHANGED, name, **details)
    log.notify_runners_on_commit(work_only=True)
