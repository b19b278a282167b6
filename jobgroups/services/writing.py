"""The one door: a transaction on a group, its lock order, its fence, its events, its status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import stamina
from django.db import OperationalError, connection, transaction

from jobgroups.database.statements import KEY, PreparedQuery, update_where
from jobgroups.domain.clock import now
from jobgroups.domain.states import (
    CHILD_FINAL,
    CHILD_RETRIED,
    AttemptState,
    ChildStatus,
    Counts,
    StopReason,
    attempt_sources_of,
    group_status,
    sources_of,
)
from jobgroups.errors import GroupNotFound, LeaseLost
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, JobGroup, Lease
from jobgroups.services import notices, quarantine

P = ParamSpec("P")
R = TypeVar("R")

#: How long a runner's write waits for a row that somebody else has; then it is tried again.
LOCK_TIMEOUT: Final = "3s"
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
    row as it was before a takeover that this statement had to wait for. A takeover locks the row as a
    whole (``FOR UPDATE``), and waits for those who write under it; a renewal need not.

    Raises:
        LeaseLost: the backend is another runner's now, or it was deleted.
    """
    if fence is None:
        return
    epochs = _held_epochs([fence.backend_id])
    if epochs.get(fence.backend_id) != fence.epoch:
        raise LeaseLost(fence.backend_id, fence.epoch)


def fences_that_hold(fences: Set[Fence]) -> Set[Fence]:
    """Hold the rows of many leases until commit, and return the fences that are valid."""
    epochs = _held_epochs(sorted({fence.backend_id for fence in fences}))
    return {fence for fence in fences if epochs.get(fence.backend_id) == fence.epoch}


def _held_epochs(backend_ids: Sequence[str]) -> dict[str, int]:
    on_postgres = connection.vendor == "postgresql"
    # With the rows, for the rest of the transaction: one that waits for a row of a process that stands
    # still, and stands still itself, must not hold its lease's row for longer than the lease.
    limit = f", set_config('lock_timeout', '{LOCK_TIMEOUT}', true)" if on_postgres else ""
    marks = ", ".join(["%s"] * len(backend_ids))
    query = (
        f"SELECT backend_id, epoch{limit} FROM {Lease._meta.db_table}"  # noqa: S608 no input in it
        f" WHERE backend_id IN ({marks}) ORDER BY backend_id"
    )
    if not backend_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(query + (" FOR KEY SHARE" if on_postgres else ""), list(backend_ids))
        return {row[0]: row[1] for row in cursor.fetchall()}


class GroupWrite:
    """What may be done to a group while its row is locked. Made by :func:`group_transaction`."""

    def __init__(self, group: JobGroup) -> None:
        self.group = group
        self._events: list[log.NewEvent] = []
        self._moved = False

    def add(self, event: log.NewEvent) -> None:
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
        current = {} if attempt is None else {"current_attempt_id": [attempt.pk]}
        moved = {"status": to, **fields}
        if not update_where(ChildJob, child.pk, moved, status=sources_of(to), **current):
            return False
        for name, value in {"status": to.value, **fields}.items():
            setattr(child, name, value)
        self._moved = True
        return True

    def open_run(self) -> None:
        """Open the group's next run: it has no end yet, and nobody cancelled it."""
        self.group.run += 1
        self.group.completed_at = None
        self.group.cancelled_at = None
        self._moved = True

    def queue_again(self, child: ChildJob, *, backend_id: str, moment: dt.datetime) -> bool:
        """Queue a child that a person retries: in the next run, or within this one after it failed.

        Its attempts stay, and so does their number. Returns whether this call queued it: one that
        completed keeps its result.
        """
        fields: dict[str, Any] = {
            "status": ChildStatus.QUEUED.value,
            "run": self.group.run,
            "backend_id": backend_id,
            "current_attempt_id": None,
            "uncounted_attempts": 0,
            "not_before": None,
            "progress": 0.0,
            "current_step": None,
            "steps_completed": 0,
            "steps_total": 0,
            "outputs_json": None,
            "error_message": None,
            "error_type": None,
            "error_details_json": None,
            "failure_class": "",
            "warnings_json": "[]",
            "queued_at": moment,
            "started_at": None,
            "completed_at": None,
        }
        if not ChildJob.objects.filter(pk=child.pk, status__in=CHILD_RETRIED).update(**fields):
            return False
        for name, value in fields.items():
            setattr(child, name, value)
        self._moved = True
        return True

    def move_attempt(self, attempt: Attempt, to: AttemptState, **fields: Any) -> bool:
        """Move an attempt if its stored state allows it, and return whether this call did."""
        moved = {"state": to, **fields}
        if not update_where(Attempt, attempt.pk, moved, state=attempt_sources_of(to)):
            return False
        known = attempt.failure_class
        for name, value in {"state": to.value, **fields}.items():
            setattr(attempt, name, value)
        # Here, so that no end can be stored without it, and before anybody decides what follows. A
        # failure that was told before the end, when its stop was asked for, is no news by now.
        if not known or attempt.failure_class != known:
            quarantine.take_in(attempt)
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
            log.append_events(self.group, self._events)

    def _derive(self) -> None:
        group = self.group
        with connection.cursor() as cursor:
            cursor.execute(_COUNT, [group.id])
            by_status = {ChildStatus(status): count for status, count in cursor.fetchall()}
        counts = Counts.from_mapping(by_status)
        group.status = group_status(
            by_status,
            cancelled=group.cancelled_at is not None,
            claimed=group.has_claimed_child,
            accepted_without_runner=group.accepted_without_runner,
        ).value
        group.completed_count = counts.completed
        group.failed_count = counts.failed
        group.cancelled_count = counts.cancelled
        ended = counts.all_final and group.completed_at is None
        if ended:
            group.completed_at = now()
        update_where(JobGroup, group.pk, {name: getattr(group, name) for name in _DERIVED})
        if ended:
            children = _children_of(group.id)
            self.add(log.group_complete(group, children))
            notices.group_ended(group, children)


#: Written out, as the events' statement is.
_COUNT: Final = (
    f"SELECT status, COUNT(*) FROM {ChildJob._meta.db_table} WHERE group_id = %s GROUP BY status"  # noqa: S608 a name of ours
)
#: What is derived of a group, or set with it.
_DERIVED: Final = (
    "status",
    "run",
    "completed_count",
    "failed_count",
    "cancelled_count",
    "completed_at",
    "has_claimed_child",
    "cancelled_at",
)
_children_of: Final = PreparedQuery(
    lambda: ChildJob.objects.filter(group_id=KEY).order_by("position")
)
_locked_group: Final = PreparedQuery(
    lambda: JobGroup.objects.select_for_update().filter(pk=KEY).order_by()
)


@contextmanager
def group_transaction(group_id: str, *, fence: Fence | None = None) -> Iterator[GroupWrite]:
    """Open a transaction that holds the lease (if fenced) and the group's row, in this order.

    Raises:
        LeaseLost: the fence is no longer valid; nothing was written.
        GroupNotFound: there is no such group.
    """
    with transaction.atomic():
        check_fence(fence)
        group = _locked_group.first(group_id)
        if group is None:
            raise GroupNotFound(group_id)
        write = GroupWrite(group)
        yield write
        write.close()
