"""Moves by users: a queued child is assigned to another backend. Recalls: a job goes back to the
pool.

If its prompt is in the old backend's queue, the runner removes it first; the child is claimed after
the prompt is gone. A prompt that has started meanwhile is not interrupted, and the move is void
(``services.attempts``).
"""

from __future__ import annotations

from typing import Final

from django.db.models import Q

from backends.queries import name_of
from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.audit import Action
from jobgroups.domain.failures import OVERTAKEN
from jobgroups.domain.shapes.groups import MoveResult
from jobgroups.domain.states import AttemptState, ChildStatus, StopReason
from jobgroups.errors import ChildNotFound, JobNotWaiting
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob
from jobgroups.queries.pauses import current_pauses
from jobgroups.services import assignment
from jobgroups.services.audit import record
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.requeue import requeue
from jobgroups.services.transactions import attempt_transaction, group_transaction


@retry_on_conflict
def child_move(*, group_id: str, job_id: str, backend_id: str, by: str = "") -> MoveResult:
    """Assign a queued child to another backend. A child of the pool is bound to that backend from
    then on.

    The backend may be paused or away.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
        JobNotWaiting: it runs, or has ended.
        BackendNotFound: the backend is not registered.
        BackendUnavailable: it takes nothing, or lacks what the group requires.
    """
    with group_transaction(group_id) as tx:
        children = tx.children(pk=job_id)
        if not children:
            raise ChildNotFound(job_id)
        child = children[0]
        if child.status != ChildStatus.QUEUED:
            raise JobNotWaiting(job_id, child.status, name_of(child.backend_id or ""))
        moved = child.backend_id != backend_id or not child.is_bound
        if moved:
            assignment.assign_named(tx.group, backend_id)
            _move(tx, child, backend_id, by)
            record(Action.JOB_MOVED, group_id, by=by, job=job_id, backend=backend_id)
            log.notify_runners_on_commit(work_only=True)
        removed = child.attempts.filter(ended_at__isnull=True, stop_requested_at__isnull=False)
        # As in services.claims: what hangs, or is out of reach, keeps no child from another
        # backend.
        overtaken = Q(failure_class__in=OVERTAKEN)
        removed = removed.exclude(overtaken & ~Q(backend_id=backend_id))
        removing_from = removed.values_list("backend_id", flat=True).first()
    return MoveResult(
        job_group_id=group_id,
        job_id=job_id,
        backend_id=backend_id,
        moved=moved,
        removing_from=removing_from,
    )


def _move(tx: GroupTransaction, child: ChildJob, backend_id: str, by: str) -> None:
    left, attempt = child.backend_id or "", child.current_attempt
    if attempt is not None:
        # Accepted, on its way, or perhaps there: what it is, the runner finds out, and removes it.
        tx.request_stop([attempt.pk], StopReason.MOVED)
        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)
    requeue(tx, child, attempt, backend_id=backend_id, is_bound=True, not_before=None)
    assignment.unblock_unreachable([child])
    person = by or log.A_PERSON
    reason = f"Moved from {left or 'no backend'} by {person}."
    tx.add_event(
        log.child_retrying(
            child, previous_backend_id=left, failure_class=None, reason=reason, requested_by=person
        )
    )


#: Recalls of a job within a run. A void one is not counted: its prompt has started.
MAX_RECALLS: Final = 2


#: Message of the attempt of a prompt that was taken back since its job is paused, which is no
#: recall that counts.
_PAUSED: Final = "Taken back: its job is paused"


@retry_on_conflict
def prompt_recall(*, attempt_id: int, is_paused: bool = False) -> bool:
    """Request the removal of a prompt that waits in a backend's queue. Any runner may do so.

    It makes no event, as the claim made none, and the attempt is not counted. ``is_paused``: its
    job is paused. A bound job goes back to the queue of its backend then.

    Returns:
        Whether this call requested it. False: the prompt has started, ended or is being stopped,
        its job is paid, or it is not paused and is bound or was recalled too often in this run.
    """
    with attempt_transaction(attempt_id, None) as (tx, child, attempt):
        if is_paused and current_pauses().of(tx.group.id, tx.group.share_name) is None:
            return False
        if (
            # If the backend is offline then, the prompt is not waited for: it may be paid twice.
            tx.group.uses_partner_nodes
            or (child.is_bound and not is_paused)
            or child.status != ChildStatus.QUEUED
            or child.current_attempt_id != attempt.pk
            or attempt.state != AttemptState.ACCEPTED
        ):
            return False
        earlier = child.attempts.filter(run=child.run, stop_reason=StopReason.RECALLED)
        counted = earlier.filter(~Q(error_message=_PAUSED) | Q(error_message__isnull=True))
        if (not is_paused and counted.count() >= MAX_RECALLS) or not tx.request_stop(
            [attempt.pk], StopReason.RECALLED
        ):
            return False
        message = _PAUSED if is_paused else None
        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False, error_message=message)
        requeue(tx, child, attempt)
        log.notify_runners_on_commit(work_only=True)
        return True
