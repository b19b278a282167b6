"""Holds of backends: pause, drain and quarantine by users, and how a runner applies them.

A user's change locks the backend's lease, which every claim locks too: no claim is stored between
the check and the change. The runner's part is fenced by the lease.
"""

import datetime as dt
import logging
from typing import Any, Final

from backends.models import Backend
from backends.services import HOLD_CLEARED, MAX_REASON, QUARANTINE_CLEARED
from backends.states import Hold
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import ChildStatus, StopReason
from jobgroups.errors import BackendNotFound
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, Lease
from jobgroups.queries.backends import active_attempts, open_children
from jobgroups.services import late_results
from jobgroups.services.audit import record
from jobgroups.services.group_transaction import GroupTransaction, update_row
from jobgroups.services.leases import verify_fence
from jobgroups.services.requeue import reassign, requeue
from jobgroups.services.transactions import attempt_write

logger = logging.getLogger(__name__)

_MAX_BY: Final = 150


@retried_transaction
def backend_hold(
    *, backend_id: str, hold: Hold, at_once: bool = False, reason: str = "", by: str = ""
) -> None:
    """Pause or drain a backend: nothing is claimed for it from now on. A disabled backend does not
    change.

    The later request replaces the earlier one; a repeated one keeps its beginning. ``at_once``: the
    runner evicts running prompts, also after a restart; this stays in force until the hold ends,
    since it may have been carried out already. Raises ``BackendNotFound``.
    """
    row = _lock_for_change(backend_id)
    if not row.enabled:
        return
    is_same = row.hold == hold
    _update(
        row,
        hold=hold.value,
        evict=at_once or (is_same and row.evict),
        changed_reason=reason[:MAX_REASON] or (row.changed_reason if is_same else ""),
        changed_by=by[:_MAX_BY] or (row.changed_by if is_same else ""),
        changed_at=row.changed_at if is_same else now(),
    )
    action = Action.BACKEND_DRAINED if hold is Hold.DRAIN else Action.BACKEND_PAUSED
    record(action, backend_id, by=by, reason=reason[:MAX_REASON], now=at_once or None)


@retried_transaction
def backend_resume(*, backend_id: str, by: str = "") -> None:
    """End a pause or drain. Evicted prompts are not restored. Raises ``BackendNotFound``."""
    row = _lock_for_change(backend_id)
    if row.hold:
        _update(row, **HOLD_CLEARED, changed_by=by[:_MAX_BY], changed_at=now())
        record(Action.BACKEND_RESUMED, backend_id, by=by)


@retried_transaction
def backend_quarantine(
    *, backend_id: str, reason: str = "", by: str = "", minutes: float | None = None
) -> None:
    """Quarantine a backend, for ``minutes`` or until a user releases it: it gets no prompt. Its
    current ones continue.

    End and reason of a quarantine that is in force are replaced. Raises ``BackendNotFound``.
    """
    row = _lock_for_change(backend_id)
    moment = now()
    until = None if minutes is None else moment + dt.timedelta(minutes=minutes)
    record(
        Action.BACKEND_QUARANTINED, backend_id, by=by, reason=reason[:MAX_REASON], minutes=minutes
    )
    by = by or "a person"
    _update(
        row,
        quarantine_until=until,
        quarantine_reason=reason[:MAX_REASON],
        quarantine_by=by[:_MAX_BY],
    )
    if row.quarantined_at is None:
        _update(row, quarantined_at=moment, consecutive_quarantines=row.consecutive_quarantines + 1)


@retried_transaction
def backend_release(*, backend_id: str, by: str = "") -> None:
    """Release a backend from quarantine, on probation: one prompt at a time until one succeeds.

    Earlier failures count no more. Raises ``BackendNotFound``.
    """
    row = _lock_for_change(backend_id)
    if row.quarantined_at is not None:
        _update(row, **QUARANTINE_CLEARED, failures_reset_at=now())
        record(Action.BACKEND_RELEASED, backend_id, by=by)
        logger.info("%s was released from quarantine by %s.", backend_id, by or "a person")


def _update(row: Backend, **columns: Any) -> None:
    """Store a user's change; discovery removes no backend that a user has changed."""
    Backend.objects.filter(pk=row.pk).update(**columns, adopted_at=None)


def _lock_for_change(backend_id: str) -> Backend:
    """Lock the lease and the backend for a user's change, and notify the runners after the commit."""
    Lease.objects.select_for_update().filter(pk=backend_id).first()
    row = Backend.objects.select_for_update(no_key=True).filter(pk=backend_id).first()
    if row is None:
        raise BackendNotFound(backend_id)
    log.notify_runners_on_commit()
    return row


@retried_transaction
def quarantine_expire(*, fence: FencingToken) -> bool:
    """Release a backend whose quarantine has expired and that responds; probation follows.

    Returns whether this call released it; a user may have prolonged the quarantine meanwhile.
    """
    verify_fence(fence)
    moment = now()
    due = Backend.objects.filter(
        pk=fence.backend_id, quarantined_at__isnull=False, quarantine_until__lte=moment
    )
    return due.update(**QUARANTINE_CLEARED, failures_reset_at=moment) > 0


@retried_transaction
def backend_finish_drain(*, fence: FencingToken) -> bool:
    """Disable a draining backend without queued children and active attempts; return whether this
    call disabled it.

    Author and reason of the drain stay.
    """
    verify_fence(fence)
    # The full lock: a submission that names it is over, or comes after and sees it disabled.
    rows = Backend.objects.select_for_update()
    row = rows.filter(pk=fence.backend_id, hold=Hold.DRAIN.value, enabled=True).first()
    if row is None or open_children(row.id).exists() or active_attempts(row.id).exists():
        return False
    moment, reason = now(), f"drained: {row.changed_reason}" if row.changed_reason else "drained"
    changes = {"changed_reason": reason[:MAX_REASON], "changed_at": moment, "status_since": moment}
    rows.filter(pk=row.pk).update(**{**HOLD_CLEARED, **changes}, enabled=False)
    return True


def prompts_evict(*, fence: FencingToken) -> set[int]:
    """Request the stop of every prompt of ours at a backend that was held with ``evict``; return
    the attempts' ids.

    The child is queued again, there or on another backend. The attempt is not counted. It keeps its
    child from being claimed until its prompt is seen to end, so that nothing is rendered twice. A
    success that precedes the stop is the child's result.
    """
    active = Attempt.objects.filter(
        backend_id=fence.backend_id, ended_at__isnull=True, stop_requested_at__isnull=True
    )
    ids = list(active.order_by("id").values_list("id", flat=True))
    return {attempt_id for attempt_id in ids if _evict(attempt_id=attempt_id, fence=fence)}


@attempt_write
def _evict(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> bool:
    row = Backend.objects.filter(pk=attempt.backend_id).first()
    # It may have been resumed a moment ago.
    if row is None or not row.evict or not tx.request_stop([attempt.pk], StopReason.GIVEN_BACK):
        return False
    update_row(attempt, {"is_counted": False})
    ran = child.status == ChildStatus.RUNNING
    if requeue(tx, child, attempt):
        held = "drained" if row.hold == Hold.DRAIN else "paused"
        by = f" by {row.changed_by}" if row.changed_by else ""
        made = late_results.late_result(child)
        moved = made is None and reassign(
            tx, child, reason=f"{row.name} was {held}{by}, and gave its work back."
        )
        if ran and not moved:
            tx.add_event(
                log.child_requeued(child, attempt, f"given back: {row.name} was {held}{by}")
            )
        if made is not None:
            late_results.adopt_result(tx, child, made)
    return True
