"""Reads groups of one job of the pool, which are the jobs of the Comfy API v2."""

import datetime as dt
from collections.abc import Mapping
from typing import Final, Self

from django.db.models import Prefetch, QuerySet

from jobgroups.domain.access import Principal
from jobgroups.domain.clock import now
from jobgroups.domain.states import ChildStatus, Placement
from jobgroups.errors import ChildNotFound
from jobgroups.models import LONG, Capture, ChildJob, JobGroup, StoredFile
from jobgroups.queries.groups import Page, read_page
from jobgroups.queries.pool import current_pool
from jobgroups.queries.visibility import visible

#: For so long a completed job is open while its files are copied, and a cancelled one while its
#: prompt is stopped.
_STORED_WITHIN: Final = dt.timedelta(seconds=10)
_STOPPED_WITHIN: Final = dt.timedelta(seconds=60)


class SingleJob:
    def __init__(self, group: JobGroup) -> None:
        self.group = group
        (self.child,) = group.children.all()
        self._captures = list(self.child.captures.all())

    @classmethod
    def read(cls, group_id: str) -> Self:
        group = _groups().filter(pk=group_id).first()
        if group is None or not group.children.all():
            raise ChildNotFound(group_id)
        return cls(group)

    @property
    def stored_files(self) -> dict[int, StoredFile]:
        return {
            capture.number: capture.file for capture in self._captures if capture.file is not None
        }

    @property
    def is_storing(self) -> bool:
        """Whether it has completed and its files are being copied."""
        is_pending = any(capture.due_at is not None for capture in self._captures)
        return (
            self.child.status == ChildStatus.COMPLETED
            and is_pending
            and self._ended_within(_STORED_WITHIN)
        )

    @property
    def is_stopping(self) -> bool:
        """Whether it was cancelled and its prompt is being stopped."""
        attempt = self.child.current_attempt
        is_active = attempt is not None and attempt.is_stopping
        return (
            self.child.status == ChildStatus.CANCELLED
            and is_active
            and self._ended_within(_STOPPED_WITHIN)
        )

    def _ended_within(self, limit: dt.timedelta) -> bool:
        return self.child.completed_at is not None and now() - self.child.completed_at < limit

    @property
    def queue_position(self) -> int | None:
        """The number of jobs of the pool before it, 0 if a backend has it; None: it is not queued."""
        child = self.child
        if child.status != ChildStatus.QUEUED:
            return None
        if child.is_bound or child.current_attempt is not None or child.variant_id is None:
            return 0
        return current_pool([child.variant_id]).snapshot.ahead_of(child.variant_id)


def _groups() -> QuerySet[JobGroup]:
    children = ChildJob.objects.select_related("current_attempt")
    captures = Prefetch("children__captures", Capture.objects.select_related("file"))
    rows = JobGroup.objects.filter(placement=Placement.POOL, total_count=1)
    return rows.prefetch_related(Prefetch("children", children), captures)


def single_jobs(
    principal: Principal, *, metadata: Mapping[str, str], cursor: str | None, limit: int
) -> Page:
    """Return a page of :class:`SingleJob` that a principal sees, newest first; those whose group
    has these labels.

    Raises ``InvalidRequest`` for a cursor that no page gave.
    """
    rows = _groups().filter(visible(principal)).defer(*LONG)
    for key, value in metadata.items():
        rows = rows.filter(labels__key=key, labels__value=value)
    return read_page(rows, SingleJob, cursor=cursor, limit=limit)
