"""GroupTransaction: guarded transitions, events and the derived status of a group whose row is
locked.
"""

import datetime as dt
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from django.db import connection
from django.db.models import Model

from backends.comfyui.texts import one_line
from jobgroups import metrics
from jobgroups.database.statements import KEY, PreparedQuery, update_where
from jobgroups.domain.clock import now
from jobgroups.domain.states import (
    CHILD_FINAL,
    CHILD_OPEN,
    CHILD_RETRIED,
    AttemptState,
    ChildStatus,
    Counts,
    StopReason,
    attempt_sources_of,
    group_status,
    reaches,
    sources_of,
)
from jobgroups.events import log
from jobgroups.log_context import bound
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.serializers import group_level

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 1_000  #: Children of one statement.
#: The columns of a child that is queued again.
NOT_STARTED: Final = {
    "started_at": None,
    "progress": 0.0,
    "current_step": None,
    "steps_completed": 0,
    "steps_total": 0,
}
#: ``stopped_by`` of the children that the condition of their group cancelled.
STOP_WHEN: Final = "stop_when"


def update_row(row: Model, fields: Mapping[str, Any], **allowed: Collection[Any]) -> bool:
    """Update a row as ``update_where`` does, and in memory; return whether this call did."""
    if not update_where(type(row), row.pk, fields, **allowed):
        return False
    for name, value in fields.items():
        setattr(row, name, value)
    return True


def observe_wait(group: JobGroup, child: ChildJob, attempt: Attempt) -> None:
    """Record for the metrics how long a child waited whose attempt starts."""
    since = max(child.queued_at, child.not_before or child.queued_at)
    metrics.observe_wait(
        since,
        attempt.started_at or since,
        is_bound=child.is_bound,
        level=group_level(group),
        submitter=group.share_of or group.submitter,
    )


class GroupTransaction:
    """The changes to a group while its row is locked. Made by ``transactions.group_transaction``."""

    def __init__(self, group: JobGroup) -> None:
        self.group = group
        self.kept: dict[str, Any] = {}  #: What services read once for all its children.
        self._events: list[log.NewEvent] = []
        self._changed = False
        self._is_revised = False

    def add_event(self, event: log.NewEvent) -> None:
        """Store an event when the transaction ends."""
        self._events.append(event)

    def children(self, *, limit: int | None = None, **conditions: Any) -> list[ChildJob]:
        """Lock the rows of the group's children, and return them in order. A claim locks its
        child's row alone.
        """
        rows = ChildJob.objects.filter(group_id=self.group.id, **conditions).order_by("position")
        return list(rows.select_for_update(of=("self",))[:limit])

    def move_child(
        self, child: ChildJob, to: ChildStatus, *, attempt: Attempt | None = None, **fields: Any
    ) -> bool:
        """Move a child if its stored status allows it, and set ``fields`` in the same statement,
        also in memory.

        With ``attempt`` the move is made only if this is the child's current attempt. Returns
        whether this call moved it: another writer may have been first.
        """
        if to in CHILD_FINAL:
            fields.setdefault("completed_at", now())
        current = {} if attempt is None else {"current_attempt_id": [attempt.pk]}
        moved = update_row(child, {"status": to.value, **fields}, status=sources_of(to), **current)
        # The status and the counts of the group do not tell queued children from running ones.
        self._changed |= moved and to in CHILD_FINAL
        self._is_revised |= moved
        if moved and to in CHILD_FINAL:
            metrics.count_on_commit(metrics.jobs, to.value)
        if moved and to in (ChildStatus.FAILED, ChildStatus.TIMEOUT):
            if attempt is None:
                metrics.count_on_commit(
                    metrics.failures, child.failure_class, child.backend_id or ""
                )
            number = child.attempt_count if attempt is None else attempt.number
            with bound(job=child.id, attempt=number, backend=child.backend_id):
                cause = one_line(child.error_message or "")
                logger.info(
                    "%s: %s as %s (%s)",
                    child.id,
                    to,
                    child.failure_class or child.error_type,
                    cause,
                )
        return moved

    def start_child(self, child: ChildJob, attempt: Attempt) -> None:
        """Record that the child's attempt has begun to execute it."""
        count = max(child.attempt_count, attempt.number)
        fields = {"started_at": attempt.started_at, "attempt_count": count}
        if self.move_child(child, ChildStatus.RUNNING, attempt=attempt, **fields):
            observe_wait(self.group, child, attempt)
            self.add_event(log.child_started(child, attempt))

    def cancel_children(self, children: Sequence[ChildJob], *, stopped_by: str = "") -> None:
        """Cancel open children of :meth:`children`, and request the stop of their prompts.

        Thousands are cancelled in a few statements. Their rows are locked: a claim that was
        committed before is stopped, a later one finds no queued child.
        """
        fields = {
            "status": ChildStatus.CANCELLED.value,
            "completed_at": now(),
            "stopped_by": stopped_by,
        }
        for first in range(0, len(children), _AT_ONCE):
            some = [child.pk for child in children[first : first + _AT_ONCE]]
            ChildJob.objects.filter(
                pk__in=some, status__in=sources_of(ChildStatus.CANCELLED)
            ).update(**fields)
        for child in children:
            for name, value in fields.items():
                setattr(child, name, value)
            self.add_event(log.child_cancelled(child))
        # Every active attempt, not the current one alone: an older one may still be stopping.
        active = Attempt.objects.filter(child__in=children, ended_at__isnull=True)
        self.request_stop(list(active.values_list("pk", flat=True)), StopReason.CANCEL)
        if children:
            metrics.count_on_commit(metrics.jobs, ChildStatus.CANCELLED.value, by=len(children))
            self._changed = True
            log.notify_runners_on_commit(work_only=True)

    def start_next_run(self) -> None:
        """Start the group's next run: it has not ended and is not cancelled."""
        self.group.run += 1
        self.group.completed_at = None
        self.group.cancelled_at = None
        self._changed = True

    def reset_for_retry(
        self, child: ChildJob, *, backend_id: str | None, moment: dt.datetime
    ) -> bool:
        """Queue a child that a user retries: in the next run, or within this one after it failed.

        Its attempts stay, and so does their number. Without a backend it waits in the pool. Returns
        whether this call queued it: a completed child keeps its result.
        """
        fields: dict[str, Any] = {
            "status": ChildStatus.QUEUED.value,
            "run": self.group.run,
            "backend_id": backend_id,
            "is_bound": backend_id is not None,
            "stopped_by": "",
            "current_attempt_id": None,
            "uncounted_attempts": 0,
            "not_before": None,
            "outputs_json": None,
            "error_message": None,
            "error_type": None,
            "error_details_json": None,
            "failure_class": "",
            "warnings_json": "[]",
            "queued_at": moment,
            "completed_at": None,
            **NOT_STARTED,
        }
        moved = update_row(child, fields, status=CHILD_RETRIED)
        self._changed |= moved
        return moved

    def move_attempt(self, attempt: Attempt, to: AttemptState, **fields: Any) -> bool:
        """Move an attempt if its stored state allows it, and return whether this call did.

        A final state is stored by ``outcomes.close_attempt`` alone."""
        moved = update_row(attempt, {"state": to.value, **fields}, state=attempt_sources_of(to))
        # Answers show active attempts as they were within the last second: an acceptance needs no
        # statement.
        self._is_revised |= moved and to is not AttemptState.ACCEPTED
        return moved

    def request_stop(self, attempts: Sequence[int], reason: StopReason) -> int:
        """Request the stop of active attempts; the first reason stays. Return how many were
        changed.
        """
        active = Attempt.objects.filter(
            pk__in=attempts, ended_at__isnull=True, stop_requested_at__isnull=True
        )
        return active.update(stop_requested_at=now(), stop_reason=reason)

    def mark_changed(self) -> None:
        """Derive the group's status although no child was moved by this object."""
        self._changed = True

    def flush(self) -> list[ChildJob] | None:
        """Update the group's status and store the events; return the children if the group's run
        has ended.
        """
        group, names = self.group, ["seq"]
        children = self._derive_status() if self._changed else None
        if self._changed:
            names += _DERIVED
        if self._events:
            log.append_events((group, self._events))
        elif self._changed or self._is_revised:
            group.revision += 1
            names.append("revision")
        if self._events or len(names) > 1:
            update_where(JobGroup, group.pk, {name: getattr(group, name) for name in names})
        return children

    def _derive_status(self) -> list[ChildJob] | None:
        """Set in memory what is derived of the group; return the children if its run has ended."""
        group = self.group
        before = {"completed": group.completed_count, "failed": group.failed_count}
        counts = self._derive()
        condition = json.loads(group.stop_when_json or "{}")
        if group.stopped_at is None and reaches(condition, before, counts):
            group.stopped_at = now()
            self.cancel_children(self.children(status__in=CHILD_OPEN), stopped_by=STOP_WHEN)
            counts = self._derive()
        ended = counts.all_final and group.completed_at is None
        if ended:
            group.completed_at = now()
        if not ended:
            return None
        children = children_of(group.id)
        self.add_event(log.group_complete(group, children))
        return children

    def _derive(self) -> Counts:
        """Set the group's status and counts in memory, and return the counts."""
        group = self.group
        with connection.cursor() as cursor:
            cursor.execute(_COUNT, [group.id])
            by_status = {ChildStatus(status): count for status, count in cursor.fetchall()}
        stopped = 0
        if group.stopped_at is not None:
            cancelled = ChildJob.objects.filter(group_id=group.id, status=ChildStatus.CANCELLED)
            stopped = cancelled.exclude(stopped_by="").count()
        counts = Counts.from_mapping(by_status)
        group.status = group_status(
            by_status,
            stopped=stopped,
            cancelled=group.cancelled_at is not None,
            claimed=group.has_claimed_child,
            accepted_without_runner=group.accepted_without_runner,
        ).value
        group.completed_count = counts.completed
        group.failed_count = counts.failed
        group.cancelled_count = counts.cancelled
        return counts


#: Written out, as the events' statement is.
_COUNT: Final = (
    f"SELECT status, COUNT(*) FROM {ChildJob._meta.db_table} WHERE group_id = %s GROUP BY status"  # noqa: S608 a name of ours
)
_COUNTS: Final = ("completed_count", "failed_count", "cancelled_count")
#: What is derived of a group, or set with it.
_DERIVED: Final = (
    "status",
    "run",
    *_COUNTS,
    "completed_at",
    "has_claimed_child",
    "cancelled_at",
    "stopped_at",
)
children_of: Final = PreparedQuery(
    lambda: ChildJob.objects.filter(group_id=KEY).order_by("position")
)
