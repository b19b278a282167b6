"""The one door: a transaction on a group, its lock order, its fence, its events, its status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import stamina
from django.db import OperationalError, connection, transaction
from django.db.models import Count

from jobgroups import events
from jobgroups.aggregate import Counts, group_status
from jobgroups.clock import now
from jobgroups.errors import GroupNotFound, LeaseLost
from jobgroups.models import Attempt, ChildJob, JobGroup, Lease
from jobgroups.states import (
    CHILD_FINAL,
    AttemptState,
    ChildStatus,
    StopReason,
    attempt_sources_of,
    sources_of,
)

P = ParamSpec("P")
R = TypeVar("R")

#: PostgreSQL: deadlock, serialization failure, lock not available.
_CONFLICTS: Final = frozenset({"40P01", "40001", "55P03"})


@dataclass(frozen=True, slots=True)
class Fence:
    """A runner's right to write about a backend: valid while the lease has this epoch."""

    backend_id: str
    epoch: int


def _is_conflict(error: Exception) -> bool:
    if not isinstance(error, OperationalError) or connection.in_atomic_block:
        return False
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return sqlstate in _CONFLICTS or "database is locked" in str(error)


def unit_of_work(function: Callable[P, R]) -> Callable[P, R]:
    """Run the function again where the database gave it up for another writer's sake."""
    return stamina.retry(on=_is_conflict, attempts=8, wait_initial=0.01, wait_max=0.5)(function)


def check_fence(fence: Fence | None) -> None:
    """Hold the lease's row until commit and compare its epoch.

    Read, then compared here: an epoch compared inside the UPDATE's subquery would be judged on the
    row as it was before a takeover that this statement had to wait for.

    Raises:
        LeaseLost: the backend is another runner's now, or it was deleted.
    """
    if fence is None:
        return
    lock = " FOR SHARE" if connection.vendor == "postgresql" else ""
    table = Lease._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT epoch FROM {table} WHERE backend_id = %s{lock}",  # noqa: S608 no input in it
            [fence.backend_id],
        )
        row = cursor.fetchone()
    if row is None or row[0] != fence.epoch:
        raise LeaseLost(fence.backend_id, fence.epoch)


class GroupWrite:
    """What may be done to a group while its row is locked. Made by :func:`group_transaction`."""

    def __init__(self, group: JobGroup) -> None:
        self.group = group
        self._events: list[events.NewEvent] = []
        self._moved = False

    def add(self, event: events.NewEvent) -> None:
        """Have an event recorded when the transaction ends."""
        self._events.append(event)

    def children(self, **conditions: Any) -> list[ChildJob]:
        """Return the group's children in order, as they are under the lock."""
        return list(
            ChildJob.objects.filter(group_id=self.group.id, **conditions).order_by("position")
        )

    def move_child(
        self, child: ChildJob, to: ChildStatus, *, attempt: Attempt | None = None, **fields: Any
    ) -> bool:
        """Move a child if its stored status allows it; name the fields that go along.

        Args:
            child: updated in memory too where the move was made.
            to: the status to move to.
            attempt: the move is this attempt's: it must be the child's current one.
            fields: columns to set in the same statement.

        Returns:
            Whether this call moved it. False: another writer got there first.
        """
        if to in CHILD_FINAL:
            fields.setdefault("completed_at", now())
        rows = ChildJob.objects.filter(pk=child.pk, status__in=sources_of(to))
        if attempt is not None:
            rows = rows.filter(current_attempt_id=attempt.pk)
        if not rows.update(status=to, **fields):
            return False
        for name, value in {"status": to.value, **fields}.items():
            setattr(child, name, value)
        self._moved = True
        return True

    def move_attempt(self, attempt: Attempt, to: AttemptState, **fields: Any) -> bool:
        """Move an attempt if its stored state allows it, and return whether this call did."""
        rows = Attempt.objects.filter(pk=attempt.pk, state__in=attempt_sources_of(to))
        if not rows.update(state=to, **fields):
            return False
        for name, value in {"state": to.value, **fields}.items():
            setattr(attempt, name, value)
        return True

    def owe_stop(self, attempts: Sequence[int], reason: StopReason) -> int:
        """Mark active attempts to be stopped; the first reason stays. Returns how many."""
        active = Attempt.objects.filter(
            pk__in=attempts, ended_at__isnull=True, stop_requested_at__isnull=True
        )
        return active.update(stop_requested_at=now(), stop_reason=reason)

    def derive_anew(self) -> None:
        """Have the group's status derived although no child was moved through here."""
        self._moved = True

    def close(self) -> None:
        """Derive the group from its children, and record the events."""
        if self._moved:
            self._derive()
        if self._events:
            events.record(self.group, self._events)

    def _derive(self) -> None:
        group = self.group
        rows = ChildJob.objects.filter(group_id=group.id).values_list("status")
        by_status = {
            ChildStatus(status): count for status, count in rows.order_by().annotate(Count("id"))
        }
        counts = Counts.from_mapping(by_status)
        group.status = group_status(
            by_status,
            cancelled=group.cancelled_at is not None,
            claimed=group.claimed,
            accepted_without_runner=group.accepted_without_runner,
        ).value
        group.completed_count = counts.completed
        group.failed_count = counts.failed
        group.cancelled_count = counts.cancelled
        ended = counts.all_final and group.completed_at is None
        if ended:
            group.completed_at = now()
        group.save(
            update_fields=[
                "status",
                "completed_count",
                "failed_count",
                "cancelled_count",
                "completed_at",
                "claimed",
                "cancelled_at",
            ]
        )
        if ended:
            self.add(events.group_complete(group, self.children()))


@contextmanager
def group_transaction(group_id: str, *, fence: Fence | None = None) -> Iterator[GroupWrite]:
    """Open a transaction that holds the lease (if fenced) and the group's row, in this order.

    Raises:
        LeaseLost: the fence is no longer valid; nothing was written.
        GroupNotFound: there is no such group.
    """
    with transaction.atomic():
        check_fence(fence)
        group = JobGroup.objects.select_for_update().filter(pk=group_id).first()
        if group is None:
            raise GroupNotFound(group_id)
        write = GroupWrite(group)
        yield write
        write.close()
