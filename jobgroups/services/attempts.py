"""One attempt's life, as far as it is written: accepted, started, ended, lost, given back.

Every function here is fenced by the lease under which the runner holds the backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from jobgroups import events
from jobgroups.clock import now, unjumped
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob
from jobgroups.services.writing import Fence, GroupWrite, group_transaction, unit_of_work
from jobgroups.shapes import compact
from jobgroups.states import (
    AttemptState,
    ChildStatus,
    ErrorType,
    StopReason,
)

#: Attempts of a child and run that may end without being charged before the child fails.
MAX_UNCHARGED: Final = 5


@dataclass(frozen=True, slots=True)
class AttemptNow:
    """An attempt as the transaction that wrote it left it."""

    state: AttemptState
    stop_requested: bool
    #: Whether it is (still) the attempt that decides its child.
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How ComfyUI says that a prompt ended."""

    state: AttemptState
    outputs: Mapping[str, Any]
    node_outputs: Mapping[str, Any] = field(default_factory=dict)
    error_message: str | None = None
    error_type: ErrorType | None = None
    error_details: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    #: False where it never came to execute: it was deleted from the backend's queue.
    ran: bool = True
    #: Where it had come to, as the stream last told it: step, its steps done and in all.
    last_step: tuple[str | None, int, int] | None = None


@contextmanager
def _attempt_transaction(
    attempt_id: int, fence: Fence | None
) -> Iterator[tuple[GroupWrite, ChildJob, Attempt]]:
    """Lock lease, group, child, attempt in this order, and load the two rows under the lock."""
    child_id, group_id = Attempt.objects.values_list("child_id", "child__group_id").get(
        pk=attempt_id
    )
    with group_transaction(group_id, fence=fence) as write:
        child = ChildJob.objects.select_for_update().get(pk=child_id)
        attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
        yield write, child, attempt


def _now_of(child: ChildJob, attempt: Attempt) -> AttemptNow:
    return AttemptNow(
        state=AttemptState(attempt.state),
        stop_requested=attempt.stop_requested_at is not None,
        current=child.current_attempt_id == attempt.pk,
    )


# --- on its way -----------------------------------------------------------------------------------


@unit_of_work
def attempt_uncertain(*, attempt_id: int, fence: Fence) -> AttemptNow:
    """The POST was sent and no proper answer came: it may be queued there."""
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        write.move_attempt(attempt, AttemptState.UNCERTAIN, uncertain_since=now())
        return _now_of(child, attempt)


@unit_of_work
def attempt_accepted(*, attempt_id: int, fence: Fence, prompt_id: str | None = None) -> AttemptNow:
    """ComfyUI has the prompt. What is returned tells whether a stop was asked for meanwhile.

    Args:
        attempt_id: the attempt.
        fence: the lease on its backend.
        prompt_id: the id under which it stands there, where that is not ours: a ComfyUI older than
            July 2025 chooses its own, and its answer is the truth.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        write.move_attempt(attempt, AttemptState.ACCEPTED, accepted_at=now())
        if prompt_id is not None:
            Attempt.objects.filter(pk=attempt.pk).update(prompt_id=prompt_id)
        return _now_of(child, attempt)


@unit_of_work
def attempt_started(*, attempt_id: int, fence: Fence) -> AttemptNow:
    """The first sign of execution: the child runs, if this is its attempt and nobody ended it."""
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        # One that was closed as never accepted is adopted by abandoned_met, or not at all.
        if attempt.ended_at is None and write.move_attempt(
            attempt, AttemptState.RUNNING, started_at=now()
        ):
            _child_started(write, child, attempt)
        return _now_of(child, attempt)


def _child_started(write: GroupWrite, child: ChildJob, attempt: Attempt) -> None:
    started = write.move_child(
        child,
        ChildStatus.RUNNING,
        attempt=attempt,
        started_at=attempt.started_at,
        attempt_count=attempt.number,
    )
    if started:
        write.add(events.child_started(child, attempt))


@unit_of_work
def attempt_reported(*, attempt_id: int, fence: Fence, node_outputs: Mapping[str, Any]) -> None:
    """Keep the nodes' outputs as they come: they decide where the history was cleared."""
    with _attempt_transaction(attempt_id, fence) as (_write, _child, attempt):
        Attempt.objects.filter(pk=attempt.pk, ended_at__isnull=True).update(
            node_outputs_json=compact(node_outputs)
        )


# --- its end --------------------------------------------------------------------------------------


@unit_of_work
def attempt_ended(*, attempt_id: int, fence: Fence, end: End) -> bool:
    """Store the end that ComfyUI told; it is the child's end too if this is its current attempt.

    Returns:
        Whether this call closed the attempt. A second telling of an end changes nothing.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        state = end.state
        if state is AttemptState.INTERRUPTED and attempt.stop_reason == StopReason.TIMEOUT:
            state = AttemptState.TIMEOUT
        if state is AttemptState.SUCCESS:
            _adopt_late(child, attempt)
        if not _close(write, attempt, state, end):
            return False
        if child.current_attempt_id == attempt.pk:
            _end_child(write, child, attempt, end)
        return True


def _adopt_late(child: ChildJob, attempt: Attempt) -> None:
    """Let an attempt that was closed too early decide its child again, where nobody else does."""
    if attempt.state == AttemptState.NEVER_ACCEPTED and _is_free(child):
        ChildJob.objects.filter(pk=child.pk).update(current_attempt=attempt)
        child.current_attempt = attempt


def _is_free(child: ChildJob) -> bool:
    return child.status == ChildStatus.QUEUED and child.current_attempt_id is None


def _close(write: GroupWrite, attempt: Attempt, state: AttemptState, end: End) -> bool:
    AbandonedPrompt.objects.filter(attempt=attempt).delete()
    fields: dict[str, Any] = {"started_at": attempt.started_at or (now() if end.ran else None)}
    if end.node_outputs:
        fields["node_outputs_json"] = compact(end.node_outputs)
    return write.move_attempt(
        attempt,
        state,
        ended_at=now(),
        outputs_json=compact(end.outputs),
        error_message=end.error_message,
        error_type=end.error_type,
        error_details_json=None if end.error_details is None else compact(end.error_details),
        **fields,
    )


def _end_child(write: GroupWrite, child: ChildJob, attempt: Attempt, end: End) -> None:
    if child.status == ChildStatus.QUEUED and end.ran:
        # It ran while nobody looked: the start is recorded just before the end.
        _child_started(write, child, attempt)
    if end.state is AttemptState.SUCCESS:
        moved = write.move_child(
            child,
            ChildStatus.COMPLETED,
            attempt=attempt,
            outputs_json=compact(end.outputs),
            warnings_json=compact(list(end.warnings)),
            progress=100.0,
            **_last_step(end),
        )
        if moved:
            write.add(events.child_completed(child))
    else:
        _fail(
            write,
            child,
            attempt,
            message=end.error_message or "",
            error_type=end.error_type or ErrorType.INTERNAL,
            details=end.error_details,
            **_last_step(end),
        )


def _last_step(end: End) -> dict[str, Any]:
    """Return the columns that the flush, which runs four times a second, may not have stored."""
    if end.last_step is None:
        return {}
    step, completed, total = end.last_step
    return {"current_step": step, "steps_completed": completed, "steps_total": total}


def _fail(
    write: GroupWrite,
    child: ChildJob,
    attempt: Attempt,
    *,
    message: str,
    error_type: ErrorType,
    details: Mapping[str, Any] | None,
    **fields: Any,
) -> None:
    moved = write.move_child(
        child,
        ChildStatus.FAILED,
        attempt=attempt,
        attempt_count=attempt.number,
        **fields,
        error_message=message,
        error_type=error_type,
        error_details_json=None if details is None else compact(details),
    )
    if moved:
        write.add(events.child_failed(child))


def _fail_both(
    write: GroupWrite,
    child: ChildJob,
    attempt: Attempt,
    state: AttemptState,
    *,
    message: str,
    error_type: ErrorType,
    details: Mapping[str, Any] | None = None,
) -> bool:
    closed = write.move_attempt(
        attempt,
        state,
        ended_at=now(),
        error_message=message,
        error_type=error_type,
        error_details_json=None if details is None else compact(details),
    )
    if closed:
        _fail(write, child, attempt, message=message, error_type=error_type, details=details)
    return closed


@unit_of_work
def attempt_refused(
    *, attempt_id: int, fence: Fence, message: str, details: Mapping[str, Any]
) -> bool:
    """ComfyUI refused the workflow: the child fails with its message."""
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        return _fail_both(
            write,
            child,
            attempt,
            AttemptState.REFUSED,
            message=message,
            error_type=ErrorType.VALIDATION,
            details=details,
        )


@unit_of_work
def attempt_broken(*, attempt_id: int, fence: Fence, message: str) -> bool:
    """A defect of the Director kept it from sending or following the prompt.

    An attempt that may still run there stays open, with its stop owed; the child fails.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        if attempt.state == AttemptState.INTENT:
            return _fail_both(
                write,
                child,
                attempt,
                AttemptState.NOT_SENT,
                message=message,
                error_type=ErrorType.INTERNAL,
            )
        _fail(write, child, attempt, message=message, error_type=ErrorType.INTERNAL, details=None)
        return write.owe_stop([attempt.pk], StopReason.GAVE_UP) > 0


# --- given back -----------------------------------------------------------------------------------


@unit_of_work
def attempt_not_sent(*, attempt_id: int, fence: Fence) -> bool:
    """The connection never stood, so nothing can have arrived: the child waits again."""
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        closed = write.move_attempt(attempt, AttemptState.NOT_SENT, ended_at=now(), charged=False)
        if closed:
            _give_back(write, child, attempt, reason="not sent: the backend was not reachable")
        return closed


@unit_of_work
def attempt_never_accepted(*, attempt_id: int, fence: Fence, remember_until: Any) -> bool:
    """It was absent throughout the looks: the child may be claimed under a new prompt id.

    The old id stays on the abandoned list, for a killed sender's bytes still arrive.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        closed = write.move_attempt(
            attempt, AttemptState.NEVER_ACCEPTED, ended_at=now(), charged=False
        )
        if not closed:
            return False
        AbandonedPrompt.objects.create(
            attempt=attempt,
            backend_id=attempt.backend_id,
            prompt_id=attempt.prompt_id,
            since=now(),
            until=remember_until,
        )
        _give_back_counted(write, child, attempt, reason="the backend never accepted it")
        return True


@unit_of_work
def attempt_lost(*, attempt_id: int, fence: Fence, reason: str) -> bool:
    """ComfyUI had the prompt and forgot it.

    Without a sign of execution nothing was rendered: the child waits again, uncharged. Else it
    fails: what it had rendered is lost with the backend.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        if attempt.started_at is not None:
            return _fail_both(
                write,
                child,
                attempt,
                AttemptState.LOST,
                message=reason,
                error_type=ErrorType.CONNECTION,
            )
        closed = write.move_attempt(attempt, AttemptState.LOST, ended_at=now(), charged=False)
        if closed:
            _give_back_counted(write, child, attempt, reason=reason)
        return closed


@unit_of_work
def attempt_struck(*, attempt_id: int, fence: Fence, end: End) -> bool:
    """Our own interrupt of another prompt hit this one: ComfyUI's flag is process-wide.

    Nobody asked for it, so the child waits again, uncharged.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        Attempt.objects.filter(pk=attempt.pk).update(charged=False)
        if not _close(write, attempt, AttemptState.INTERRUPTED, end):
            return False
        _give_back_counted(write, child, attempt, reason="hit by the stop of another prompt")
        return True


def _give_back_counted(write: GroupWrite, child: ChildJob, attempt: Attempt, reason: str) -> None:
    if child.uncharged_count + 1 >= MAX_UNCHARGED:
        _fail(
            write,
            child,
            attempt,
            message=f"Given up after {MAX_UNCHARGED} tries that came to nothing; last: {reason}.",
            error_type=ErrorType.CONNECTION,
            details=None,
        )
        return
    _give_back(write, child, attempt, reason=reason, uncharged_count=child.uncharged_count + 1)


def _give_back(
    write: GroupWrite, child: ChildJob, attempt: Attempt, *, reason: str, **fields: Any
) -> None:
    fields = {"current_attempt": None, **fields}
    if child.status == ChildStatus.QUEUED:
        ChildJob.objects.filter(
            pk=child.pk, status=ChildStatus.QUEUED, current_attempt_id=attempt.pk
        ).update(**fields)
        return
    fields |= {"started_at": None, "progress": 0.0, "current_step": None}
    fields |= {"steps_completed": 0, "steps_total": 0}
    if write.move_child(child, ChildStatus.QUEUED, attempt=attempt, **fields):
        write.add(events.child_requeued(child, attempt, reason))


# --- stopping -------------------------------------------------------------------------------------


@unit_of_work
def attempt_timed_out(*, attempt_id: int, fence: Fence) -> bool:
    """The child's time is up: it ends as a timeout, and the stop of its prompt is owed."""
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        seconds = write.group.timeout_seconds
        moved = write.move_child(
            child,
            ChildStatus.TIMEOUT,
            attempt=attempt,
            error_message=f"Timed out after {seconds} s",
            error_type=ErrorType.TIMEOUT,
            error_details_json=compact({"phase": "running"}),
        )
        if moved:
            write.owe_stop([attempt.pk], StopReason.TIMEOUT)
            write.add(events.child_timeout(child, seconds))
        return moved


@unit_of_work
def abandoned_met(*, attempt_id: int, fence: Fence, running: bool) -> bool:
    """A prompt on the abandoned list was met at its backend. Returns whether it was adopted.

    Adopted where its child waits and nothing newer decides it; else the caller removes it there.
    """
    with _attempt_transaction(attempt_id, fence) as (write, child, attempt):
        if not (running and attempt.state == AttemptState.NEVER_ACCEPTED and _is_free(child)):
            return False
        AbandonedPrompt.objects.filter(attempt=attempt).delete()
        _adopt_late(child, attempt)
        write.move_attempt(
            attempt, AttemptState.RUNNING, started_at=now(), ended_at=None, charged=True
        )
        _child_started(write, child, attempt)
        return True


@unit_of_work
def abandoned_forget_old(*, attempt_id: int, fence: Fence) -> bool:
    """Take a prompt off the abandoned list once its time is over."""
    with _attempt_transaction(attempt_id, fence) as (_write, _child, attempt):
        old = AbandonedPrompt.objects.filter(attempt=attempt, until__lte=unjumped())
        return old.delete()[0] > 0
