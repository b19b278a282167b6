"""A retry by a person: the next run of a group that has ended.

Children that failed, timed out or were cancelled wait again, each with its own seed. One whose
picture was made after all gets it at once, and nothing is rendered for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobgroups import events
from jobgroups.clock import now
from jobgroups.errors import (
    ChildNotFound,
    GroupNotFinished,
    JobCompleted,
    NothingToRetry,
    RunPassed,
)
from jobgroups.hub import hub
from jobgroups.models import ChildJob
from jobgroups.services import adopting, rebinding
from jobgroups.services.writing import GroupWrite, group_transaction, unit_of_work
from jobgroups.states import CHILD_FINAL, ChildStatus, Elsewhere, GroupStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What a retry did."""

    group_id: str
    #: The run that it opened.
    run: int
    #: The group's status as the transaction left it; it has ended again where all were adopted.
    status: str
    #: Ids of the children that wait again, in the group's order.
    job_ids: Sequence[str]
    #: Ids of those whose picture had been made after all.
    adopted_job_ids: Sequence[str]
    #: Of the children that wait again, those that are bound to another backend now: id → backend.
    moved: Mapping[str, str]


@unit_of_work
def group_retry(
    *,
    group_id: str,
    job_ids: Sequence[str] | None = None,
    elsewhere: Elsewhere | None = None,
    run: int | None = None,
) -> Retried:
    """Open the next run of a group that has ended, and queue the chosen children again.

    All in one transaction: a second retry at the same time finds the group running.

    Args:
        group_id: the group.
        job_ids: which children; None: all that failed or timed out, in a cancelled group also what
            was cancelled.
        elsewhere: on which other backends they may be bound, for this choice alone; None: as the
            group says.
        run: the run that the caller saw; None: whichever it is.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
        RunPassed: the group is in another run than the caller saw.
        GroupNotFinished: something in it is not final.
        JobCompleted: a named child has its result.
        NothingToRetry: nobody was named, and nothing failed.
        BackendUnavailable: a child's backend takes nothing, and there is no other for it.
    """
    with group_transaction(group_id) as write:
        if run is not None and run != write.group.run:
            raise RunPassed(group_id, write.group.run, run)
        children = write.children()
        chosen = _chosen(write, children, job_ids)
        results = adopting.results(chosen)
        waiting = [child for child in chosen if child.id not in results]
        allowed = elsewhere or Elsewhere(write.group.retry_elsewhere)
        bound = rebinding.bind(write.group, waiting, allowed) if waiting else {}
        moved = {
            child.id: bound[child.id] for child in waiting if child.backend_id != bound[child.id]
        }
        bound |= {child_id: attempt.backend_id for child_id, attempt in results.items()}
        write.open_run()
        moment = now()
        for child in chosen:
            write.queue_again(child, backend_id=bound[child.id], moment=moment)
        write.add(events.group_reopened(write.group, chosen))
        for child in chosen:
            if child.id in results:
                adopting.adopt(write, child, results[child.id])
    hub.tell_work()
    return Retried(
        group_id=group_id,
        run=write.group.run,
        status=write.group.status,
        job_ids=[child.id for child in waiting],
        adopted_job_ids=[child.id for child in chosen if child.id in results],
        moved=moved,
    )


# --- which children -------------------------------------------------------------------------------


def _chosen(
    write: GroupWrite, children: Sequence[ChildJob], job_ids: Sequence[str] | None
) -> list[ChildJob]:
    if job_ids is not None:
        known = {child.id for child in children}
        for job_id in job_ids:
            if job_id not in known:
                raise ChildNotFound(job_id)
    unfinished = sum(child.status not in CHILD_FINAL for child in children)
    if write.group.completed_at is None:
        raise GroupNotFinished(write.group.id, unfinished)
    if job_ids is not None:
        return _named(children, set(job_ids))
    wanted = {ChildStatus.FAILED, ChildStatus.TIMEOUT}
    if write.group.status == GroupStatus.CANCELLED:
        wanted.add(ChildStatus.CANCELLED)
    chosen = [child for child in children if child.status in wanted]
    if not chosen:
        raise NothingToRetry(write.group.id)
    return chosen


def _named(children: Sequence[ChildJob], job_ids: set[str]) -> list[ChildJob]:
    chosen = [child for child in children if child.id in job_ids]
    completed = [child.id for child in chosen if child.status == ChildStatus.COMPLETED]
    if completed:
        raise JobCompleted(completed)
    return chosen
