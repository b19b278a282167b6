"""Queued children that no backend can take: they are reassigned, or they fail or time out."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from django.db.models import QuerySet

from backends.eligibility import may_take_later
from backends.hours import closed_times
from backends.models import Backend
from backends.queries import name_of
from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.domain.clock import monotonic_now, now
from jobgroups.domain.exclusions import CLASS_OF
from jobgroups.domain.failures import TAXONOMY, FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.pauses import MOST_HELD
from jobgroups.domain.states import ChildStatus, ErrorType, RetryScope, StopReason
from jobgroups.events import log
from jobgroups.models import LONG, Attempt, ChildJob, JobGroup, Variant
from jobgroups.queries.exclusions import active_exclusions
from jobgroups.queries.pauses import limits_began
from jobgroups.queries.pool import PoolCandidate, barring_failures, candidate_reasons
from jobgroups.services import late_results
from jobgroups.services.candidates import candidate_backends, open_candidates
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.leases import verify_fence
from jobgroups.services.outcomes import Failure, handle_failure, stop_failed
from jobgroups.services.requeue import reassign
from jobgroups.services.transactions import group_transaction

#: Ends or reassigns a child, and returns whether it has left the backend's queue.
EndChild = Callable[[GroupTransaction, ChildJob], bool]
#: What an expiry does not read of a group.
_LONG: Final = tuple(f"group__{name}" for name in LONG if name != "parameters_json")
_BATCH: Final = 500  #: Children per transaction: each holds the group's row.


def children_reassign(*, fence: FencingToken, reason: str, kind: FailureClass | None = None) -> int:
    """Reassign queued children of a backend that were not sent, as far as their groups allow;
    return their number.

    Others stay queued. ``reason`` is a sentence; ``kind`` None: a hold or a quarantine makes the
    backend unavailable.
    """
    waiting = ChildJob.objects.filter(**_unsent_at(fence)).exclude(
        group__retry_elsewhere=RetryScope.NEVER
    )
    # Read without locks first: while no child has another backend, this runs every few seconds, of
    # hundreds perhaps.
    groups = JobGroup.objects.filter(pk__in=_groups_of(waiting)).order_by("id")
    move = partial(reassign, reason=reason, kind=kind)
    return sum(
        _end_in_group(group.id, move, _unsent_at(fence), fence)
        for group in groups.defer(*LONG)
        if candidate_backends(group, RetryScope(group.retry_elsewhere), besides={fence.backend_id})
    )


def children_fail_unavailable(
    *,
    fence: FencingToken,
    away_s: float,
    reason: str,
    kind: FailureClass = FailureClass.UNREACHABLE,
) -> int:
    """Fail the backend's children that have not executed, after it was unavailable for ``away_s``
    seconds.

    They are retried on other backends if their groups allow it. ``reason`` is a clause; ``kind`` is
    ``unreachable``, or ``stalled`` for a backend that responds and executes nothing. Returns how
    many children failed or were reassigned.
    """
    message = f"{name_of(fence.backend_id)} was not reachable for {away_s:.0f} s: {reason}"
    end = partial(_end_here, failure=_never_executed(kind, message), kind=kind)
    return _end_waiting(end, _queued_at(fence), fence)


def _end_here(
    tx: GroupTransaction, child: ChildJob, *, failure: Failure, kind: FailureClass | None = None
) -> bool:
    attempt = child.current_attempt
    if attempt is not None:
        # The backend may have the prompt and run it: request its stop; it keeps its slot. The
        # group's policy decides about a retry meanwhile.
        stop_failed(tx, attempt, StopReason.GAVE_UP, failure.kind)
        handle_failure(tx, child, attempt, failure)
    elif not reassign(tx, child, reason=failure.message, kind=kind):
        _fail(tx, child, failure=failure)
    return True


def children_fail_disabled(*, fence: FencingToken) -> int:
    """Fail the queued children of a disabled backend; prompts that were sent continue.

    Children that another backend may take are reassigned. Returns how many children failed or were
    reassigned.
    """
    return children_fail_unsent(
        fence=fence,
        message=f"{name_of(fence.backend_id)} was disabled before this job was sent to it.",
    )


def children_fail_unsent(*, fence: FencingToken, message: str) -> int:
    """Reassign or fail the queued children of a backend that were not sent, with a sentence; return
    their number.
    """
    failure = _never_executed(FailureClass.UNREACHABLE, message)
    return _end_waiting(partial(_end_here, failure=failure), _unsent_at(fence), fence)


@retried_transaction
def children_unblock(*, fence: FencingToken) -> int:
    """Let children of other backends stop waiting for the stop of their prompts at this offline
    backend.

    The end of such a prompt may never be seen. It keeps its slot and its pending stop, and counts
    against no backend. Attempts with a failure class (timed out, given up) are unblocked where that
    is stored. Returns how many prompts block no child any longer.
    """
    verify_fence(fence)
    stopped = Attempt.objects.filter(
        backend_id=fence.backend_id,
        ended_at__isnull=True,
        stop_requested_at__isnull=False,
        failure_class="",
    )
    blocking = stopped.filter(child__status=ChildStatus.QUEUED, child__current_attempt__isnull=True)
    # In two statements, as no UPDATE joins another table. The second one passes an attempt that has
    # ended meanwhile.
    attempt_ids = list(
        blocking.exclude(child__backend_id=fence.backend_id).values_list("pk", flat=True)
    )
    count = stopped.filter(pk__in=attempt_ids).update(failure_class=FailureClass.UNREACHABLE)
    if count:
        log.notify_runners_on_commit()
    return count


def children_expire(*, fence: FencingToken, limit_s: int, unsent_only: bool = False) -> int:
    """Time out the backend's children that were queued for over ``limit_s`` seconds in total;
    return their number.

    A child that has executed in this run and is to be retried has the same time from its last
    start. A clock without forward jumps measures it. What is paused meanwhile, or starts later, has
    so much more, see ``domain.pauses``. ``unsent_only`` leaves those that were sent: one may have
    been rendered while no runner was alive.
    """
    row = Backend.objects.filter(pk=fence.backend_id).values_list("hours", "time_zone")
    queued = _unsent_at(fence) if unsent_only else _queued_at(fence)
    return _expire(queued, limit_s, row.all, fence)


def _expire(
    queued: dict[str, Any],
    limit_s: int,
    hours: Callable[[], Iterable[tuple[str, str]]],
    fence: FencingToken | None = None,
) -> int:
    """Time out children; ``hours`` returns the hours and zones of the backends that may take them."""
    moment, limit = monotonic_now(), dt.timedelta(seconds=limit_s)
    group_ids = _groups_of(ChildJob.objects.filter(**queued, queued_at__lt=moment - limit))
    if not group_ids:
        return 0
    of_backends = list(hours())
    closed = closed_times(of_backends, moment - MOST_HELD, moment) if of_backends else ()
    began = limits_began(group_ids, moment, limit, closed)
    return sum(
        _end_in_group(
            group_id,
            partial(_time_out, oldest=since, limit_s=limit_s),
            {**queued, "queued_at__lt": since},
            fence,
        )
        for group_id, since in began.items()
    )


def _time_out(tx: GroupTransaction, child: ChildJob, *, oldest: dt.datetime, limit_s: int) -> bool:
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
        tx.add_event(log.child_timeout(child, tx.group.time_limit))
    return ended


def variants_mark(*, unplaced: Collection[int], placed: Collection[int]) -> None:
    """Store since when no candidate can take the jobs of variants, and that a candidate of others
    can again.
    """
    Variant.objects.filter(pk__in=unplaced, unplaced_since__isnull=True).update(
        unplaced_since=monotonic_now()
    )
    Variant.objects.filter(pk__in=placed).update(unplaced_since=None)


def variants_bypassed(bypassed: Mapping[int, bool]) -> None:
    """Store since when backends take later jobs before those of a variant, or that they no longer
    do, by its id.
    """
    for variant_id, is_bypassed in sorted(bypassed.items()):
        changed = Variant.objects.filter(pk=variant_id, bypassed_at__isnull=is_bypassed)
        changed.update(bypassed_at=now() if is_bypassed else None)


def pool_expire(*, variant_id: int, limit_s: int) -> int:
    """Time out the jobs of a variant that were unclaimed for ``limit_s`` seconds, as
    ``children_expire``; return how many.
    """

    def hours() -> Iterable[tuple[str, str]]:
        variant = Variant.objects.select_related("group").get(pk=variant_id)
        fit = (one.row for one in candidate_reasons(variant) if one.unfit is None)
        return [(row.hours, row.time_zone) for row in fit]

    return _expire(_unclaimed_children(variant_id), limit_s, hours)


def pool_give_up(*, variant_id: int, limit_s: int) -> int:
    """Fail the unclaimed jobs of a variant whose jobs no candidate could take for ``limit_s``
    seconds.

    The candidates are read again: one may have come back. Returns how many jobs failed.
    """
    since = monotonic_now() - dt.timedelta(seconds=limit_s)
    overdue = Variant.objects.filter(pk=variant_id, unplaced_since__lte=since)
    variant = overdue.select_related("group").defer(*_LONG).first()
    if variant is None:
        return 0
    candidates = candidate_reasons(variant)
    # Of those that are neither away nor leaving.
    kinds = {
        candidate.failure for candidate in candidates if may_take_later(candidate.row, now=now())
    }
    if None in kinds:
        return 0
    return _fail_unclaimed(
        variant_id, _no_candidate(candidates, kinds, f"No backend could take it for {limit_s} s")
    )


def pool_fail_refused(*, variant_ids: Collection[int]) -> int:
    """Fail the unclaimed jobs of variants if 500s have excluded their last candidates; return how
    many failed.
    """
    refused = active_exclusions().filter(failure_class=FailureClass.WORKFLOW_REFUSED)
    variants = Variant.objects.filter(
        pk__in=variant_ids, workflow_digest__in=refused.values("workflow_digest")
    )
    failed = 0
    for variant in variants.select_related("group").defer(*_LONG):
        candidates = [
            candidate._replace(reason=candidate.unfit or candidate.reason)
            for candidate in candidate_reasons(variant)
        ]
        kinds = {candidate.failure for candidate in candidates}
        if FailureClass.WORKFLOW_REFUSED in kinds and not open_candidates(variant):
            failed += _fail_unclaimed(
                variant.pk, _no_candidate(candidates, kinds, "No backend can execute it")
            )
    return failed


def _fail_unclaimed(variant_id: int, failure: Failure) -> int:
    return _end_waiting(partial(_fail, failure=failure), _unclaimed_children(variant_id))


#: The failure classes of excluded candidates: the first one is that of the jobs that wait for these
#: candidates alone.
_OF_EXCLUDED: Final = (FailureClass.WORKFLOW_REFUSED, *CLASS_OF.values())


def _no_candidate(
    candidates: Sequence[PoolCandidate], kinds: Collection[FailureClass | None], subject: str
) -> Failure:
    kind = next(
        (failure_class for failure_class in _OF_EXCLUDED if failure_class in kinds),
        FailureClass.UNREACHABLE,
    )
    reasons = [f"{candidate.row.name}: {candidate.reason.rstrip('.')}" for candidate in candidates]
    if len(reasons) > _MOST_SHOWN:
        reasons[_MOST_SHOWN:] = [f"{len(reasons) - _MOST_SHOWN} more"]
    why = "; ".join(reasons) or "no registered backend is a candidate"
    return _never_executed(kind, f"{subject}: {why}.")


def pool_fail_barred(*, variant_id: int) -> int:
    """Fail the unclaimed jobs of a variant for which only backends are left that would fail them
    again.

    When such a job failed, another candidate could take it, which is away for too long or has left
    since. Returns how many jobs failed.
    """
    failed_at: dict[str, set[str]] = defaultdict(set)
    unclaimed = ChildJob.objects.filter(**_unclaimed_children(variant_id))
    failures = barring_failures(child__in=unclaimed).order_by()
    for child_id, backend_id in failures.values_list("child_id", "backend_id"):
        failed_at[child_id].add(backend_id)
    if not failed_at:
        return 0
    left = open_candidates(Variant.objects.select_related("group").get(pk=variant_id))
    barred = [child_id for child_id, backends in failed_at.items() if left <= backends]
    return _end_waiting(_fail_again, {**_unclaimed_children(variant_id), "pk__in": barred})


def _fail_again(tx: GroupTransaction, child: ChildJob) -> bool:
    attempt = barring_failures(child=child).latest("number")
    kind = FailureClass(attempt.failure_class)
    failure = Failure(
        kind=kind,
        message=attempt.error_message or TAXONOMY[kind].sentence,
        details=json.loads(attempt.error_details_json or "null"),
        type=ErrorType(attempt.error_type) if attempt.error_type else None,
    )
    late_results.reinstate(child, attempt)
    # It is retried if a candidate has come back.
    handle_failure(tx, child, attempt, failure)
    return child.status != ChildStatus.QUEUED


_MOST_SHOWN: Final = 20  #: Backends that the message of a failure names.


def _never_executed(kind: FailureClass, message: str) -> Failure:
    error_type = None if kind is FailureClass.WORKFLOW_REFUSED else ErrorType.CONNECTION
    return Failure(kind=kind, message=message, details={"phase": "queued"}, type=error_type)


def _fail(tx: GroupTransaction, child: ChildJob, *, failure: Failure) -> bool:
    failed = tx.move_child(child, ChildStatus.FAILED, **failure.columns)
    if failed:
        tx.add_event(log.child_failed(child))
    return failed


def _queued_at(fence: FencingToken) -> dict[str, Any]:
    return {"backend_id": fence.backend_id, "status": ChildStatus.QUEUED}


def _unsent_at(fence: FencingToken) -> dict[str, Any]:
    return {**_queued_at(fence), "current_attempt__isnull": True}


def _unclaimed_children(variant_id: int) -> dict[str, Any]:
    waits = {"status": ChildStatus.QUEUED, "current_attempt__isnull": True, "is_bound": False}
    return {"variant_id": variant_id, **waits}


def _groups_of(children: QuerySet[ChildJob]) -> list[str]:
    return list(children.order_by("group_id").values_list("group_id", flat=True).distinct())


def _end_waiting(
    end: EndChild, conditions: dict[str, Any], fence: FencingToken | None = None
) -> int:
    """End or reassign the children with some conditions, and return how many."""
    groups = _groups_of(ChildJob.objects.filter(**conditions))
    return sum(_end_in_group(group_id, end, conditions, fence) for group_id in groups)


def _end_in_group(
    group_id: str, end: EndChild, conditions: dict[str, Any], fence: FencingToken | None
) -> int:
    gone = 0
    last: int | None = -1
    while last is not None:
        ended, last = _end_some(group_id, end, {**conditions, "position__gt": last}, fence)
        gone += ended
    return gone


@retry_on_conflict
def _end_some(
    group_id: str, end: EndChild, conditions: dict[str, Any], fence: FencingToken | None
) -> tuple[int, int | None]:
    """End or reassign the first children of one group in one transaction, and request the stop of
    their prompts.

    Returns how many, and the position of the last one if there may be more.
    """
    with group_transaction(group_id, fence=fence) as tx:
        children = tx.children(**conditions, limit=_BATCH)
        gone = sum(end(tx, child) for child in children)
        _stop_ended(tx, children)
    return gone, children[-1].position if len(children) == _BATCH else None


def _stop_ended(tx: GroupTransaction, children: Sequence[ChildJob]) -> None:
    """Request the stop of the prompts of the children that are no longer queued."""
    ended = [child for child in children if child.status != ChildStatus.QUEUED]
    active = Attempt.objects.filter(child__in=ended, ended_at__isnull=True)
    tx.request_stop(list(active.values_list("pk", flat=True)), StopReason.GAVE_UP)
