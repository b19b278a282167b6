"""What follows a failure: the child is tried again where its group's policy says so, or it ends.

Also the moves of children that wait for a backend which takes nothing for a while. All of it happens
in the transaction that stores what led to it, with the group, the child and the attempt locked.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from jobgroups.domain import retry_policy
from jobgroups.domain.clock import now
from jobgroups.domain.failures import TAXONOMY, FailureClass
from jobgroups.domain.retry_policy import Policy
from jobgroups.domain.states import (
    CHILD_OPEN,
    AttemptState,
    ChildStatus,
    ErrorType,
    StopReason,
)
from jobgroups.events import log
from jobgroups.events.hub import hub
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.serializers import to_json
from jobgroups.services import adopting, quarantine
from jobgroups.services.candidates import Others, hold, others_for, own_candidate, tried_of
from jobgroups.services.writing import GroupWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, and what its child is told if it ends by it."""

    kind: FailureClass
    message: str
    details: Mapping[str, Any] | None = None
    #: Where it is not the class's own.
    type: ErrorType | None = None

    @property
    def error_type(self) -> ErrorType:
        """The coarser type that clients see."""
        return self.type or TAXONOMY[self.kind].error_type

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that children and attempts have for it."""
        return {
            "error_message": self.message,
            "error_type": self.error_type,
            "error_details_json": None if self.details is None else to_json(self.details),
            "failure_class": self.kind.value,
        }


def close_failed(
    write: GroupWrite, attempt: Attempt, state: AttemptState, failure: Failure, **fields: Any
) -> bool:
    """Close an attempt that failed, and let that count against its backend if its class does.

    Returns:
        Whether this call closed it.
    """
    columns = failure.columns
    if attempt.failure_class:
        # Told when its stop was asked for: how it was stopped in the end is no other failure.
        columns = columns_kept(attempt) or {**columns, "failure_class": attempt.failure_class}
    return write.move_attempt(attempt, state, ended_at=now(), **{**columns, **fields})


def columns_kept(attempt: Attempt) -> dict[str, Any] | None:
    """Return the failure that was stored with an attempt's stop, None where it has no message."""
    if attempt.ended_at is not None or not (attempt.failure_class and attempt.error_message):
        return None
    names = ("error_message", "error_type", "error_details_json", "failure_class")
    return {name: getattr(attempt, name) for name in names}


def stop_failed(
    write: GroupWrite,
    attempt: Attempt,
    reason: StopReason,
    kind: FailureClass,
    failure: Failure | None = None,
) -> bool:
    """Request the stop of an attempt that has failed and may go on at its backend.

    Args:
        write: the child's group.
        attempt: active.
        reason: why it is stopped.
        kind: why it failed.
        failure: with its message, which the attempt then keeps, however its prompt ends.

    Returns:
        Whether this call requested it.
    """
    if not write.owe_stop([attempt.pk], reason):
        return False
    columns = {"failure_class": kind.value} if failure is None else failure.columns
    Attempt.objects.filter(pk=attempt.pk).update(**columns)
    for name, value in columns.items():
        setattr(attempt, name, value)
    # Its end, if it is ever seen, is no news of the backend any more.
    quarantine.take_in(attempt)
    return True


def meet(
    write: GroupWrite, child: ChildJob, attempt: Attempt, failure: Failure, **fields: Any
) -> None:
    """Have a child tried again after its attempt failed, or end it where the policy does not say so.

    One that has a picture of another attempt, which came too late, has that and needs no other.

    Args:
        write: the child's group.
        child: decided by nobody but this attempt; else nothing is done.
        attempt: with its failure class stored.
        failure: for the child's end.
        fields: further columns of the child, for its end.
    """
    if child.current_attempt_id != attempt.pk or child.status not in CHILD_OPEN:
        return
    if not goes_on(write, child, attempt, failure):
        _end(write, child, attempt, failure, **fields)


def goes_on(write: GroupWrite, child: ChildJob, attempt: Attempt, failure: Failure) -> bool:
    """Whether a failure is not the child's end: it has another one's picture now, or is tried again.

    Args:
        write: the child's group.
        child: decided by this attempt.
        attempt: with its failure class stored.
        failure: why.
    """
    # Perhaps of a newer one: this may be an old one that was met after all.
    if (made := adopting.result_of(child)) is not None:
        return _take_earlier(write, child, attempt, made)
    return try_again(write, child, attempt, failure)


def _take_earlier(write: GroupWrite, child: ChildJob, attempt: Attempt, made: Attempt) -> bool:
    """Give a child whose attempt failed the picture that another one made while this one ran."""
    ran = child.status == ChildStatus.RUNNING
    if not put_back(write, child, attempt):
        return False
    if ran:
        reason = f"attempt {made.number}, at {made.backend_id}, made its picture after all"
        write.add(log.child_requeued(child, attempt, reason))
    adopting.adopt(write, child, made)
    return True


def _end(
    write: GroupWrite, child: ChildJob, attempt: Attempt, failure: Failure, **fields: Any
) -> None:
    timeout = failure.kind is FailureClass.TIMEOUT
    columns = {**fields, **failure.columns, "attempt_count": attempts_with(child, attempt)}
    to = ChildStatus.TIMEOUT if timeout else ChildStatus.FAILED
    if not write.move_child(child, to, attempt=attempt, **columns):
        return
    if timeout:
        write.add(log.child_timeout(child, write.group.timeout_seconds))
    else:
        write.add(log.child_failed(child))


def attempts_with(child: ChildJob, attempt: Attempt) -> int:
    """Return how many attempts a child has had with this one, which may be an older one of it."""
    return max(child.attempt_count, attempt.number)


def put_back(write: GroupWrite, child: ChildJob, attempt: Attempt | None, **fields: Any) -> bool:
    """Have a child wait again whose current attempt is over, or is none of its own any more.

    Args:
        write: the child's group.
        child: open.
        attempt: its current attempt; None: it waits without one.
        fields: columns to set in the same statement.

    Returns:
        Whether this call did. The caller tells it: nobody knows yet why it waits.
    """
    fields = {"current_attempt": None, **fields}
    if child.status == ChildStatus.QUEUED:
        waits = ChildJob.objects.filter(
            pk=child.pk, status=ChildStatus.QUEUED, current_attempt=attempt
        )
        put = waits.update(**fields) > 0
        for name, value in fields.items() if put else ():
            setattr(child, name, value)
        return put
    fields |= {"started_at": None, "progress": 0.0, "current_step": None}
    fields |= {"steps_completed": 0, "steps_total": 0}
    return write.move_child(child, ChildStatus.QUEUED, attempt=attempt, **fields)


# --- tried again ----------------------------------------------------------------------------------


def policy_of(group: JobGroup) -> Policy:
    """Return a group's policy."""
    return Policy.stored(
        max_attempts=group.max_attempts, elsewhere=group.retry_elsewhere, retry_on=group.retry_on
    )


def try_again(write: GroupWrite, child: ChildJob, attempt: Attempt, failure: Failure) -> bool:
    """Have a child wait for another attempt, if its group's policy has one for it and somewhere to go.

    Args:
        write: the child's group.
        child: decided by this attempt.
        attempt: over, or with its stop owed; its failure class is stored.
        failure: why.

    Returns:
        Whether it waits; else nothing was done.
    """
    group, policy = write.group, policy_of(write.group)
    charged = _charged(group, child)
    if not policy.allows(failure.kind, charged):
        return False
    target = _next_backend(group, child, attempt.backend_id, failure.kind, policy)
    return target is not None and _wait_at(
        write, child, attempt, failure, target=target, charged=charged
    )


def _wait_at(
    write: GroupWrite,
    child: ChildJob,
    attempt: Attempt,
    failure: Failure,
    *,
    target: str,
    charged: int,
) -> bool:
    """Have a child wait for its next attempt, after the pause that so many attempts ask for."""
    seconds = retry_policy.pause(
        charged,
        backoff=settings.DIRECTOR_RETRY_BACKOFF_SECONDS,
        luck=random.random(),  # noqa: S311 jitter
    )
    # Whole milliseconds, as now() has them: what is stored is what is sent.
    pause = dt.timedelta(milliseconds=round(1000 * seconds))
    fields = {"attempt_count": attempts_with(child, attempt), "uncounted_attempts": 0}
    return _rebind(write, child, attempt, failure, target, not_before=now() + pause, **fields)


def _rebind(
    write: GroupWrite,
    child: ChildJob,
    attempt: Attempt,
    failure: Failure,
    target: str,
    **fields: Any,
) -> bool:
    put = put_back(write, child, attempt, backend_id=target, **fields)
    if put:
        _tell(write, child, attempt.backend_id, failure.kind, failure.message)
    return put


def _charged(group: JobGroup, child: ChildJob) -> int:
    """Count the attempts of this run that were charged and are over, or as good as over."""
    over = Q(ended_at__isnull=False) | ~Q(failure_class="")
    return child.attempts.filter(over, run=group.run, is_counted=True).count()


def _tell(
    write: GroupWrite, child: ChildJob, left: str, kind: FailureClass | None, reason: str
) -> None:
    write.add(
        log.child_retrying(child, previous_backend_id=left, failure_class=kind, reason=reason)
    )
    # Its next backend may be another runner's.
    transaction.on_commit(_ring, robust=True)


def _ring() -> None:
    hub.notify_runners()


def _next_backend(
    group: JobGroup, child: ChildJob, left: str, kind: FailureClass, policy: Policy
) -> str | None:
    tried, own = tried_of(group, child), own_candidate(left)
    others = others_for(group, policy.elsewhere, besides={left})
    while True:
        target = retry_policy.next_backend(kind, own=own, others=others, tried=tried, policy=policy)
        if target is None or target == left or hold(target):
            return target
        others = [one for one in others if one.backend_id != target]


# --- moved away from a backend --------------------------------------------------------------------


def leave_offline(
    write: GroupWrite, child: ChildJob, attempt: Attempt, lost: Failure, unsent: Failure
) -> bool:
    """Retry a child on another backend, if its group allows it: its own one is offline.

    The prompt may still be there, or run behind a broken network. Its attempt stays open with a pending
    stop, and its end, if it is ever seen, is met like every late one.

    Args:
        write: the child's group.
        child: decided by this attempt.
        attempt: active, without a stop.
        lost: the failure of an attempt that had begun to execute. It counts against ``max_attempts``.
        unsent: of one that had not: the child is moved as if it had not been sent, and nothing counts.

    Returns:
        Whether it waits elsewhere, or has the picture of another attempt; else nothing was done.
    """
    group, policy = write.group, policy_of(write.group)
    ran = attempt.started_at is not None
    failure = lost if ran else unsent
    made = adopting.result_of(child)
    # Its own attempt is not over yet, and is counted here.
    charged = _charged(group, child) + 1
    target = None
    if made is None:
        if ran and not policy.allows(failure.kind, charged):
            return False
        target = Others(group, attempt.backend_id).take(tried_of(group, child))
        if target is None:
            return False
    if not stop_failed(write, attempt, StopReason.GAVE_UP, failure.kind, failure):
        return False
    if not ran:
        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)
        attempt.is_counted = False
    if made is not None:
        return _take_earlier(write, child, attempt, made)
    assert target is not None  # noqa: S101 see above
    if ran:
        return _wait_at(write, child, attempt, failure, target=target, charged=charged)
    return _rebind(write, child, attempt, failure, target, not_before=None)


def move_elsewhere(
    write: GroupWrite,
    child: ChildJob,
    *,
    reason: str,
    kind: FailureClass | None = None,
    others: Others | None = None,
) -> bool:
    """Bind a child that waits, and was not sent, to another backend, where its group allows that.

    It is no attempt and none is charged.

    Args:
        write: the child's group.
        child: queued, without a current attempt.
        reason: why it does not wait where it waited, as a sentence.
        kind: what keeps the backend from working, where that is a failure.
        others: where it may go, looked at once for all children of the group that are moved.

    Returns:
        Whether it waits elsewhere now.
    """
    left = child.backend_id or ""
    target = (others or Others(write.group, left)).take(tried_of(write.group, child))
    if target is None:
        return False
    waits = ChildJob.objects.filter(
        pk=child.pk, status=ChildStatus.QUEUED, current_attempt__isnull=True, backend_id=left
    )
    if not waits.update(backend_id=target, not_before=None):
        return False
    child.backend_id, child.not_before = target, None
    _tell(write, child, left, kind, reason)
    return True
