"""Queues a child again: on the same backend or another one, by the group's policy or because its
backend is unavailable.
"""

import datetime as dt
import random
from typing import Any

from django.conf import settings
from django.db.models import Q

from jobgroups import metrics
from jobgroups.domain import retry_policy
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.retry_policy import RetryPolicy
from jobgroups.domain.states import ATTEMPT_NEVER_RAN, ChildStatus
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import exclusions
from jobgroups.services.candidates import (
    CandidateBackends,
    are_locked,
    attempt_history,
    candidate_backends,
    own_candidate,
    pool_is_open,
)
from jobgroups.services.group_transaction import NOT_STARTED, GroupTransaction


def attempts_with(child: ChildJob, attempt: Attempt) -> int:
    """Return the number of attempts of a child including this one, which may be an older one."""
    return max(child.attempt_count, attempt.number)


def requeue(tx: GroupTransaction, child: ChildJob, attempt: Attempt | None, **fields: Any) -> bool:
    """Queue a child again whose current attempt is over or no longer decides it; return whether
    this call did.

    A child of the pool has no backend then. ``fields`` are set in the same statement. The caller
    adds the event.
    """
    fields = {"current_attempt": None, **fields}
    if not fields.get("is_bound", child.is_bound):
        fields["backend_id"] = None
    if child.status == ChildStatus.QUEUED:
        waits = ChildJob.objects.filter(
            pk=child.pk, status=ChildStatus.QUEUED, current_attempt=attempt
        )
        put = waits.update(**fields) > 0
        for name, value in fields.items() if put else ():
            setattr(child, name, value)
        return put
    return tx.move_child(child, ChildStatus.QUEUED, attempt=attempt, **(fields | NOT_STARTED))


def schedule_retry(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, kind: FailureClass, reason: str
) -> bool:
    """Queue a child for another attempt, if its group's policy allows one and a backend takes it;
    return whether it is.

    A job of the pool whose backend lacks something always waits in the pool again, unless a part of
    it may have been paid. The attempt decides the child, is closed or has a pending stop, and its
    failure class is stored. ``reason`` is a sentence.
    """
    group, policy = tx.group, tx.group.retry_policy
    executed = attempt.state not in ATTEMPT_NEVER_RAN
    is_refusal = kind is FailureClass.NODE_OR_MODEL_MISSING and not exclusions.is_of_job(attempt)
    if exclusions.is_answered_500(attempt):
        is_refusal = not child.is_bound and pool_is_open(group, child)
    if is_refusal and not child.is_bound and not (policy.is_paid and executed):
        # Its backend is excluded now. The job waits for another one, unless a 500 excluded the last
        # one.
        fields = {"attempt_count": attempts_with(child, attempt), "uncounted_attempts": 0}
        return requeue_at(tx, child, attempt, kind, reason, target=None, **fields)
    charged = counted_attempts(group, child)
    if not policy.allows(kind, charged, executed=executed):
        return False
    target = None
    if child.is_bound:
        target = _next_backend(group, child, attempt.backend_id, kind, policy)
    if target is None and (child.is_bound or not pool_is_open(group, child)):
        return False
    return requeue_at(
        tx, child, attempt, kind, reason, target=target, **after_backoff(child, attempt, charged)
    )


def after_backoff(child: ChildJob, attempt: Attempt, charged: int) -> dict[str, Any]:
    """Return the columns of a child that waits for its next attempt after so many counted ones: the
    backoff delay.
    """
    seconds = retry_policy.backoff_delay(
        charged,
        backoff=settings.DIRECTOR_RETRY_BACKOFF_SECONDS,
        jitter=random.random(),  # noqa: S311 jitter
    )
    # Whole milliseconds, as now() has them: what is stored is what is sent.
    pause = dt.timedelta(milliseconds=round(1000 * seconds))
    return {
        "not_before": now() + pause,
        "attempt_count": attempts_with(child, attempt),
        "uncounted_attempts": 0,
    }


def requeue_at(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    kind: FailureClass,
    reason: str,
    *,
    target: str | None,
    **fields: Any,
) -> bool:
    """Queue a child for its next attempt; ``target`` is its next backend, None for a child of the
    pool.
    """
    put = requeue(tx, child, attempt, backend_id=target, **fields)
    if put:
        _record_retry(tx, child, attempt.backend_id, kind, reason)
        metrics.count_on_commit(metrics.retries, kind.value)
    return put


def counted_attempts(group: JobGroup, child: ChildJob) -> int:
    """Count the counted attempts of this run that are closed or have failed."""
    over = Q(ended_at__isnull=False) | ~Q(failure_class="")
    return child.attempts.filter(over, run=group.run, is_counted=True).count()


def _record_retry(
    tx: GroupTransaction, child: ChildJob, left: str, kind: FailureClass | None, reason: str
) -> None:
    tx.add_event(
        log.child_retrying(child, previous_backend_id=left, failure_class=kind, reason=reason)
    )
    # Its next backend may be another runner's.
    log.notify_runners_on_commit()


def _next_backend(
    group: JobGroup, child: ChildJob, left: str, kind: FailureClass, policy: RetryPolicy
) -> str | None:
    tried, own = attempt_history(group, child), own_candidate(left)
    others = candidate_backends(group, policy.elsewhere, besides={left})
    while True:
        target = retry_policy.next_backend(kind, own=own, others=others, tried=tried, policy=policy)
        if target is None or target == left or are_locked([target]):
            return target
        others = [candidate for candidate in others if candidate.backend_id != target]


def reassign(
    tx: GroupTransaction, child: ChildJob, *, reason: str, kind: FailureClass | None = None
) -> bool:
    """Assign a queued child without an attempt to another backend, if its group allows it; return
    whether it was.

    This is not an attempt, and nothing is counted. A child of the pool is not assigned: any
    candidate may claim it.

    Args:
        reason: why it leaves its backend, as a sentence.
        kind: the failure that makes the backend unavailable, if it is one.
    """
    if not child.is_bound:
        return False
    left = child.backend_id or ""
    # Read once for all children of the group that leave the backend.
    others = tx.kept.setdefault(left, CandidateBackends(tx.group, left))
    target = others.pick(attempt_history(tx.group, child))
    if target is None:
        return False
    waits = ChildJob.objects.filter(
        pk=child.pk, status=ChildStatus.QUEUED, current_attempt__isnull=True, backend_id=left
    )
    if not waits.update(backend_id=target, not_before=None):
        return False
    child.backend_id, child.not_before = target, None
    _record_retry(tx, child, left, kind, reason)
    return True
