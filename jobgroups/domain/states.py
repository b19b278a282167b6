"""The statuses of groups, children and attempts, and every move between them.

The tables of this file are the only definition of the state machines. ``docs/states.md`` is
generated from them, the CHECK constraints of the database repeat them, and every writer guards its
UPDATE with :func:`sources_of`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self


class GroupStatus(StrEnum):
    """The status of a group, derived from its children."""

    PENDING = "pending"  #: Accepted while no runner was alive; no child was claimed yet.
    RUNNING = "running"  #: A child is not final, and there is no success beside a failure yet.
    PARTIAL_COMPLETE = "partial_complete"  #: Some children succeeded and some failed.
    COMPLETED = "completed"  #: Every child completed, without those that `stop_when` stopped.
    FAILED = "failed"  #: Every child is final and none completed.
    CANCELLED = "cancelled"  #: Cancelled while a child was not final.


class ChildStatus(StrEnum):
    """The status of a child within the group's current run."""

    QUEUED = "queued"  #: Not sent yet, or in ComfyUI's queue.
    RUNNING = "running"  #: The backend has begun to execute it.
    COMPLETED = "completed"  #: Successful according to ComfyUI's history.
    FAILED = "failed"  #: Refused, raised, lost, unreachable, or interrupted at the backend.
    TIMEOUT = "timeout"  #: Ran longer than its timeout, or was queued longer than a day.
    #: Cancelled by a user, or not needed: `stop_when` of its group stopped it.
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """The state of one attempt of a child on one backend, as far as it is known."""

    INTENT = "intent"  #: Stored; the prompt may or may not have been sent.
    UNCERTAIN = "uncertain"  #: Sent without a valid response: ComfyUI may have queued it.
    ACCEPTED = "accepted"  #: ComfyUI has it: it responded with 200, or its queue contains it.
    RUNNING = "running"  #: ComfyUI has begun to execute it.
    SUCCESS = "success"  #: Ended; successful according to ComfyUI's history.
    ERROR = "error"  #: Ended; ComfyUI raised an error.
    INTERRUPTED = "interrupted"  #: Ended; stopped by the Director or at the backend.
    TIMEOUT = "timeout"  #: Ended; stopped after its timeout.
    REFUSED = "refused"  #: ComfyUI responded and did not accept the prompt.
    NOT_SENT = "not_sent"  #: There was no connection: nothing can have arrived.
    NEVER_ACCEPTED = "never_accepted"  #: Uncertain, then absent in every look-up.
    LOST = "lost"  #: ComfyUI had it and has lost it: by a restart or a removal.


_CHILD_ENDS: Final = frozenset(
    {ChildStatus.COMPLETED, ChildStatus.FAILED, ChildStatus.TIMEOUT, ChildStatus.CANCELLED}
)
CHILD_MOVES: Final = dict.fromkeys(ChildStatus, frozenset[ChildStatus]()) | {
    # A prompt can end between two look-ups, so queued may go directly to any end. Running returns
    # to queued only if the attempt ended without being counted (see AttemptState) or is retried.
    # The retry by a user is none of these moves: see CHILD_RETRIED.
    ChildStatus.QUEUED: _CHILD_ENDS | {ChildStatus.RUNNING},
    ChildStatus.RUNNING: _CHILD_ENDS | {ChildStatus.QUEUED},
}

#: Neither the work of a backend nor a cancel changes these.
CHILD_FINAL: Final = frozenset(status for status, targets in CHILD_MOVES.items() if not targets)
CHILD_OPEN: Final = frozenset(ChildStatus) - CHILD_FINAL
#: Queued again in the next run by a user's retry of an ended group.
CHILD_RETRIED: Final = CHILD_FINAL - {ChildStatus.COMPLETED}
#: Queued again within a run by a user's retry of a child.
CHILD_RETRIED_IN_RUN: Final = frozenset({ChildStatus.FAILED, ChildStatus.TIMEOUT})

_ENDED_THERE: Final = frozenset(
    {
        AttemptState.SUCCESS,
        AttemptState.ERROR,
        AttemptState.INTERRUPTED,
        AttemptState.TIMEOUT,
        AttemptState.LOST,
    }
)
_ARRIVED: Final = _ENDED_THERE | {AttemptState.ACCEPTED, AttemptState.RUNNING}

ATTEMPT_MOVES: Final = dict.fromkeys(AttemptState, frozenset[AttemptState]()) | {
    # Events may arrive before the response to the POST (two connections), so an intent may start or
    # end before it is accepted.
    AttemptState.INTENT: _ARRIVED
    | {AttemptState.UNCERTAIN, AttemptState.REFUSED, AttemptState.NOT_SENT},
    # Refused: after an invalid response and a look-up that did not find the prompt.
    AttemptState.UNCERTAIN: _ARRIVED | {AttemptState.REFUSED, AttemptState.NEVER_ACCEPTED},
    AttemptState.ACCEPTED: _ENDED_THERE | {AttemptState.RUNNING},
    AttemptState.RUNNING: _ENDED_THERE,
    # A POST can arrive after all look-ups (the bytes of a killed sender): the abandoned prompt is
    # then adopted, or its end is stored.
    AttemptState.NEVER_ACCEPTED: _ARRIVED - {AttemptState.TIMEOUT, AttemptState.LOST},
}

#: The prompt may be queued or running at the backend, and takes a slot there.
ATTEMPT_ACTIVE: Final = frozenset(
    {AttemptState.INTENT, AttemptState.UNCERTAIN, AttemptState.ACCEPTED, AttemptState.RUNNING}
)
ATTEMPT_ENDED: Final = frozenset(AttemptState) - ATTEMPT_ACTIVE
#: Ends of attempts of which nothing was executed.
ATTEMPT_NEVER_RAN: Final = frozenset(
    {AttemptState.REFUSED, AttemptState.NOT_SENT, AttemptState.NEVER_ACCEPTED}
)


class StopReason(StrEnum):
    CANCEL = "cancel"  #: A user or `stop_when` cancelled the child.
    TIMEOUT = "timeout"  #: The child's timeout has passed.
    SUPERSEDED = "superseded"  #: The child has a newer attempt.
    GAVE_UP = "gave_up"  #: Its backend was offline too long: the child has ended or moved.
    GIVEN_BACK = "given_back"  #: Evicted by a pause or drain: the child is queued again.
    MOVED = "moved"  #: A user moved its queued child. If it has started, it is not stopped.
    #: Its queued child may start earlier elsewhere. If it has started, it is not stopped.
    RECALLED = "recalled"
    PARTLY_REFUSED = "partly_refused"  #: ComfyUI refused some outputs, and its group requires all.


#: Stops that remove a prompt from a queue. A prompt that has started is not stopped: the stop is
#: void.
VOID_ONCE_STARTED: Final = (StopReason.MOVED, StopReason.RECALLED)


class Placement(StrEnum):
    BOUND = "bound"  #: Each was submitted to one backend.
    POOL = "pool"  #: A backend that is free and fits claims each.


class RetryScope(StrEnum):
    """On which backends other than its own a child may be retried."""

    NEVER = "never"  #: On no other: the submission chose its backend.
    GROUP = "group"  #: On the backends that the group was submitted to.
    ANY = "any"  #: On every backend that could have been chosen.


class Where(StrEnum):
    """Where a user requests the retry of a child."""

    SAME = "same"  #: On its own backend.
    OTHER = "other"  #: On another backend that works and has the required capabilities.
    AUTO = "auto"  #: On another backend if that may not have the failure.


class PartialOutputs(StrEnum):
    """What happens to a child if ComfyUI accepts its prompt and refuses some of its outputs."""

    ACCEPT = "accept"  #: It completes with the other outputs, and a warning.
    FAIL = "fail"  #: Its prompt is stopped, and it fails with the class of the refusal.


class ErrorType(StrEnum):
    """``error_type`` of a child that did not complete, as clients see it."""

    COMFYUI = "ComfyUIError"  #: ComfyUI raised it while executing.
    VALIDATION = "ValidationError"  #: ComfyUI refused the workflow.
    CONNECTION = "ConnectionError"  #: Unreachable, or the backend lost the prompt.
    INTERRUPTED = "Interrupted"  #: Stopped at the backend.
    TIMEOUT = "TimeoutError"  #: Its timeout has passed.
    INTERNAL = "InternalError"  #: An internal error of the Director; the log has the traceback.


def sources_of(target: ChildStatus) -> list[ChildStatus]:
    """Return the statuses from which a child may move to ``target``, in order of definition."""
    return [source for source, targets in CHILD_MOVES.items() if target in targets]


def attempt_sources_of(target: AttemptState) -> list[AttemptState]:
    """Return the states from which an attempt may move to ``target``, in order of definition."""
    return [source for source, targets in ATTEMPT_MOVES.items() if target in targets]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of a group's children, as clients see them.

    ``failed`` includes ``timeout``; ``final`` are those that do not change any more in this run.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    final: int

    @classmethod
    def from_mapping(cls, counts: Mapping[ChildStatus, int]) -> Self:
        """Sum up numbers per status; a status that is absent counts as 0."""
        return cls(
            total=sum(counts.values()),
            completed=counts.get(ChildStatus.COMPLETED, 0),
            failed=counts.get(ChildStatus.FAILED, 0) + counts.get(ChildStatus.TIMEOUT, 0),
            cancelled=counts.get(ChildStatus.CANCELLED, 0),
            final=sum(counts.get(status, 0) for status in CHILD_FINAL),
        )

    @property
    def all_final(self) -> bool:
        return self.final == self.total


def reaches(condition: Mapping[str, int], before: Mapping[str, int], counts: Counts) -> bool:
    """Return whether a change reaches a condition of ``stop_when`` while a child is not final.

    A count that had reached its limit before is ignored: otherwise a retry by a user would end at
    once.

    Args:
        condition: the limits of ``completed`` and ``failed``.
        before: the same counts before the change.
        counts: the numbers after it.
    """
    after = {"completed": counts.completed, "failed": counts.failed}
    return not counts.all_final and any(
        before[name] < limit <= after[name] for name, limit in condition.items()
    )


def group_status(
    counts: Mapping[ChildStatus, int],
    *,
    cancelled: bool,
    claimed: bool,
    accepted_without_runner: bool,
    stopped: int = 0,
) -> GroupStatus:
    """Return a group's status: the first row of the contract's table that applies.

    Args:
        counts: number of children per status; at least one child.
        stopped: how many of the cancelled ones ``stop_when`` stopped; the status ignores these.
        cancelled: whether the group was cancelled in this run while a child was not final.
        claimed: whether a runner has claimed a child.
        accepted_without_runner: whether the group was accepted while no runner was alive.

    Raises:
        ValueError: there is no child.
    """
    tally = Counts.from_mapping(counts)
    if tally.total < 1:
        raise ValueError("a group has at least one child")
    if cancelled or (tally.all_final and not tally.completed and not tally.failed):
        return GroupStatus.CANCELLED
    if tally.all_final:
        if tally.completed == tally.total - stopped:
            return GroupStatus.COMPLETED
        return GroupStatus.PARTIAL_COMPLETE if tally.completed else GroupStatus.FAILED
    if accepted_without_runner and not claimed:
        return GroupStatus.PENDING
    if tally.completed and tally.failed:
        return GroupStatus.PARTIAL_COMPLETE
    return GroupStatus.RUNNING
