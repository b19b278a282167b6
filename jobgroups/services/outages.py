"""Attempts at a backend that went offline: their jobs move to other backends, or fail as lost.

An outage is no proof that a prompt has ended: a broken network looks like a crash. The attempt
stays open until the backend answers again, and its late result is adopted while its job waits.
"""

import datetime as dt
from typing import Final

from django.db.models import F, QuerySet

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import CHILD_OPEN, RetryScope, StopReason
from jobgroups.domain.text import clock_time
from jobgroups.models import Attempt, ChildJob
from jobgroups.services import late_results
from jobgroups.services.candidates import CandidateBackends, attempt_history, candidate_backends
from jobgroups.services.group_transaction import GroupTransaction, update_row
from jobgroups.services.outcomes import Failure, adopt_other_result, stop_failed
from jobgroups.services.requeue import after_backoff, counted_attempts, requeue_at
from jobgroups.services.transactions import attempt_write

#: A longer gap between the last answer and the first failed probe: no runner probed meanwhile.
_UNPROBED_AFTER: Final = dt.timedelta(minutes=1)


def lost_in_render(backend_id: str) -> Failure:
    """Return the failure of a job whose backend does not answer while it renders the job."""
    row = Backend.objects.filter(pk=backend_id).first()
    moment = now()
    away_since = None if row is None else row.unreachable_since
    heard_at = None if row is None else row.last_seen_at
    # A backend that answered and was unfit went offline after it answered for the last time.
    since = max((known for known in (away_since, heard_at) if known is not None), default=moment)
    at = f"at {clock_time(since, moment)}"
    if away_since and heard_at and away_since - heard_at > _UNPROBED_AFTER:
        at = f"between {clock_time(heard_at, moment)} and {clock_time(away_since, moment)}"
    name = backend_id if row is None else row.name
    message = f"{name} went offline {at}, while it rendered this job"
    return Failure(kind=FailureClass.BACKEND_LOST, message=message)


def attempts_move(*, fence: FencingToken, reason: str) -> set[int]:
    """Retry the jobs that an offline backend has, on other backends, if their groups allow it.

    Jobs without another backend that works stay: they may be moved later. ``reason`` says in a
    sentence since when and why the backend does not answer. Returns the ids of the attempts whose
    stop is pending by this call.
    """
    moved: set[int] = set()
    rows = _movable(fence.backend_id).select_related("child__group").order_by("id")
    # The check without locks comes first: it is repeated every few seconds while the backend is
    # offline.
    for row in rows.defer(
        *(f"child__group__{name}_json" for name in ("workflow", "parameters", "editor"))
    ):
        group = row.child.group
        elsewhere = RetryScope(group.retry_elsewhere)
        if candidate_backends(group, elsewhere, besides={fence.backend_id}) and _move(
            attempt_id=row.pk, fence=fence, reason=reason
        ):
            moved.add(row.pk)
    return moved


@attempt_write
def _move(tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, reason: str) -> bool:
    if not _movable(attempt.backend_id).filter(pk=attempt.pk).exists():
        return False
    unsent = Failure(kind=FailureClass.UNREACHABLE, message=reason)
    return leave_offline(tx, child, attempt, lost_in_render(attempt.backend_id), unsent)


def _movable(backend_id: str) -> QuerySet[Attempt]:
    return Attempt.objects.filter(
        backend_id=backend_id,
        ended_at__isnull=True,
        stop_requested_at__isnull=True,
        child__current_attempt=F("pk"),
        child__status__in=CHILD_OPEN,
    ).exclude(child__group__retry_elsewhere=RetryScope.NEVER)


def leave_offline(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, lost: Failure, unsent: Failure
) -> bool:
    """Retry a child on another backend, if its group allows it: its own backend is offline.

    The prompt may still be there, or run behind a broken network. Its attempt, which decides the
    child and has no stop, stays open with a pending stop, and a late end is handled as usual.

    Args:
        lost: the failure of an attempt that had started. It counts against ``max_attempts``.
        unsent: the failure of one that had not: the child is moved as if it had not been sent;
            nothing is counted.

    Returns:
        Whether it is queued elsewhere or has a late result; otherwise nothing was changed.
    """
    group, policy = tx.group, tx.group.retry_policy
    ran = attempt.started_at is not None
    failure = lost if ran else unsent
    made = late_results.late_result(child)
    # Its own attempt is not over yet, and is counted here.
    charged = counted_attempts(group, child) + 1
    target = None
    if made is None:
        # What was not seen to start may run all the same, and would be paid twice.
        if (ran or policy.is_paid) and not policy.allows(failure.kind, charged):
            return False
        target = CandidateBackends(group, attempt.backend_id).pick(attempt_history(group, child))
        # A job of the pool leaves, too, only if another backend works now.
        if target is None:
            return False
    if not stop_failed(tx, attempt, StopReason.GAVE_UP, failure.kind, failure):
        return False
    if not ran:
        update_row(attempt, {"is_counted": False})
    if made is not None:
        return adopt_other_result(tx, child, attempt, made)
    if not child.is_bound:
        target = None
    waits = after_backoff(child, attempt, charged) if ran else {"not_before": None}
    return requeue_at(tx, child, attempt, failure.kind, failure.message, target=target, **waits)
