"""Deletes old groups with everything that belongs to them, on request only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Final

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet, Sum

from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.clock import now
from jobgroups.models import (
    AbandonedPrompt,
    AssetUse,
    Attempt,
    Capture,
    ChildJob,
    JobEvent,
    JobGroup,
    ReportedFile,
    StoredFile,
)
from jobgroups.services.submission import IDEMPOTENCY_TTL

#: Younger groups are always kept: their idempotency keys are still valid, and their prompts may still appear at a
#: backend.
YOUNGEST: Final = IDEMPOTENCY_TTL
#: A transaction deletes so many children at most (or one group): others wait for it.
_CHILDREN_AT_ONCE: Final = 500
_GROUPS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Purged:
    """How much was deleted, or would be."""

    groups: int = 0
    children: int = 0
    attempts: int = 0
    events: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def groups_purgeable(*, before: dt.datetime, starred: bool) -> Purged:
    """Count what :func:`groups_purge` would delete."""
    groups = _purgeable(before, starred=starred)
    return Purged(
        groups=groups.count(),
        children=groups.order_by().aggregate(Sum("total_count"))["total_count__sum"] or 0,
        attempts=Attempt.objects.filter(child__group__in=groups).count(),
        events=JobEvent.objects.filter(group__in=groups).count(),
    )


def files_purgeable(*, before: dt.datetime, starred: bool) -> tuple[int, int]:
    """Return number and bytes of the files that no job needs after :func:`groups_purge`."""
    kept = Capture.objects.filter(file=OuterRef("pk")).exclude(child__group__in=_purgeable(before, starred=starred))
    found = StoredFile.objects.filter(~Exists(kept)).aggregate(Count("pk"), Sum("size_bytes"))
    return found["pk__count"], found["size_bytes__sum"] or 0


def groups_purge(*, before: dt.datetime, starred: bool) -> Iterator[Purged]:
    """Delete the groups that ended before a time, oldest first; yield what each transaction deleted.

    A group stays while anything of it may still run, also one that is opened again meanwhile. ``starred``: those with a
    starred child, too. Raises ``ValueError`` if ``before`` is later than ``YOUNGEST`` ago.
    """
    if before > now() - YOUNGEST:
        raise ValueError(f"Groups are kept for {YOUNGEST} at least.")
    return _purged(before, starred=starred)


def _purged(before: dt.datetime, *, starred: bool) -> Iterator[Purged]:
    """Go through the groups by their age, so that one that cannot be deleted now is passed."""
    passed: tuple[dt.datetime, str] | None = None
    while True:
        rows = _purgeable(before, starred=starred).order_by("created_at", "id")
        if passed is not None:
            # Those of the very same moment come again; that they are gone is no error.
            rows = rows.filter(created_at__gte=passed[0]).exclude(created_at=passed[0], id__lte=passed[1])
        found = list(rows.values_list("id", "total_count", "created_at")[:_GROUPS_AT_ONCE])
        if not found:
            return
        batch = _batch(found)
        passed = batch[-1][2], batch[-1][0]
        yield _delete([group_id for group_id, _, _ in batch], before, starred)


def _batch(found: Sequence[tuple[str, int, dt.datetime]]) -> list[tuple[str, int, dt.datetime]]:
    """Return the first group, and those behind it that fit into one transaction with it."""
    batch, children = [found[0]], found[0][1]
    for group in found[1:]:
        children += group[1]
        if children > _CHILDREN_AT_ONCE:
            break
        batch.append(group)
    return batch


@retry_on_conflict
def _delete(group_ids: Sequence[str], before: dt.datetime, starred: bool) -> Purged:
    with transaction.atomic():
        # The lock of every writer: a retry that opens one of them comes first, or finds it gone.
        locked = JobGroup.objects.select_for_update().filter(pk__in=group_ids).order_by("pk")
        held = {group.pk for group in locked}
        groups = list(_purgeable(before, starred=starred).filter(pk__in=held))
        children = ChildJob.objects.filter(group__in=groups)
        attempts = Attempt.objects.filter(child__group__in=groups)
        events = JobEvent.objects.filter(group__in=groups)
        ReportedFile.objects.filter(attempt__in=attempts).delete()
        AssetUse.objects.filter(group__in=groups).delete()
        Capture.objects.filter(child__in=children).delete()
        # Leaves first: attempts and children name each other.
        children.update(current_attempt=None)
        counted = Purged(
            events=events.delete()[0], attempts=attempts.delete()[0], children=children.delete()[0], groups=len(groups)
        )
        JobGroup.objects.filter(pk__in=[group.pk for group in groups]).delete()
    return counted


def _purgeable(before: dt.datetime, *, starred: bool) -> QuerySet[JobGroup]:
    """Return the finished groups of which nothing may still run, or turn up, anywhere."""
    of_group = OuterRef("pk")
    running = Attempt.objects.filter(child__group=of_group, ended_at__isnull=True)
    abandoned = AbandonedPrompt.objects.filter(attempt__child__group=of_group)
    groups = JobGroup.objects.filter(completed_at__lt=before, created_at__lt=before)
    groups = groups.filter(~Exists(running), ~Exists(abandoned))
    if starred:
        return groups
    return groups.filter(~Exists(ChildJob.objects.filter(group=of_group, starred=True)))
