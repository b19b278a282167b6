"""What becomes of children that wait and wait: they are moved to another backend, or they end.

Their backend is away, held, set aside or disabled, or it took a day.
"""

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

#: What becomes of a child, and where it could go instead; gives whether it waits there no longer.
EndChild = Callable[[GroupTransaction, ChildJob, CandidateBackends], bool]


def children_reassign(*, fence: FencingToken, reason: str, kind: FailureClass | None = None) -> int:
    """Move the children that wait for a backend, and were not sent, to where their groups let them go.

    What may go nowhere, or finds no backend that works, waits on.

    Args:
        fence: the lease on the backend.
        reason: why nothing is sent there for a while, as a sentence.
        kind: the failure that keeps it from working; None: a person does, or it is set aside.

    Returns:
        How many children wait elsewhere now.
    """
    waiting = _waiting(fence, {"current_attempt__isnull": True}).exclude(
        group__retry_elsewhere=RetryScope.NEVER
    )
    # Looked at without their locks first: while none has anywhere to go, that is asked every few
    # seconds, of hundreds perhaps.
    groups = JobGroup.objects.filter(pk__in=_groups_of(waiting)).order_by("id")
    return sum(
        _move_in_group(group.id, fence, reason, kind)
        for group in groups.defer("workflow_json", "parameters_json")
        if candidate_backends(group, RetryScope(group.retry_elsewhere), besides={fence.backend_id})
    )


@retry_on_conflict
def _move_in_group(
    group_id: str, fence: FencingToken, reason: str, kind: FailureClass | None
) -> int:
    with group_transaction(group_id, fence=fence) as tx:
        children = tx.children(
            backend_id=fence.backend_id, status=ChildStatus.QUEUED, current_attempt__isnull=True
        )
        others = CandidateBackends(tx.group, fence.backend_id)
        return sum(
            reassign(tx, child, reason=reason, kind=kind, others=others) for child in children
        )


def children_fail_unavailable(
    *,
    fence: FencingToken,
    away_s: float,
    reason: str,
    kind: FailureClass = FailureClass.UNREACHABLE,
) -> int:
    """Give up on the backend's children that have not executed: it was away too long in a row.

    They fail, or are tried elsewhere where their groups say so.

    Args:
        fence: the lease on the backend.
        away_s: for how long, in seconds, for the message.
        reason: what was wrong with the backend, as a clause.
        kind: ``unreachable``, or ``stalled`` for one that answers and executes nothing.

    Returns:
        How many children failed or went elsewhere by this call.
    """
    message = f"{fence.backend_id} was not reachable for {away_s:.0f} s: {reason}"
    failure = _never_executed(kind, message)

    def end(tx: GroupTransaction, child: ChildJob, others: CandidateBackends) -> bool:
        attempt = child.current_attempt
        if attempt is not None:
            # It may have it, and perhaps runs it where nobody hears of it: its stop is owed from now
            # on, and its place taken. Whether it is tried elsewhere meanwhile, the group has said.
            stop_failed(tx, attempt, StopReason.GAVE_UP, kind)
            handle_failure(tx, child, attempt, failure)
        elif not reassign(tx, child, reason=message, kind=kind, others=others):
            _fail(tx, child, failure)
        return True

    return _end_waiting(fence, {}, end)


def children_fail_disabled(*, fence: FencingToken) -> int:
    """Fail the children that wait for a backend that is disabled now; what was sent there goes on.

    Those that may go elsewhere, and find a backend that works, are moved there.

    Returns:
        How many children failed or were moved by this call.
    """
    return _end_unsent(fence, f"{fence.backend_id} was disabled before this job was sent to it.")


def children_fail_quarantined(*, fence: FencingToken, message: str) -> int:
    """Move or fail the children that wait for a backend quarantined by the Director for too long.

    What was sent there goes on.

    Args:
        fence: the lease on the backend.
        message: why, as a sentence.

    Returns:
        How many children failed or were moved by this call.
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
    """Have children that wait for another backend wait no longer for their prompts here to be stopped.

    For a backend that is out of reach: the end of a prompt there may never be seen. Its place stays
    taken and its stop owed; that counts against nobody.

    Returns:
        How many prompts keep no child any longer, by this call.
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
    """Return the stopped prompts here that alone keep a child from being sent to another backend.

    One of which more is known (its time was up, it was given up) is let go of where that is stored.
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
    """Time out the backend's children that have waited longer than ``limit_s`` in all.

    One that has executed in this run, and is to be tried again, has as long from when it last began to.
    While this process lives, that is measured by a clock that nobody can set.

    Args:
        fence: the lease on the backend.
        limit_s: seconds.
        unsent_only: leave those that were sent: one may have been rendered while nobody looked.

    Returns:
        How many children were timed out by this call.
    """
    oldest = monotonic_now() - dt.timedelta(seconds=limit_s)

    def end(tx: GroupTransaction, child: ChildJob, _others: CandidateBackends) -> bool:
        executed = child.attempts.filter(run=tx.group.run, started_at__isnull=False)
        if executed.filter(started_at__gte=oldest).exists():
            return False
        again = " again" if executed.exists() else ""
        failure = Failure(
            kind=FailureClass.TIMEOUT,
            message=f"Not executed{again} within {limit_s} s",
            details={"phase": "queued"},
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
    return ChildJob.objects.filter(
        backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions
    )


def _groups_of(children: QuerySet[ChildJob]) -> list[str]:
    return list(children.order_by("group_id").values_list("group_id", flat=True).distinct())


@retry_on_conflict
def _end_in_group(
    group_id: str, fence: FencingToken, conditions: dict[str, Any], end: EndChild
) -> int:
    """End one group's waiting children, one transaction, and owe the stop of what was sent."""
    with group_transaction(group_id, fence=fence) as tx:
        children = tx.children(backend_id=fence.backend_id, status=ChildStatus.QUEUED, **conditions)
        others = CandidateBackends(tx.group, fence.backend_id)
        gone = sum(end(tx, child, others) for child in children)
        ended = [child for child in children if child.status != ChildStatus.QUEUED]
        active = Attempt.objects.filter(child__in=ended, ended_at__isnull=True)
        tx.request_stop(list(active.values_list("pk", flat=True)), StopReason.GAVE_UP)
    return gone
