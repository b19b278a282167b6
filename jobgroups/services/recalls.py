"""Recall: the prompt of a job of the pool is removed from a backend's queue, so that another backend can claim the job.

The job is claimed after the prompt is gone. A prompt that has started meanwhile is not interrupted, and the recall is
void, as a move is (``services.attempts``).
"""

from __future__ import annotations

from typing import Final

from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.states import AttemptState, ChildStatus, StopReason
from jobgroups.events import log
from jobgroups.models import Attempt
from jobgroups.services.requeue import requeue
from jobgroups.services.transactions import attempt_transaction

MAX_RECALLS: Final = 2  #: Recalls of a job within a run. A void one is not counted: its prompt has started.


@retry_on_conflict
def prompt_recall(*, attempt_id: int) -> bool:
    """Request the removal of a prompt that waits in a backend's queue. Any runner may do so.

    It makes no event, as the claim made none, and the attempt is not counted.

    Returns:
        Whether this call requested it. False: the prompt has started, ended or is being stopped, its job is bound, is
        paid or was recalled too often in this run.
    """
    with attempt_transaction(attempt_id, None) as (tx, child, attempt):
        if (
            # If the backend is offline then, the prompt is not waited for: it may be paid twice.
            tx.group.uses_partner_nodes
            or child.is_bound
            or child.status != ChildStatus.QUEUED
            or child.current_attempt_id != attempt.pk
            or attempt.state != AttemptState.ACCEPTED
        ):
            return False
        earlier = child.attempts.filter(run=child.run, stop_reason=StopReason.RECALLED).count()
        if earlier >= MAX_RECALLS or not tx.request_stop([attempt.pk], StopReason.RECALLED):
            return False
        Attempt.objects.filter(pk=attempt.pk).update(is_counted=False)
        requeue(tx, child, attempt)
        log.notify_runners_on_commit(work_only=True)
        return True
