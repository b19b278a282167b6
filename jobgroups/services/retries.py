"""Retry by a user: the next run of a group that has ended, or one child of a running group.

Children that failed, timed out or were cancelled are queued again, each with its own seed. A child
with a late result completes with it and is not rendered again. A child that ``stop_when`` stopped
is retried only if it is named.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from jobgroups import metrics
from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.shapes.groups import RetryResult
from jobgroups.domain.states import (
    CHILD_FINAL,
    CHILD_RETRIED_IN_RUN,
    ChildStatus,
    GroupStatus,
    Placement,
    Where,
)
from jobgroups.errors import (
    ChildNotFound,
    GroupNotFinished,
    JobCompleted,
    JobNotFailed,
    NothingToRetry,
    RunPassed,
)
from jobgroups.events import log
from jobgroups.models import ChildJob, JobGroup, Variant
from jobgroups.services import assignment, late_results
from jobgroups.services.assets import assets_use_again
from jobgroups.services.assignment import Choice
from jobgroups.services.audit import record
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.transactions import group_transaction
from jobgroups.services.write_start import begin_write

AS_THE_GROUP_SAYS: Final = Choice()  #: The group's policy decides about the backends.


def group_retry(
    *,
    group_id: str,
    job_ids: Sequence[str] | None = None,
    choice: Choice = AS_THE_GROUP_SAYS,
    run: int | None = None,
    by: str = "",
) -> RetryResult:
    """Open the next run of a group that has ended, and queue the chosen children again.

    All in one transaction: a second retry at the same time finds the group running. ``job_ids``
    None: all that failed or timed out, in a cancelled group also what was cancelled. ``run`` is the
    run that the caller saw; None: any.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
        RunPassed: the group is in another run than the caller saw.
        GroupNotFinished: something in it is not final.
        JobCompleted: a named child has its result.
        NothingToRetry: no job was named, and none failed.
        BackendNotFound, BackendUnavailable, NoOtherBackend: a child can wait nowhere, or not there.
        AssetDeleted: an input file of the group was deleted.
        Overloaded: the write has not begun in time.
    """
    return _retry(
        group_id,
        lambda tx: _choose(tx, tx.children(), job_ids),
        choice,
        run,
        by,
        action=Action.GROUP_RETRIED,
    )


def child_retry(
    *,
    group_id: str,
    job_id: str,
    choice: Choice = AS_THE_GROUP_SAYS,
    run: int | None = None,
    by: str = "",
) -> RetryResult:
    """Queue one child again: within the run while its group runs (if it failed or timed out), else
    in the next run.

    The group's lock decides which of the two it is: the run's last child may end at the same time.
    Arguments and errors are those of :func:`group_retry`. Raises ``JobNotFailed`` if the group
    runs, and the child has not failed.
    """

    def choose(tx: GroupTransaction) -> list[ChildJob]:
        chosen = _refuse_completed(_known_children(tx.children(pk=job_id), [job_id]))
        is_open = tx.group.completed_at is None
        if is_open and chosen[0].status not in CHILD_RETRIED_IN_RUN:
            raise JobNotFailed(job_id, chosen[0].status)
        return chosen

    return _retry(group_id, choose, choice, run, by, action=Action.JOB_RETRIED)


@retry_on_conflict
def _retry(
    group_id: str,
    choose: Callable[[GroupTransaction], list[ChildJob]],
    choice: Choice,
    run: int | None,
    by: str,
    *,
    action: Action,
) -> RetryResult:
    with group_transaction(group_id) as tx:
        begin_write()
        if run is not None and run != tx.group.run:
            raise RunPassed(group_id, tx.group.run, run)
        done = _queue_again(tx, choose(tx), choice, by)
        record(action, group_id, by=by, jobs=done.job_ids + done.adopted_job_ids, run=done.run)
    # The transaction has derived the group from its children when it ended.
    return replace(done, status=tx.group.status)


def _queue_again(
    tx: GroupTransaction, chosen: Sequence[ChildJob], choice: Choice, by: str
) -> RetryResult:
    """Queue children again: in the next run if this one has ended, else within it."""
    results = late_results.late_results(chosen)
    waiting = [child for child in chosen if child.id not in results]
    if waiting:
        assets_use_again(tx.group, waiting)
    pooled, assigned = _part(tx.group, waiting, choice)
    assignment.check_pool(tx.group, pooled)
    bound: dict[str, str] = (
        assignment.assign_backends(tx.group, assigned, choice) if assigned else {}
    )
    moved = {child.id: bound[child.id] for child in assigned if child.backend_id != bound[child.id]}
    bound |= {child_id: attempt.backend_id for child_id, attempt in results.items()}
    opens_run = tx.group.completed_at is not None
    if opens_run:
        tx.start_next_run()
    moment = now()
    if opens_run:
        Variant.objects.filter(group=tx.group).update(queued_at=moment, unplaced_since=None)
        JobGroup.objects.filter(pk=tx.group.pk).update(
            ordered_at=None, front_at=None, waiting_since=moment
        )
    for child in chosen:
        left, kind, reason = child.backend_id or "", child.failure_class, child.error_message
        tx.reset_for_retry(child, backend_id=bound.get(child.id), moment=moment)
        if not opens_run:
            tx.add_event(
                log.child_retrying(
                    child,
                    previous_backend_id=left,
                    failure_class=FailureClass(kind) if kind else None,
                    reason=reason or "",
                    requested_by=by or log.A_PERSON,
                )
            )
    log.notify_runners_on_commit(work_only=True)
    metrics.count_on_commit(metrics.retries, "user", by=len(waiting))
    if opens_run:
        tx.add_event(log.group_reopened(tx.group, chosen, by=by))
    if choice.names_a_backend:
        assignment.unblock_unreachable([child for child in waiting if child.id in moved])
    for child in chosen:
        if child.id in results:
            late_results.adopt_result(tx, child, results[child.id])
    return RetryResult(
        job_group_id=tx.group.id,
        run=tx.group.run,
        status=tx.group.status,
        job_ids=tuple(child.id for child in waiting),
        adopted_job_ids=tuple(child.id for child in chosen if child.id in results),
        moved=moved,
    )


def _part(
    group: JobGroup, children: Sequence[ChildJob], choice: Choice
) -> tuple[list[ChildJob], list[ChildJob]]:
    """Return the children that wait in the pool again, and those that are assigned to a backend."""
    if group.placement != Placement.POOL or choice.names_a_backend:
        return [], list(children)
    # At the same backend: one that had none waits in the pool.
    same = choice.where is Where.SAME
    assigned = [child for child in children if same and child.backend_id]
    return [child for child in children if child not in assigned], assigned


def _choose(
    tx: GroupTransaction, children: Sequence[ChildJob], job_ids: Sequence[str] | None
) -> list[ChildJob]:
    named = None if job_ids is None else _known_children(children, job_ids)
    unfinished = sum(child.status not in CHILD_FINAL for child in children)
    if tx.group.completed_at is None:
        raise GroupNotFinished(tx.group.id, unfinished)
    if named is not None:
        return _refuse_completed(named)
    wanted = {ChildStatus.FAILED, ChildStatus.TIMEOUT}
    if tx.group.status == GroupStatus.CANCELLED:
        wanted.add(ChildStatus.CANCELLED)
    chosen = [child for child in children if child.status in wanted and not child.stopped_by]
    if not chosen:
        raise NothingToRetry(tx.group.id)
    return chosen


def _known_children(children: Sequence[ChildJob], job_ids: Sequence[str]) -> list[ChildJob]:
    """Return the named children, in the group's order."""
    known = {child.id for child in children}
    for job_id in job_ids:
        if job_id not in known:
            raise ChildNotFound(job_id)
    return [child for child in children if child.id in set(job_ids)]


def _refuse_completed(chosen: list[ChildJob]) -> list[ChildJob]:
    completed = [child.id for child in chosen if child.status == ChildStatus.COMPLETED]
    if completed:
        raise JobCompleted(completed)
    return chosen
