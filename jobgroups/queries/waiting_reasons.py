"""Returns the waiting reason of each queued child, and of each running child whose backend is offline.

The number of queries does not depend on the number of children.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from django.conf import settings
from django.db.models import BooleanField, Count, F, Q
from django.db.models.expressions import RawSQL

from backends.models import Backend
from backends.queries import backend_status, is_offline
from jobgroups.domain import waiting_reasons as waiting
from jobgroups.domain.clock import now
from jobgroups.domain.failures import OVERTAKEN, FailureClass
from jobgroups.domain.retry_policy import RetryPolicy
from jobgroups.domain.states import CHILD_OPEN, ChildStatus, RetryScope, StopReason
from jobgroups.models import Attempt, ChildJob, JobGroup

#: Queueing times per query; the children of a group usually share one.
_MOMENTS_AT_ONCE: Final = 50


def waiting_reasons(group: JobGroup, children: Sequence[ChildJob], *, runner_alive: bool) -> dict[str, str]:
    """Return a sentence for each waiting child, by its id.

    Args:
        group: the group of the children.
        children: all or some children of the group, with their current attempts loaded.
        runner_alive: whether a runner is alive.
    """
    waiting_ones = [one for one in children if one.status in CHILD_OPEN]
    if not waiting_ones:
        return {}
    moment = now()
    backends = Backend.objects.in_bulk({one.backend_id for one in waiting_ones if one.backend_id})
    known = {key: _backend_now(row, moment) for key, row in backends.items()}
    running = [one for one in waiting_ones if one.status == ChildStatus.RUNNING]
    reasons = _offline_reasons(group, running, known, moment) if runner_alive else {}
    queued = [one for one in waiting_ones if one.status == ChildStatus.QUEUED]
    return reasons | _queued_reasons(group, children, queued, known, moment=moment, runner_alive=runner_alive)


def _offline_reasons(
    group: JobGroup, running: Sequence[ChildJob], known: Mapping[str, waiting.QueueBackend], moment: dt.datetime
) -> dict[str, str]:
    """Return the sentence for each running child whose backend does not answer."""
    offline = {key for key, backend in known.items() if backend.is_offline}
    lost = [one for one in running if one.backend_id in offline]
    if not lost:
        return {}
    policy = RetryPolicy.stored(
        max_attempts=group.max_attempts, elsewhere=group.retry_elsewhere, retry_on=group.retry_on
    )
    counted = Attempt.objects.filter(child__in=lost, run=group.run, is_counted=True).order_by()
    charged = dict(counted.values_list("child_id").annotate(Count("id")))
    limit = dt.timedelta(seconds=group.timeout_seconds)
    reasons: dict[str, str] = {}
    for child in lost:
        is_retried = policy.allows(FailureClass.BACKEND_LOST, charged.get(child.id, 0))
        reasons[child.id] = waiting.offline_reason(
            waiting.RunningNow(
                time_is_up=(child.started_at or moment) + limit,
                is_retried=is_retried,
                goes_elsewhere=is_retried and policy.elsewhere is not RetryScope.NEVER,
            ),
            known[child.backend_id or ""],
            now=moment,
        )
    return reasons


def _queued_reasons(
    group: JobGroup,
    children: Sequence[ChildJob],
    queued: Sequence[ChildJob],
    known: Mapping[str, waiting.QueueBackend],
    *,
    moment: dt.datetime,
    runner_alive: bool,
) -> dict[str, str]:
    if not queued:
        return {}
    unsent = [one for one in queued if one.current_attempt_id is None]
    queue = unsent if len(children) == group.total_count else _unsent_children(group)
    positions = _queue_positions(group, queue, unsent)
    stopping = _stopping_attempts(group) if unsent else {}
    limit = dt.timedelta(seconds=settings.DIRECTOR_QUEUED_LIMIT_SECONDS)
    return {
        one.id: waiting.waiting_reason(
            waiting.QueuedChild(
                state=None if one.current_attempt is None else one.current_attempt.state,
                queue_position=positions.get(one.id),
                not_before=one.not_before,
                stopping_at=stopping.get(one.id, ("", ""))[0],
                is_moved=stopping.get(one.id, ("", ""))[1] == StopReason.MOVED,
                goes_elsewhere=group.retry_elsewhere != RetryScope.NEVER,
                ends_at=one.queued_at + limit if one.attempt_count == 0 else None,
                partly_refused=_is_partly_refused(one.current_attempt),
            ),
            known.get(one.backend_id or ""),
            now=moment,
            runner_alive=runner_alive,
        )
        for one in queued
    }


def _is_partly_refused(attempt: Attempt | None) -> bool:
    return attempt is not None and attempt.stop_reason == StopReason.PARTLY_REFUSED


def _backend_now(row: Backend, moment: dt.datetime) -> waiting.QueueBackend:
    return waiting.QueueBackend(
        backend_id=row.id,
        status=backend_status(row, now=moment),
        away_since=row.unreachable_since,
        away_reason=row.status_reason,
        give_up_after=dt.timedelta(seconds=settings.DIRECTOR_GIVE_UP_SECONDS),
        move_after=dt.timedelta(seconds=settings.DIRECTOR_MOVE_AFTER_SECONDS),
        is_offline=is_offline(row, moment),
        quarantine_until=row.quarantine_until,
        foreign=row.queue_foreign,
    )


def _stopping_attempts(group: JobGroup) -> dict[str, tuple[str, str]]:
    """Return backend and stop reason of the earlier attempt that delays each child, by the child's id."""
    older = Attempt.objects.filter(child__group=group, child__current_attempt__isnull=True, ended_at__isnull=True)
    # As in services.claims: a hanging or unreachable attempt does not block a child at another backend.
    overtaken = Q(failure_class__in=OVERTAKEN)
    older = older.exclude(overtaken & ~Q(backend_id=F("child__backend_id")))
    rows = older.values_list("child_id", "backend_id", "stop_reason")
    return {child_id: (backend_id, reason) for child_id, backend_id, reason in rows}


def _unsent_children(group: JobGroup) -> list[ChildJob]:
    unsent = group.children.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True)
    return list(unsent.only("id", "backend_id", "queued_at", "position"))


def _queue_positions(group: JobGroup, own: Iterable[ChildJob], unsent: Sequence[ChildJob]) -> dict[str, int]:
    """Return the position of each unsent child in its backend's queue, from 1.

    The queue has the unsent children of a backend in the order of claims. The database counts those of other
    groups, once for each queueing time; those of this group are in ``own``.
    """
    if not unsent:
        return {}
    queues: dict[str, list[ChildJob]] = defaultdict(list)
    for child in own:
        queues[child.backend_id or ""].append(child)
    before = _count_ahead(group, queues.keys(), {one.queued_at for one in unsent})
    positions: dict[str, int] = {}
    for backend_id, queue in queues.items():
        queue.sort(key=lambda one: (one.queued_at, one.position))
        for ahead, child in enumerate(queue):
            others = before.get((backend_id, child.queued_at))
            if others is not None:
                positions[child.id] = 1 + ahead + others
    return positions


def _count_ahead(
    group: JobGroup, backend_ids: Collection[str], moments: Collection[dt.datetime]
) -> dict[tuple[str, dt.datetime], int]:
    """Return the number of children of other groups before each queueing time, by backend."""
    others = ChildJob.objects.filter(
        # Literal SQL: with the status as a parameter the planner cannot use the partial index, and reads
        # all queued rows.
        RawSQL("status = 'queued' AND current_attempt_id IS NULL", (), BooleanField()),
        backend_id__in=list(backend_ids),
        queued_at__lte=max(moments),
    ).exclude(group=group)
    found: dict[tuple[str, dt.datetime], int] = {}
    in_order = sorted(moments)
    for first in range(0, len(in_order), _MOMENTS_AT_ONCE):
        some = in_order[first : first + _MOMENTS_AT_ONCE]
        counts = {
            # A column of the index, so that no row is read.
            f"before_{at}": Count(
                "position", filter=Q(queued_at__lt=moment) | Q(queued_at=moment, group_id__lt=group.id)
            )
            for at, moment in enumerate(some)
        }
        rows = others.order_by().values_list("backend_id").annotate(**counts)
        counted = {backend_id: numbers for backend_id, *numbers in rows}
        for backend_id in backend_ids:
            numbers = counted.get(backend_id, [0] * len(some))
            found |= {(backend_id, at): int(n) for at, n in zip(some, numbers, strict=True)}
    return found
