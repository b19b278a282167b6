"""Queued children whose backend cannot take them: they are reassigned, or they fail or time out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet

from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.clock import monotonic_now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import ChildStatus, ErrorType, RetryScope, StopReason
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services.candidates import CandidateBackends, candidate_backends
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.outcomes import Failure, handle_failure, stop_failed
from jobgroups.services.requeue import reassign
from jobgroups.services.transactions import group_transaction

#: Ends or reassigns a child, and returns whether it has left the backend's queue.
EndChild = Callable[[GroupTransaction, ChildJob, CandidateBackends], bool]


def children_reassign(*, fence: FencingToken, reason: str, kind: FailureClass | None = None) -> int:
    """Reassign the queued children of a backend that were not sent, as far as their groups allow.

    Others stay queued.

    Args:
        fence: the lease on the backend.
        reason: why nothing is sent there, as a sentence.
        kind: the failure that makes the backend unavailable; None: a hold or a quarantine.

    Returns:
        How many children were reassigned.
    """
    waiting = _waiting(fence, {"current_attempt__isnull": True}).exclude(group__retry_elsewhere=RetryScope.NEVER)
    # Read without locks first: while no child has another backend, this runs every few
    # seconds, of hundreds perhaps.
    groups = JobGroup.objects.filter(pk__in=_groups_of(waiting)).order_by("id")
    return sum(
        _move_in_group(group.id, fence, reason, kind)
        for group in groups.defer("workflow_json", "parameters_json")
        if candidate_backends(group, RetryScope(group.retry_elsewhere), besides={fence.backend_id})
    )


@retry_on_conflict
def _move_in_group(group_id: str, fence: FencingToken, reason: str, kind: FailureClass | None) -> int:
    with group_transaction(group_id, fence=fence) as tx:
        children = tx.children(backend_id=fence.backend_id, status=ChildStatus.QUEUED, current_attempt__isnull=True)
        others = CandidateBackends(tx.group, fence.backend_id)
        return sum(reassign(tx, child, reason=reason, kind=kind, others=others) for child in children)


def children_fail_unavailable(
    *, fence: FencingToken, away_s: float, reason: str, kind: FailureClass = FailureClass.UNREACHABLE
) -> int:
    """Fail the backend's children that have not executed, after it was unavailable for too long.

    They are retried on other backends if their groups allow it.

    Args:
        fence: the lease on the backend.
        away_s: duration in seconds, for the message.
        reason: what was wrong with the backend, as a clause.
        kind: ``unreachable``, or ``stalled`` for a backend that responds and executes nothing.

    Returns:
        How many children failed or were reassigned.
    """
    message = f"{fence.backend_id} was not reachable for {away_s:.0f} s: {reason}"
    failure = _never_executed(kind, message)

    def end(tx: GroupTransaction, child: ChildJob, others: CandidateBackends) -> bool:
        attempt = child.current_attempt
        if attempt is not None:
            # The backend may have the prompt and run it: request its stop; it keeps its slot. The group's policy
            # decides about a retry meanwhile.
            stop_failed(tx, attempt, StopReason.GAVE_UP, kind)
            handle_failure(tx, child, attempt, failure)
        elif not reassign(tx, child, reason=message, kind=kind, others=others):
            _fail(tx, child, failure)
        return True

    return _end_waiting(fence, {}, end)


def children_fail_disabled(*, fence: FencingToken) -> int:
    """Fail the queued children of a disabled backend; prompts that were sent continue.

    Children that another backend may take are reassigned.

    Returns:
        How many children failed or were reassigned.
    """
    return _end_unsent(fence, f"{fence.backend_id} was disabled before this job was sent to it.")


def children_fail_quarantined(*, fence: FencingToken, message: str) -> int:
    """Reassign or fail the queued children of a backend that the Director quarantined for too long.

    Prompts that were sent continue.

    Args:
        fence: the lease on the backend.
        message: why, as a sentence.

    Returns:
        How many children failed or were reassigned.
    """
    return _end_unsent(fence, message)


def _end_unsent(fence: FencingToken, message: str) -> int:
    failure = _never_executed(FailureClass.UNREACHABLE, message)

    def end(tx: GroupTransaction, child: ChildJob, others: CandidateBackends) -> bool:
        if not reassign(tx, child, reason=message, others=others):
            _fail(tx, child, failure)
        return True

    return _end_waiting(fence, {"current_attempt__isnull": True}, end)


def children_unblock(*, fence: FencingToken) -> int:
    """Let children of other backends stop waiting for the stop of their prompts at this offline backend.

    The end of such a prompt may never be seen. It keeps its slot and its pending stop, and counts against no backend.

    Returns:
        How many prompts block no child any longer.
    """
    kept = _kept(fence).order_by("id").values_list("id", "child__group_id")
    return sum(_let_go(attempt_id, group_id, fence) for attempt_id, group_id in list(kept))


@retry_on_conflict
def _let_go(attempt_id: int, group_id: str, fence: FencingToken) -> int:
    with group_transaction(group_id, fence=fence):
        # In two statements: no UPDATE joins another table.
        still = list(_kept(fence).filter(pk=attempt_id).values_list("pk", flat=True))
        overtaken = Attempt.objects.filter(pk__in=still)
        let_go = overtaken.update(failure_class=FailureClass.UNREACHABLE)
        if let_go:
            log.notify_runners_on_commit()
        return let_go


def _kept(fence: FencingToken) -> QuerySet[Attempt]:
    """Return the prompts with a pending stop here that alone block a child of another backend.

    Attempts with a failure class (timed out, given up) are unblocked where that is stored.
    """
    stopped = Attempt.objects.filter(
        backend_id=fence.backend_id,
        ended_at__isnull=True,
        stop_requested_at__isnull=False,
        failure_class="",
        child__status=ChildStatus.QUEUED,
        child__current_attempt__isnull=True,
    )
    return stopped.exclude(child__backend_id=fence.backend_id)


def children_expire(*, fence: FencingToken, limit_s: int, unsent_only: bool = False) -> int:
    """Time out the backend's children that were queued for longer than ``limit_s`` in total.

    A child that has executed in this run and is to be retried has the same time from its last start. A clock without
    forward jumps measures it.

    Args:
        fence: the lease on the backend.
        limit_s: seconds.
        unsent_only: leave those that were sent: one may have been rendered while no runner was alive.

    Returns:
        How many children were timed out.
    """
    oldest = monotonic_now() - dt.timedelta(seconds=limit_s)

    def end(tx: GroupTransaction, child: ChildJob, _others: CandidateBackends) -> bool:
        executed = child.attempts.filter(run=tx.group.run, started_at__isnull=False)
        if executed.filter(started_at__gte=oldest).exists():
            return False
        again = " again" if executed.exists() else ""
        failure = Failure(
            kind=FailureClass.TIMEOUT, message=f"Not executed{again} within {limit_s} s", details={"phase": "queued"}
        )
        ended = tx.move_child(child, ChildStatus.TIMEOUT, **failure.columns)
        if ended:
            tx.add_event(log.child_timeout(child, tx.group.timeout_seconds))
        return ended

    conditions: dict[str, Any] = {"queued_at__lt": oldest}
    if unsent_only:
        conditions["current_attempt__isnull"] = True
    return _end_waiting(fence, conditions, end)


def _never_executed(kind: FailureClass, message: str) -> Failure:
    details = {"phase": "queued"}
    return Failure(kind=kind, message=message, details=details, type=ErrorType.CONNECTION)


def _fail(tx: GroupTransaction, child: ChildJob, failure: Failure) -> None:
    if tx.move_child(child, ChildStatus.FAILED, **failure.columns):
        tx.add_event(log.child_failed(child))


def _end_waiting(fence: FencingToken, conditions: dict[str, Any], end: EndChild) -> int:
    groups = _groups_of(_waiting(fence, conditions))
    return sum(_end_in_group(group_id, fence, conditions, end) for group_id in groups)


def _waiting(fence: FencingToken, conditions: dict[str, Any]) -> QuerySet[ChildJob]:
    return ChildJob.objects.filter(backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions)


def _groups_of(children: QuerySet[ChildJob]) -> list[str]:
    return list(children.order_by("group_id").values_list("group_id", flat=True).distinct())


@retry_on_conflict
def _end_in_group(group_id: str, fence: FencingToken, conditions: dict[str, Any], end: EndChild) -> int:
    """End the queued children of one group in one transaction, and request the stop of their prompts."""
    with group_transaction(group_id, fence=fence) as tx:
        children = tx.children(backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions)
        others = CandidateBackends(tx.group, fence.backend_id)
        gone = sum(end(tx, child, others) for child in children)
        ended = [child for child in children if child.status != ChildStatus.QUEUED]
        active = Attempt.objects.filter(child__in=ended, ended_at__isnull=True)
        tx.request_stop(list(active.values_list("pk", flat=True)), StopReason.GAVE_UP)
    return gone
