"""Backends held back: paused, drained and set aside by people, and what that does to what is there.

What a person says takes the backend's lease for a moment: every claim holds it too, so that none
comes between the look and the word. What a runner does about it is fenced by that lease.
"""

from __future__ import annotations

import datetime as dt
import logging

from django.db import transaction

from backends import holds
from backends.models import Backend
from backends.states import Hold
from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import ChildStatus, StopReason
from jobgroups.errors import BackendNotFound
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, Lease
from jobgroups.queries.backends import backend_in_use
from jobgroups.services import late_results
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.leases import verify_fence
from jobgroups.services.requeue import reassign, requeue
from jobgroups.services.transactions import group_transaction

logger = logging.getLogger(__name__)

# --- said by people -------------------------------------------------------------------------------


@retry_on_conflict
def backend_hold(
    *, backend_id: str, hold: Hold, at_once: bool = False, reason: str = "", by: str = ""
) -> None:
    """Pause or drain a backend: from now on nothing is claimed for it.

    Args:
        backend_id: a disabled one takes nothing anyway, and stays as it is.
        hold: pause or drain; the later word replaces the earlier one.
        at_once: what runs there is given back, not awaited: the runner owes that, whatever dies.
        reason, by: in the person's words.

    Raises:
        BackendNotFound: there is none with this id.
    """
    with transaction.atomic():
        row = _lock_for_change(backend_id)
        holds.backend_hold(row=row, hold=hold, at_once=at_once, reason=reason, by=by, moment=now())


@retry_on_conflict
def backend_resume(*, backend_id: str, by: str = "") -> None:
    """End a pause or drain. What was given back meanwhile is not taken back.

    Raises:
        BackendNotFound: there is none with this id.
    """
    with transaction.atomic():
        holds.backend_resume(row=_lock_for_change(backend_id), by=by, moment=now())


@retry_on_conflict
def backend_quarantine(
    *, backend_id: str, reason: str = "", by: str = "", minutes: float | None = None
) -> None:
    """Set a backend aside: it gets no prompt until it is released. What stands there is finished.

    Args:
        backend_id: the backend.
        reason, by: in the person's words.
        minutes: after so long it is tried again; None: when somebody releases it.

    Raises:
        BackendNotFound: there is none with this id.
    """
    with transaction.atomic():
        row = _lock_for_change(backend_id)
        moment = now()
        until = None if minutes is None else moment + dt.timedelta(minutes=minutes)
        holds.backend_quarantine(
            row=row, reason=reason, by=by or "a person", moment=moment, until=until
        )


@retry_on_conflict
def backend_release(*, backend_id: str, by: str = "") -> None:
    """Let a backend out of quarantine, on probation: one prompt at a time until one succeeds.

    Raises:
        BackendNotFound: there is none with this id.
    """
    with transaction.atomic():
        _lock_for_change(backend_id)
        if holds.backend_release(backend_id=backend_id, moment=now()):
            logger.info("%s was released from quarantine by %s.", backend_id, by or "a person")


def _lock_for_change(backend_id: str) -> Backend:
    """Lock the lease and the backend for a user's change, and notify the runners after the commit."""
    Lease.objects.select_for_update().filter(pk=backend_id).first()
    row = Backend.objects.select_for_update(no_key=True).filter(pk=backend_id).first()
    if row is None:
        raise BackendNotFound(backend_id)
    log.notify_runners_on_commit()
    return row


# --- carried out by the runner --------------------------------------------------------------------


@retry_on_conflict
def quarantine_expire(*, fence: FencingToken) -> bool:
    """A quarantine's time is over and the backend answers: it is on probation now.

    Returns:
        Whether it was let out by this call; a person may have prolonged it meanwhile.
    """
    with transaction.atomic():
        verify_fence(fence)
        return holds.backend_release(backend_id=fence.backend_id, moment=now(), due_only=True)


@retry_on_conflict
def backend_finish_drain(*, fence: FencingToken) -> bool:
    """Disable a draining backend if no child is left for it and nothing of ours is there.

    Returns:
        Whether it was disabled by this call.
    """
    with transaction.atomic():
        verify_fence(fence)
        # The full lock: a submission that names it is over, or comes after and sees it disabled.
        rows = Backend.objects.select_for_update()
        row = rows.filter(pk=fence.backend_id, hold=Hold.DRAIN.value, enabled=True).first()
        if row is None or any(backend_in_use(fence.backend_id)):
            return False
        holds.backend_finish_drain(row=row, moment=now())
        return True


def prompts_evict(*, fence: FencingToken) -> set[int]:
    """Owe the stop of every prompt of ours at a backend that was held at once.

    Its child waits again, there or elsewhere; the attempt is not charged, and not one of those that
    come to nothing. An old attempt keeps its child from being claimed until its prompt is seen to end,
    so that none is rendered twice. A success that was quicker than the stop is the child's result.

    Returns:
        Ids of the attempts whose stop is owed by this call.
    """
    active = Attempt.objects.filter(
        backend_id=fence.backend_id, ended_at__isnull=True, stop_requested_at__isnull=True
    )
    stopped: set[int] = set()
    for attempt_id, group_id in list(active.order_by("id").values_list("id", "child__group_id")):
        if _evict(attempt_id, group_id, fence):
            stopped.add(attempt_id)
    return stopped


@retry_on_conflict
def _evict(attempt_id: int, group_id: str, fence: FencingToken) -> bool:
    with group_transaction(group_id, fence=fence) as tx:
        row = Backend.objects.filter(pk=fence.backend_id).first()
        if row is None or not row.evict:
            # Resumed a moment ago.
            return False
        child = ChildJob.objects.select_for_update(of=("self",)).get(attempts=attempt_id)
        attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
        if not tx.request_stop([attempt.pk], StopReason.GIVEN_BACK):
            return False
        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)
        _requeue(tx, child, attempt, row)
        return True


def _requeue(tx: GroupTransaction, child: ChildJob, attempt: Attempt, row: Backend) -> None:
    ran = child.status == ChildStatus.RUNNING
    if not requeue(tx, child, attempt):
        return
    held = "drained" if row.hold == Hold.DRAIN else "paused"
    by = f" by {row.changed_by}" if row.changed_by else ""
    made = late_results.late_result(child)
    moved = made is None and reassign(
        tx, child, reason=f"{row.id} was {held}{by}, and gave its work back."
    )
    if ran and not moved:
        tx.add_event(log.child_requeued(child, attempt, f"given back: {row.id} was {held}{by}"))
    if made is not None:
        late_results.adopt_result(tx, child, made)
