"""The statuses of groups, children and attempts, and every move between them.

Rule: what affects the state machines stands in the tables of this file. ``docs/states.md`` is
generated from them, the database's CHECK constraints repeat them, and every writer guards its
UPDATE with :func:`sources_of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self


class GroupStatus(StrEnum):
    """What a group as a whole is doing; derived from its children, never moved by itself."""

    PENDING = "pending"  #: Accepted while no runner was alive, nothing claimed yet.
    RUNNING = "running"  #: Something is not final, and not yet both a success and a failure.
    PARTIAL_COMPLETE = "partial_complete"  #: Some children succeeded and some failed.
    COMPLETED = "completed"  #: Every child completed.
    FAILED = "failed"  #: Every child is final and none completed.
    CANCELLED = "cancelled"  #: Somebody cancelled it while something was not final.


class ChildStatus(StrEnum):
    """What one variation of a group is doing, within the group's current run."""

    QUEUED = "queued"  #: Waits here, or accepted by ComfyUI and waiting in its queue.
    RUNNING = "running"  #: The backend has shown a first sign of executing it.
    COMPLETED = "completed"  #: ComfyUI's history says success.
    FAILED = "failed"  #: Refused, raised, lost, unreachable or interrupted by somebody.
    TIMEOUT = "timeout"  #: Ran longer than its timeout, or waited longer than a day.
    CANCELLED = "cancelled"  #: Somebody asked for it to stop.


class AttemptState(StrEnum):
    """How far one try of a child on one backend has come, as far as the Director knows."""

    INTENT = "intent"  #: Stored; ComfyUI may or may not have been asked yet.
    UNCERTAIN = "uncertain"  #: Asked, but no proper answer came: it may be queued there.
    ACCEPTED = "accepted"  #: ComfyUI has it (answered 200, or it was seen in its queue).
    RUNNING = "running"  #: ComfyUI has shown a sign of executing it.
    SUCCESS = "success"  #: Ended; ComfyUI's history says success.
    ERROR = "error"  #: Ended; ComfyUI raised an error.
    INTERRUPTED = "interrupted"  #: Ended; stopped by us or by somebody at the machine.
    TIMEOUT = "timeout"  #: Ended after it was stopped because its time was up.
    REFUSED = "refused"  #: ComfyUI answered, and did not take the prompt.
    NOT_SENT = "not_sent"  #: The connection never stood: nothing can have arrived.
    NEVER_ACCEPTED = "never_accepted"  #: Uncertain, then absent throughout the looks.
    LOST = "lost"  #: ComfyUI had it and forgot it: restarted, or somebody removed it.


CHILD_MOVES: Final[dict[ChildStatus, frozenset[ChildStatus]]] = {
    # A prompt can finish while nobody looks, so queued may go straight to any end. Running goes
    # back to queued only where the attempt ended uncharged (see AttemptState) or is tried again. A
    # person's retry is none of these moves: see CHILD_RETRIED.
    ChildStatus.QUEUED: frozenset(
        {
            ChildStatus.RUNNING,
            ChildStatus.COMPLETED,
            ChildStatus.FAILED,
            ChildStatus.TIMEOUT,
            ChildStatus.CANCELLED,
        }
    ),
    ChildStatus.RUNNING: frozenset(
        {
            ChildStatus.QUEUED,
            ChildStatus.COMPLETED,
            ChildStatus.FAILED,
            ChildStatus.TIMEOUT,
            ChildStatus.CANCELLED,
        }
    ),
    ChildStatus.COMPLETED: frozenset(),
    ChildStatus.FAILED: frozenset(),
    ChildStatus.TIMEOUT: frozenset(),
    ChildStatus.CANCELLED: frozenset(),
}

#: No backend's work and no cancel moves a child on from here.
CHILD_FINAL: Final = frozenset(status for status, targets in CHILD_MOVES.items() if not targets)
CHILD_OPEN: Final = frozenset(ChildStatus) - CHILD_FINAL
#: What a person's retry of an ended group queues again, in the next run.
CHILD_RETRIED: Final = CHILD_FINAL - {ChildStatus.COMPLETED}
#: What a person's retry of one child queues again within a run.
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

ATTEMPT_MOVES: Final[dict[AttemptState, frozenset[AttemptState]]] = {
    # An answer may be overtaken by the events of the prompt it is the answer to (two
    # connections), so an intent may start or end before its POST is answered.
    AttemptState.INTENT: _ENDED_THERE
    | {
        AttemptState.UNCERTAIN,
        AttemptState.ACCEPTED,
        AttemptState.RUNNING,
        AttemptState.REFUSED,
        AttemptState.NOT_SENT,
    },
    AttemptState.UNCERTAIN: _ENDED_THERE
    | {
        AttemptState.ACCEPTED,
        AttemptState.RUNNING,
        # An answer that was no refusal in form, after a look-up that found nothing queued.
        AttemptState.REFUSED,
        AttemptState.NEVER_ACCEPTED,
    },
    AttemptState.ACCEPTED: _ENDED_THERE | {AttemptState.RUNNING},
    AttemptState.RUNNING: _ENDED_THERE,
    AttemptState.SUCCESS: frozenset(),
    AttemptState.ERROR: frozenset(),
    AttemptState.INTERRUPTED: frozenset(),
    AttemptState.TIMEOUT: frozenset(),
    AttemptState.REFUSED: frozenset(),
    AttemptState.NOT_SENT: frozenset(),
    # A POST can land after all looks (a killed sender's bytes still arrive): what is then met on
    # the abandoned list is adopted, or its end is recorded.
    AttemptState.NEVER_ACCEPTED: frozenset(
        {AttemptState.RUNNING, AttemptState.ACCEPTED, AttemptState.SUCCESS, AttemptState.ERROR}
    )
    | {AttemptState.INTERRUPTED},
    AttemptState.LOST: frozenset(),
}

#: The prompt may stand or run at the backend: it takes a slot there.
ATTEMPT_ACTIVE: Final = frozenset(
    {
        AttemptState.INTENT,
        AttemptState.UNCERTAIN,
        AttemptState.ACCEPTED,
        AttemptState.RUNNING,
    }
)
ATTEMPT_ENDED: Final = frozenset(AttemptState) - ATTEMPT_ACTIVE


class StopReason(StrEnum):
    """Why the Director owes a backend the stop of one of its prompts."""

    CANCEL = "cancel"  #: Somebody cancelled the child or its group.
    TIMEOUT = "timeout"  #: The child's time was up.
    SUPERSEDED = "superseded"  #: The child went on under a newer attempt.
    GAVE_UP = "gave_up"  #: Its backend was away too long: the child ended or is tried elsewhere.
    GIVEN_BACK = "given_back"  #: Its backend was paused or drained at once: the child waits again.
    MOVED = "moved"  #: A person moved its waiting child. If it has started, it is not stopped.
    PARTLY_REFUSED = "partly_refused"  #: ComfyUI refused some outputs, and its group wants all.


class Elsewhere(StrEnum):
    """Where a child may be tried again, its own backend aside."""

    NEVER = "never"  #: Nowhere else: its backend was chosen by whoever submitted.
    GROUP = "group"  #: At the backends that the group was submitted to.
    ANY = "any"  #: At every backend that could have been chosen.


class Where(StrEnum):
    """Where a person wants a child retried."""

    SAME = "same"  #: At the backend that it is bound to.
    OTHER = "other"  #: At any other backend that works and has what the group requires.
    AUTO = "auto"  #: Elsewhere if its failure is one that another backend may not have.


class PartialOutputs(StrEnum):
    """What becomes of a child if ComfyUI accepts its prompt and refuses some of its outputs."""

    ACCEPT = "accept"  #: It completes with the other outputs, and a warning.
    FAIL = "fail"  #: Its prompt is stopped, and it fails with the class of the refusal.


class ErrorType(StrEnum):
    """``error_type`` of a child that did not complete, as clients see it."""

    COMFYUI = "ComfyUIError"  #: ComfyUI raised it while executing.
    VALIDATION = "ValidationError"  #: ComfyUI refused the workflow.
    CONNECTION = "ConnectionError"  #: Unreachable, or the prompt was lost there.
    INTERRUPTED = "Interrupted"  #: Somebody stopped it at the machine.
    TIMEOUT = "TimeoutError"  #: Its time was up.
    INTERNAL = "InternalError"  #: A defect of the Director; the log has the traceback.


def sources_of(target: ChildStatus) -> list[ChildStatus]:
    """Return the statuses from which a child may move to ``target``, in order of definition."""
    return [source for source, targets in CHILD_MOVES.items() if target in targets]


def attempt_sources_of(target: AttemptState) -> list[AttemptState]:
    """Return the states from which an attempt may move to ``target``, in order of definition."""
    return [source for source, targets in ATTEMPT_MOVES.items() if target in targets]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many children of a group stand where, as clients are told it.

    ``failed`` includes the timed out; ``final`` is what will not change any more in this run.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    final: int

    @classmethod
    def of(cls, statuses: Iterable[ChildStatus]) -> Self:
        """Count the statuses of a group's children, one entry per child."""
        return cls.from_mapping(Counter(statuses))

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
        """Whether the run has ended: ``completed_at`` is due."""
        return self.final == self.total


def group_status(
    counts: Mapping[ChildStatus, int],
    *,
    cancelled: bool,
    claimed: bool,
    accepted_without_runner: bool,
) -> GroupStatus:
    """Return a group's status; the rows of the contract's table are tried from the top.

    Args:
        counts: Number of children per status, at least one child in all.
        cancelled: The group was cancelled in this run while something was not final.
        claimed: Some child has been claimed by a runner in this run.
        accepted_without_runner: The group was accepted while no runner was alive.

    Raises:
        ValueError: There is no child.
    """
    tally = Counts.from_mapping(counts)
    if tally.total < 1:
        raise ValueError("a group has at least one child")
    if cancelled or (tally.all_final and not tally.completed and not tally.failed):
        return GroupStatus.CANCELLED
    if tally.all_final:
        return _ended(tally)
    if accepted_without_runner and not claimed:
        return GroupStatus.PENDING
    if tally.completed and tally.failed:
        return GroupStatus.PARTIAL_COMPLETE
    return GroupStatus.RUNNING


def _ended(tally: Counts) -> GroupStatus:
    """Return the status of a group whose children are all final, not all of them cancelled."""
    if tally.completed == tally.total:
        return GroupStatus.COMPLETED
    return GroupStatus.PARTIAL_COMPLETE if tally.completed else GroupStatus.FAILED
