"""Deletes ended groups with everything that belongs to them: on request, and by the retention.

:func:`_purgeable` decides what the retention deletes. Rows are deleted before their files:
``files_collect`` deletes those that a killed process leaves.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum, Value

from jobgroups.database.locks import lock_of_database
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.text import gibibytes
from jobgroups.events import log
from jobgroups.models import (
    AssetUse,
    Attempt,
    Capture,
    ChildJob,
    DeletedSubmission,
    JobEvent,
    JobGroup,
    ReportedFile,
    StoredFile,
)
from jobgroups.services.audit import record
from jobgroups.services.captures import files_collect
from jobgroups.services.submission import IDEMPOTENCY_TTL

logger = logging.getLogger(__name__)

#: The retention keeps younger groups: their prompts may still appear at a backend.
YOUNGEST: Final = IDEMPOTENCY_TTL
#: A transaction deletes so many children at most (or one group): others wait for it.
_CHILDREN_AT_ONCE: Final = 500
_GROUPS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what is kept; an absent one deletes nothing. ``retention_days`` of a group replaces
    ``age``.

    ``groups``: those that ended last stay. ``size_bytes``: of captured files. ``starred``: groups
    with a star go, too.
    """

    age: dt.timedelta | None = None
    groups: int = 0
    size_bytes: int = 0
    starred: bool = False


@dataclass(frozen=True, slots=True)
class Purged:
    """How much was deleted, or would be."""

    groups: int = 0
    children: int = 0
    files: int = 0
    bytes: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def retention() -> Limits:
    return Limits(
        age=dt.timedelta(days=settings.DIRECTOR_RETENTION_DAYS) or None,
        groups=settings.DIRECTOR_RETENTION_GROUPS,
        size_bytes=settings.DIRECTOR_RETENTION_BYTES,
    )


def retention_apply() -> Iterator[Purged]:
    """Delete what the retention does not keep, as :func:`groups_purge` does, unless another process
    does so now.
    """
    lock = lock_of_database("retention")
    total = Purged()
    try:
        parts = groups_purge(retention())
        has_lock = lock.try_acquire()
        while has_lock and lock.ensure_held() and (purged := next(parts, None)):
            total += purged
            yield purged
    finally:
        lock.release()
        if total.groups:
            logger.info(
                "Retention: %d groups deleted, %s of files", total.groups, gibibytes(total.bytes)
            )


def groups_purgeable(limits: Limits) -> tuple[Purged, list[dict[str, Any]]]:
    """Count what :func:`groups_purge` would delete; return also ``id``, ``completed_at`` and
    ``reason`` of each group.
    """
    groups = _purgeable(limits)
    files = StoredFile.objects.filter(~_captured_outside(groups))
    counted = Purged(
        groups=groups.count(),
        children=groups.aggregate(Sum("total_count"))["total_count__sum"] or 0,
        files=files.count(),
        bytes=_size(files),
    )
    return counted, list(groups.order_by("created_at", "id").values("id", "completed_at", "reason"))


def groups_purge(limits: Limits) -> Iterator[Purged]:
    """Delete the groups that are beyond the limits, oldest first; yield what each transaction
    deleted, with its files.

    A group stays while anything of it may still run, also one that is opened again meanwhile.
    """
    groups = _purgeable(limits)
    # By age, so that a group that cannot be deleted now is passed.
    rows = following = groups.order_by("created_at", "id")
    while groups_of_batch := list(
        following.values_list("id", "total_count", "created_at")[:_GROUPS_AT_ONCE]
    ):
        # The first group, and those behind it that fit into one transaction with it.
        children = itertools.accumulate(total for _, total, _ in groups_of_batch)
        batch = [
            row
            for row, total in zip(groups_of_batch, children, strict=True)
            if total <= _CHILDREN_AT_ONCE
        ] or groups_of_batch[:1]
        group_id, _, created_at = batch[-1]
        # Those of the very same moment come again; that they are gone is no error.
        following = rows.filter(created_at__gte=created_at).exclude(
            created_at=created_at, id__lte=group_id
        )
        count, children_count, file_ids = groups_delete([row for row, _, _ in batch], groups)
        yield Purged(count, children_count, *files_collect(file_ids))


@retried_transaction
def groups_delete(
    group_ids: Sequence[str], deletable: QuerySet[JobGroup]
) -> tuple[int, int, list[str]]:
    """Delete those that are still deletable; return the number of groups and of children, and the
    ids of their files.

    The files are to be deleted afterwards. A valid idempotency key is kept. Open pages are
    notified.
    """
    # The locks of every writer: a retry that opens a group, or a star, comes first, or finds it
    # gone.
    for model, key in ((JobGroup, "pk__in"), (ChildJob, "group__in")):
        list(
            model.objects.select_for_update()
            .filter(**{key: group_ids})
            .order_by("pk")
            .values_list("pk")
        )
    groups = list(deletable.filter(pk__in=group_ids).values_list("pk", flat=True))
    children = ChildJob.objects.filter(group__in=groups)
    attempts = Attempt.objects.filter(child__group__in=groups)
    captures = Capture.objects.filter(child__in=children)
    file_ids = set(captures.filter(file__isnull=False).values_list("file_id", flat=True))
    ReportedFile.objects.filter(attempt__in=attempts).delete()
    AssetUse.objects.filter(group__in=groups).delete()
    captures.delete()
    # Leaves first: attempts and children name each other.
    children.update(current_attempt=None)
    JobEvent.objects.filter(group__in=groups).delete()
    # Nothing refers to them now: Django would load each row to find that out.
    attempts._raw_delete(attempts.db)  # noqa: SLF001
    count = children._raw_delete(children.db) or 0  # noqa: SLF001
    _keep_keys(groups)
    JobGroup.objects.filter(pk__in=groups).delete()
    for group_id in groups:
        record(Action.GROUP_DELETED, group_id)
        log.publish_changed(group_id)
    return len(groups), count, list(file_ids)


def _keep_keys(group_ids: Sequence[str]) -> None:
    """Keep the idempotency keys of groups that a repeated request may have; forget those that are
    too old.
    """
    oldest = now() - IDEMPOTENCY_TTL
    DeletedSubmission.objects.filter(created_at__lte=oldest).delete()
    names = ("submitter", "idempotency_key", "idempotency_digest", "created_at")
    valid = JobGroup.objects.filter(
        pk__in=group_ids, idempotency_key__isnull=False, created_at__gt=oldest
    )
    DeletedSubmission.objects.bulk_create(
        DeletedSubmission(**columns) for columns in valid.values(*names)
    )


def ended_groups() -> QuerySet[JobGroup]:
    """Return the groups that have ended, and of which no prompt may still run, or turn up,
    anywhere.
    """
    active = unfinished_attempts().filter(child__group=OuterRef("pk"))
    return JobGroup.objects.filter(~Exists(active), completed_at__isnull=False)


def unfinished_attempts() -> QuerySet[Attempt]:
    """Return the attempts whose prompts may still run, or turn up, at their backends."""
    return Attempt.objects.filter(Q(ended_at__isnull=True) | Q(abandoned__isnull=False))


def _purgeable(limits: Limits) -> QuerySet[Any]:
    """Return the groups that are beyond a limit now, with the first such limit as the ``reason``.

    They have ended (:func:`ended_groups`), and no star keeps them.
    """
    moment, of_group = now(), OuterRef("pk")
    deletable = ended_groups().filter(
        completed_at__lt=moment - YOUNGEST, created_at__lt=moment - YOUNGEST
    )
    if not limits.starred:
        deletable = deletable.filter(~Exists(ChildJob.objects.filter(group=of_group, starred=True)))

    days = models.ExpressionWrapper(
        models.F("retention_days") * dt.timedelta(days=1), models.DurationField()
    )
    own_end = models.ExpressionWrapper(
        Value(moment, models.DateTimeField()) - days, models.DateTimeField()
    )
    beyond = {"days": Q(retention_days__isnull=False, completed_at__lt=own_end)}
    if limits.age is not None:
        beyond["days"] |= Q(retention_days__isnull=True, completed_at__lt=moment - limits.age)
    if limits.groups:
        ends = JobGroup.objects.filter(completed_at__isnull=False).order_by("-completed_at")
        for end in ends.values_list("completed_at", flat=True)[limits.groups - 1 : limits.groups]:
            beyond["groups"] = Q(completed_at__lt=end)
    groups = _beyond(deletable, beyond)
    if limits.size_bytes and (end := _end_of_excess(deletable, groups, limits.size_bytes)):
        captured = Capture.objects.filter(child__group=of_group, file__isnull=False)
        groups = _beyond(deletable, beyond | {"bytes": Q(Exists(captured), completed_at__lte=end)})
    return groups


def _beyond(groups: QuerySet[JobGroup], limits: Mapping[str, Q]) -> QuerySet[Any]:
    reason = models.Case(
        *(models.When(beyond, then=Value(name)) for name, beyond in limits.items())
    )
    return groups.annotate(reason=reason).filter(reason__isnull=False)


def _end_of_excess(
    deletable: QuerySet[JobGroup], gone: QuerySet[JobGroup], size_bytes: int
) -> dt.datetime | None:
    """Return the end of the last group that must go so that the files of the others fit; None if
    they do.
    """
    files = StoredFile.objects.filter(_captured_outside(gone))
    excess = _size(files) - size_bytes
    end = None
    if excess > 0:
        # A file goes with the last group that has it.
        files = files.filter(~_captured_outside(deletable)).annotate(
            last=models.Max("captures__child__group__completed_at")
        )
        for last, size in files.order_by("last").values_list("last", "size_bytes").iterator():
            end, excess = last, excess - size
            if excess <= 0:
                break
    return end


def files_of(group_id: str) -> tuple[int, int]:
    """Return the number and bytes of the captured files that no other group has."""
    captured = Capture.objects.filter(child__group=group_id, file__isnull=False)
    group = JobGroup.objects.filter(pk=group_id)
    files = StoredFile.objects.filter(~_captured_outside(group), pk__in=captured.values("file"))
    return files.count(), _size(files)


def _captured_outside(groups: QuerySet[JobGroup]) -> Exists:
    """Return the condition that a file is captured for a job of another group."""
    return Exists(
        Capture.objects.filter(file=OuterRef("pk")).exclude(child__group__in=groups.values("pk"))
    )


def _size(files: QuerySet[StoredFile]) -> int:
    return files.aggregate(Sum("size_bytes"))["size_bytes__sum"] or 0
