"""Ends of attempts, and what follows for the child: it completes, is retried, requeued, or fails.

All of it happens in the transaction that stores the end, with group, child and attempt locked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.queries import name_of
from jobgroups.domain import outputs
from jobgroups.domain.clock import now
from jobgroups.domain.failures import TAXONOMY, FailureClass
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import (
    ATTEMPT_NEVER_RAN,
    CHILD_OPEN,
    AttemptState,
    ChildStatus,
    ErrorType,
    StopReason,
)
from jobgroups.domain.text import sentence
from jobgroups.events import log
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob
from jobgroups.serializers import to_json
from jobgroups.services import captures, exclusions, files, late_results, quarantine
from jobgroups.services.group_transaction import GroupTransaction, update_row
from jobgroups.services.requeue import attempts_with, requeue, schedule_retry


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, and the error that its child shows if it fails with it."""

    kind: FailureClass
    message: str
    details: Mapping[str, Any] | None = None
    type: ErrorType | None = None  #: Where it is not the class's own.

    @property
    def error_type(self) -> ErrorType:
        """The coarser type that clients see."""
        return self.type or TAXONOMY[self.kind].error_type

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that children and attempts have for it."""
        return {
            "error_message": self.message,
            "error_type": self.error_type,
            "error_details_json": None if self.details is None else to_json(self.details),
            "failure_class": self.kind.value,
        }


def close_attempt(
    tx: GroupTransaction, attempt: Attempt, state: AttemptState, **fields: Any
) -> bool:
    """Store a final state of an attempt, and what it means for its backend; return whether this
    call closed it.

    Every final state of an attempt whose backend is registered is stored here, before the child is
    decided.
    """
    known = attempt.failure_class
    if not tx.move_attempt(attempt, state, **{"ended_at": now(), **fields}):
        return False
    # A failure that was stored with the attempt's stop was counted then.
    if not known or attempt.failure_class != known:
        quarantine.record_result(attempt)
        exclusions.learn(attempt)
    return True


def columns_kept(attempt: Attempt) -> dict[str, Any] | None:
    """Return the failure that was stored with an attempt's stop, None where it has no message."""
    if attempt.ended_at is not None or not (attempt.failure_class and attempt.error_message):
        return None
    names = ("error_message", "error_type", "error_details_json", "failure_class")
    return {name: getattr(attempt, name) for name in names}


def stop_failed(
    tx: GroupTransaction,
    attempt: Attempt,
    reason: StopReason,
    kind: FailureClass,
    failure: Failure | None = None,
) -> bool:
    """Request the stop of an active attempt that has failed and may go on at its backend; return
    whether this call did.

    The attempt keeps the message of ``failure``, however its prompt ends.
    """
    if not tx.request_stop([attempt.pk], reason):
        return False
    update_row(attempt, {"failure_class": kind.value} if failure is None else failure.columns)
    # Its end, if it is ever seen, is no news of the backend any more.
    quarantine.record_result(attempt)
    exclusions.learn(attempt)
    return True


def handle_failure(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, failure: Failure, **fields: Any
) -> None:
    """Retry a child after its attempt failed, or fail it if the group's policy allows no retry.

    Nothing is done unless this attempt, whose failure class is stored, decides the child. A child
    that has a late result of another attempt completes with that result. If the child fails,
    ``failure`` and ``fields`` are stored with it.
    """
    if child.current_attempt_id != attempt.pk or child.status not in CHILD_OPEN:
        return
    if not retry_or_adopt(tx, child, attempt, failure):
        _fail_child(tx, child, attempt, failure, **fields)


def retry_or_adopt(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, failure: Failure
) -> bool:
    """Return whether the child continues after a failure: with the result of another attempt, or by
    a retry.

    The attempt decides the child, and its failure class is stored.
    """
    # Perhaps of a newer one: this may be an old one that was met after all.
    if (made := late_results.late_result(child)) is not None:
        return adopt_other_result(tx, child, attempt, made)
    return schedule_retry(tx, child, attempt, failure.kind, failure.message)


def adopt_other_result(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, made: Attempt
) -> bool:
    """Complete a child whose attempt failed with the late result of another attempt."""
    reason = f"attempt {made.number} at {name_of(made.backend_id)} completed; its result is used"
    return requeue_or_adopt(tx, child, attempt, reason=reason)


def _fail_child(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, failure: Failure, **fields: Any
) -> None:
    timeout = failure.kind is FailureClass.TIMEOUT
    columns = {**fields, **failure.columns, "attempt_count": attempts_with(child, attempt)}
    to = ChildStatus.TIMEOUT if timeout else ChildStatus.FAILED
    if not tx.move_child(child, to, attempt=attempt, **columns):
        return
    if timeout:
        tx.add_event(log.child_timeout(child, tx.group.time_limit))
    else:
        tx.add_event(log.child_failed(child))


#: Attempts of a child and run that may end without being charged before the child fails.
MAX_UNCOUNTED: Final = 5


#: Message of an attempt that the Director stopped. A newer timeout is stored with its stop.
_STOPPED: Final = {
    StopReason.CANCEL: "Cancelled",
    StopReason.TIMEOUT: "Timed out",
    StopReason.SUPERSEDED: "A newer attempt took its place",
    StopReason.GAVE_UP: "Given up",
    StopReason.GIVEN_BACK: "Given back: its backend was paused or drained",
    StopReason.MOVED: "Moved to another backend",
    StopReason.RECALLED: "Taken back: another backend can start it earlier",
    StopReason.PARTLY_REFUSED: "Stopped: ComfyUI refused a part of the workflow",
}


def files_of(backend_id: str, end: AttemptResult) -> tuple[dict[str, bool], dict[str, str]]:
    """Return the digest of each file of a result and whether it was written, and the origins of
    those that were.
    """
    origins = {
        digest: end.origins.get(node, "")
        for node in end.executed
        for digest in outputs.digests(backend_id, {node: end.node_outputs[node]}, ())
    }
    return outputs.digests(backend_id, end.node_outputs, end.executed), origins


def without_replaced(attempt: Attempt, end: AttemptResult) -> AttemptResult:
    """Record the files of a result, and return it with those files marked that a later job has
    replaced.

    Only a result that is stored late has such files, after the Director was not running.
    """
    attempt.backend_ended_at = end.backend_ended_at
    replaced = files.record(attempt, *files_of(attempt.backend_id, end))
    if not replaced:
        return end
    marked = outputs.mark_missing(end.outputs, attempt.backend_id, replaced)
    gone = [
        f"{output['filename']} was replaced: a later job wrote a file of the same name."
        for output in outputs.reported_files(marked)
        if output.get("reason") == outputs.REPLACED
    ]
    end = replace(end, outputs=marked, warnings=(*end.warnings, *gone))
    if end.state is not AttemptState.SUCCESS or not outputs.all_missing(marked):
        return end
    return replace(
        end,
        failure=FailureClass.OUTPUT_GONE,
        error_message=f"Every file of it was replaced before its end was stored: {gone[0]}",
        error_type=ErrorType.COMFYUI,
    )


def close_with_result(
    tx: GroupTransaction, attempt: Attempt, state: AttemptState, end: AttemptResult
) -> bool:
    if attempt.ended_at is not None:
        AbandonedPrompt.objects.filter(attempt=attempt).delete()
    message = end.error_message
    stopped = end.state is AttemptState.INTERRUPTED and attempt.stop_requested_at is not None
    if stopped and end.failure in (None, FailureClass.INTERRUPTED):
        # The Director interrupted it, not a user at the backend.
        message = attempt.error_message or _STOPPED[StopReason(attempt.stop_reason)]
    failure: dict[str, Any] = {
        "error_message": message,
        "error_type": end.error_type,
        "error_details_json": None if end.error_details is None else to_json(end.error_details),
        "failure_class": _class_stored(attempt, state, end),
    }
    if state is not AttemptState.SUCCESS:
        failure = columns_kept(attempt) or failure
    return close_attempt(tx, attempt, state, **failure, **result_columns(attempt, end))


def result_columns(attempt: Attempt, end: AttemptResult) -> dict[str, Any]:
    """Return the columns of an attempt's result, also of a failed one."""
    moment, seconds = now(), end.seconds
    # A clock of the backend that was changed while it executed says anything.
    is_possible = (
        seconds is not None and 0 <= seconds <= (moment - attempt.created_at).total_seconds()
    )
    columns: dict[str, Any] = {
        "started_at": attempt.started_at or (moment if end.ran else None),
        "backend_ended_at": end.backend_ended_at,
        "execution_seconds": seconds if is_possible else None,
        "outputs_json": to_json(end.outputs),
        "warnings_json": to_json(list(end.warnings)),
        "execution_json": to_json(end.execution),
    }
    return columns | ({"node_outputs_json": to_json(end.node_outputs)} if end.node_outputs else {})


def _class_stored(attempt: Attempt, state: AttemptState, end: AttemptResult) -> str:
    """Return the failure class to store with an attempt; "" if it did not fail."""
    if state is AttemptState.SUCCESS:
        # Also if a stop was pending: the prompt ended first.
        return end.failure or ""
    if attempt.failure_class:
        return attempt.failure_class
    asked_for = attempt.stop_requested_at is not None or not attempt.is_counted
    if state is AttemptState.INTERRUPTED and asked_for:
        return ""
    return _failure_of(end).kind


def _failure_of(end: AttemptResult) -> Failure:
    kind = end.failure
    if kind is None:
        interrupted = end.state is AttemptState.INTERRUPTED
        kind = FailureClass.INTERRUPTED if interrupted else FailureClass.NODE_ERROR
    return Failure(
        kind=kind,
        message=end.error_message or "",
        details=end.error_details,
        type=end.error_type or ErrorType.INTERNAL,
    )


def end_child(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    end: AttemptResult,
    refused: Failure | None,
) -> None:
    if child.status == ChildStatus.QUEUED and end.ran:
        # The runner saw no start: record it just before the end.
        tx.start_child(child, attempt)
    if end.state is not AttemptState.SUCCESS or refused is not None:
        handle_failure(tx, child, attempt, refused or _failure_of(end), **_last_step(end))
        return
    if end.failure is not None and retry_or_adopt(tx, child, attempt, _failure_of(end)):
        return
    if tx.move_child(child, ChildStatus.COMPLETED, attempt=attempt, **completed_columns(end)):
        captures.captures_enqueue([(child, attempt)])
        tx.add_event(log.child_completed(child))


def completed_columns(end: AttemptResult) -> dict[str, Any]:
    """Return the columns of a child that completes with a result."""
    return {
        "outputs_json": to_json(end.outputs),
        "warnings_json": to_json(list(end.warnings)),
        "progress": 100.0,
        "outputs_reused": bool(end.execution.get("outputs_reused")),
        **_last_step(end),
    }


def _last_step(end: AttemptResult) -> dict[str, Any]:
    """Return the progress columns that the progress flush, every 0.25 s, may not have stored."""
    if end.last_step is None:
        return {}
    step, completed, total = end.last_step
    return {"current_step": step, "steps_completed": completed, "steps_total": total}


def fail_attempt(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, state: AttemptState, failure: Failure
) -> bool:
    """Close an attempt that failed, and retry or fail its child; return whether this call closed
    the attempt.
    """
    columns = failure.columns
    if attempt.failure_class:
        # The failure was stored with the stop request. The way in which the prompt stopped is not
        # another one.
        columns = columns_kept(attempt) or {**columns, "failure_class": attempt.failure_class}
    closed = close_attempt(tx, attempt, state, **columns)
    if closed:
        handle_failure(tx, child, attempt, failure)
    return closed


def requeue_or_fail(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, reason: str, kind: FailureClass
) -> None:
    if child.current_attempt_id != attempt.pk or child.status not in CHILD_OPEN:
        return
    may_be_paid = tx.group.uses_partner_nodes and attempt.state not in ATTEMPT_NEVER_RAN
    if not may_be_paid and child.uncounted_attempts + 1 < MAX_UNCOUNTED:
        requeue_or_adopt(
            tx, child, attempt, reason=reason, uncounted_attempts=child.uncounted_attempts + 1
        )
        return
    message = sentence(f"Given up after {MAX_UNCOUNTED} tries that came to nothing; last: {reason}")
    if may_be_paid:
        message = sentence(f"Not sent again, since its partner nodes may have been paid: {reason}")
    failure = Failure(kind=kind, message=message, type=ErrorType.CONNECTION)
    # All of them together are one attempt that counts: else a policy could go on for ever.
    update_row(attempt, {"is_counted": True, "failure_class": kind.value})
    quarantine.record_result(attempt)
    handle_failure(tx, child, attempt, failure)


def requeue_or_adopt(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, reason: str, **fields: Any
) -> bool:
    """Queue a child again, or complete it with its late result; return whether this call did."""
    was_running = child.status == ChildStatus.RUNNING
    if not requeue(tx, child, attempt, **fields):
        return False
    if was_running:
        tx.add_event(log.child_requeued(child, attempt, reason))
    if (made := late_results.late_result(child)) is not None:
        late_results.adopt_result(tx, child, made)
    return True
