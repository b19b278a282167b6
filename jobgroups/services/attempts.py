"""Transitions of an attempt that a runner reports: accepted, started, ended, lost, timed out.

Each takes ``attempt_id`` and ``fence`` by name, and its own fields. The write is rejected unless
the runner still holds the backend's lease. ``outcomes`` decides what follows for the child.
"""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from django.db.models import Q

from backends.comfyui.refusals import partly
from backends.queries import name_of
from jobgroups.domain.clock import monotonic_now, now
from jobgroups.domain.failures import OVERTAKEN, FailureClass, class_of_refusal
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import (
    CHILD_OPEN,
    VOID_ONCE_STARTED,
    AttemptState,
    ChildStatus,
    PartialOutputs,
    StopReason,
    attempt_sources_of,
)
from jobgroups.events import log
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob
from jobgroups.serializers import to_json
from jobgroups.services import late_results, outages, outcomes, quarantine
from jobgroups.services.captures import captures_keep
from jobgroups.services.group_transaction import GroupTransaction, update_row
from jobgroups.services.outcomes import (
    Failure,
    close_attempt,
    close_with_result,
    end_child,
    fail_attempt,
    requeue_or_adopt,
    requeue_or_fail,
    without_replaced,
)
from jobgroups.services.transactions import attempt_write, is_free

#: Stops of prompts whose children wait to be sent again, and have not failed.
_WAITED_FOR: Final = (StopReason.GIVEN_BACK, *VOID_ONCE_STARTED)


@attempt_write
def attempt_has_partner_nodes(tx: GroupTransaction, _child: ChildJob, _attempt: Attempt) -> None:
    """Record that the workflow of an attempt has partner nodes, before the key for them is sent."""
    update_row(tx.group, {"uses_partner_nodes": True})


@attempt_write
def attempt_uncertain(
    tx: GroupTransaction,
    _child: ChildJob,
    attempt: Attempt,
    *,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Attempt:
    """Record that the POST was sent and no valid response arrived: ComfyUI may have queued the
    prompt.

    A whole response is stored as ``message``, and as ``details`` for programs, until the prompt is
    seen at the backend.
    """
    tx.move_attempt(
        attempt,
        AttemptState.UNCERTAIN,
        uncertain_since=now(),
        error_message=message,
        error_details_json=None if details is None else to_json(details),
    )
    return attempt


def _answer_forgotten(attempt: Attempt) -> dict[str, Any]:
    """Return the columns that clear an invalid response to the POST: the prompt was found at the
    backend.
    """
    if attempt.error_message is None and attempt.error_details_json is None:
        return {}
    if outcomes.columns_kept(attempt) is not None:
        # The message is not the answer's, but of the failure that was stored with the stop.
        return {}
    return {"error_message": None, "error_details_json": None}


@attempt_write
def attempt_accepted(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    *,
    prompt_id: str | None = None,
    node_errors: Mapping[str, Any] | None = None,
    has_started: Callable[[], bool] = lambda: False,
) -> Attempt:
    """Record that ComfyUI has the prompt. The returned attempt shows whether a stop was requested
    meanwhile.

    ``has_started`` returns whether a sign of execution has been seen, which is recorded too.

    ``prompt_id`` is the id at the backend if it is not ours: a ComfyUI older than July 2025 chooses
    its own, and its response is the truth. ``node_errors`` are the outputs that ComfyUI refused;
    None if its response was lost.
    """
    forgotten = _answer_forgotten(attempt)
    tx.move_attempt(attempt, AttemptState.ACCEPTED, accepted_at=now(), **forgotten)
    if prompt_id is not None:
        update_row(attempt, {"prompt_id": prompt_id})
    if node_errors is not None:
        _note_refused(tx, attempt, node_errors)
    if has_started():
        _start(tx, child, attempt)
    return attempt


@attempt_write
def attempt_partly_refused(
    tx: GroupTransaction, _child: ChildJob, attempt: Attempt, *, node_errors: Mapping[str, Any]
) -> Attempt:
    """Store which outputs ComfyUI does not execute, for a prompt whose response was lost. ``{}``:
    it executes all.
    """
    _note_refused(tx, attempt, node_errors)
    return attempt


def _note_refused(tx: GroupTransaction, attempt: Attempt, node_errors: Mapping[str, Any]) -> None:
    """Store the refused outputs; if the group wants all outputs, request the stop of the others."""
    if attempt.ended_at is not None:
        return
    _keep_node_errors(attempt, node_errors)
    refused = _refused_in_part(tx, attempt)
    if refused is not None:
        outcomes.stop_failed(tx, attempt, StopReason.PARTLY_REFUSED, refused.kind)
        attempt.refresh_from_db(fields=["stop_requested_at", "stop_reason"])


def _keep_node_errors(attempt: Attempt, node_errors: Mapping[str, Any]) -> None:
    """Store the refused outputs once: what ComfyUI answered is more than what can be seen later."""
    if attempt.node_errors_json is None:
        update_row(attempt, {"node_errors_json": to_json(node_errors)})


def _refused_in_part(tx: GroupTransaction, attempt: Attempt) -> Failure | None:
    """Return why an attempt fails although its prompt was accepted: its group wants all outputs."""
    node_errors = json.loads(attempt.node_errors_json or "{}")
    if not node_errors or tx.group.partial_outputs != PartialOutputs.FAIL:
        return None
    return Failure(
        kind=class_of_refusal("", "", node_errors),
        message=partly(node_errors),
        details={"status": 200, "node_errors": node_errors},
    )


def _refusal_of_stop(tx: GroupTransaction, attempt: Attempt) -> Failure | None:
    return (
        _refused_in_part(tx, attempt) if attempt.stop_reason == StopReason.PARTLY_REFUSED else None
    )


@attempt_write
def attempt_started(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> Attempt:
    """Record the first sign of execution. The child is running if this is its current attempt and
    it is not final.
    """
    _start(tx, child, attempt)
    return attempt


def _start(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> None:
    # One that was closed as never accepted is adopted by abandoned_prompt_found, or not at all.
    if attempt.ended_at is not None:
        return
    if attempt.stop_reason in VOID_ONCE_STARTED:
        _decide_move(tx, child, attempt)
    forgotten = _answer_forgotten(attempt)
    if tx.move_attempt(attempt, AttemptState.RUNNING, started_at=now(), **forgotten):
        tx.start_child(child, attempt)


def _decide_move(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> None:
    """Keep a prompt that started before a move or a recall could remove it from the queue.

    The move or recall is void then. If the child is no longer queued without an attempt, the prompt
    is stopped.
    """
    if is_free(child):
        left = child.backend_id or ""
        stays = {
            "stop_requested_at": None,
            "stop_reason": "",
            "failure_class": "",
            "error_message": None,
            "is_counted": True,
        }
        late_results.reinstate(child, attempt)
        if child.is_bound and left != attempt.backend_id:
            # A recall made no event.
            name = name_of(attempt.backend_id)
            reason = f"{name} had started it before it could be moved: it stays there."
            tx.add_event(
                log.child_retrying(
                    child, previous_backend_id=left, failure_class=None, reason=reason
                )
            )
    else:
        cancelled = child.status == ChildStatus.CANCELLED
        stays = {"stop_reason": StopReason.CANCEL if cancelled else StopReason.SUPERSEDED}
    update_row(attempt, stays)


@attempt_write
def attempt_outputs_stored(
    _tx: GroupTransaction,
    _child: ChildJob,
    attempt: Attempt,
    *,
    node_outputs: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> None:
    """Store outputs and warnings as they arrive.

    The outputs decide the result if ComfyUI's history was cleared. Some warnings are not in the
    history.
    """
    Attempt.objects.filter(pk=attempt.pk, ended_at__isnull=True).update(
        node_outputs_json=to_json(node_outputs), warnings_json=to_json(list(warnings))
    )


@attempt_write
def attempt_ended(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, end: AttemptResult
) -> bool:
    """Store the result that ComfyUI reported. It decides the child if this is the child's current
    attempt.

    Returns whether this call closed the attempt. A repeated result changes nothing.
    """
    if end.node_errors is not None:
        _keep_node_errors(attempt, end.node_errors)
    if (
        attempt.stop_reason == StopReason.RECALLED
        and attempt.ended_at is None
        and end.state is not AttemptState.INTERRUPTED
        and is_free(child)
    ):
        # It ran unseen. Also its failure decides the child: no user requested another attempt.
        _decide_move(tx, child, attempt)
    # Another end had another reason, before the refusal was known or its stop was requested.
    find = _refused_in_part if end.state is AttemptState.SUCCESS else _refusal_of_stop
    refused = find(tx, attempt)
    state = end.state
    if state is AttemptState.INTERRUPTED and attempt.stop_reason == StopReason.TIMEOUT:
        state = AttemptState.TIMEOUT
    if attempt.state in attempt_sources_of(state):
        end = without_replaced(attempt, end)
    if refused is not None:
        # Also of a success: it was quicker than the stop, and its group does not want it.
        end = _failing(end, refused)
    if not close_with_result(tx, attempt, state, end):
        return False
    if state is AttemptState.SUCCESS and end.failure is None:
        _keep_result(child, attempt, end)
    if child.current_attempt_id == attempt.pk:
        end_child(tx, child, attempt, end, refused)
    return True


def _keep_result(child: ChildJob, attempt: Attempt, end: AttemptResult) -> None:
    if is_free(child):
        late_results.reinstate(child, attempt)
    if end.files is None:
        return
    # Only those of the result that the child has, or may get later.
    if child.current_attempt_id == attempt.pk or late_results.late_result(child) == attempt:
        captures_keep(child, attempt, end.files)


def _failing(end: AttemptResult, failure: Failure) -> AttemptResult:
    return replace(
        end,
        failure=failure.kind,
        error_message=failure.message,
        error_type=failure.error_type,
        error_details=failure.details,
    )


@attempt_write
def attempt_refused(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    *,
    message: str,
    details: Mapping[str, Any],
    kind: FailureClass = FailureClass.WORKFLOW_REFUSED,
    remember_until: dt.datetime | None = None,
) -> bool:
    """Record that ComfyUI refused the workflow, because of the workflow or of something that the
    backend lacks.

    ``message`` is for users. ``remember_until`` is how long the prompt id stays on the abandoned
    list; None for ComfyUI's own response, after which the prompt cannot appear.
    """
    failure = Failure(kind=kind, message=message, details=details)
    closed = fail_attempt(tx, child, attempt, AttemptState.REFUSED, failure)
    if closed and remember_until is not None:
        _abandon(attempt, remember_until)
    return closed


@attempt_write
def attempt_failed_internally(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, message: str
) -> bool:
    """Record an unexpected error of the Director while it sent or followed the prompt.

    An attempt that may still run stays open with a pending stop, and the child fails. If a stop was
    pending before, the attempt no longer keeps its child from other backends: its end may never be
    seen.
    """
    failure = Failure(kind=FailureClass.INTERNAL, message=message)
    if attempt.state == AttemptState.INTENT:
        return fail_attempt(tx, child, attempt, AttemptState.NOT_SENT, failure)
    outcomes.handle_failure(tx, child, attempt, failure)
    if outcomes.stop_failed(tx, attempt, StopReason.GAVE_UP, FailureClass.INTERNAL):
        return True
    still_open = Attempt.objects.filter(pk=attempt.pk, ended_at__isnull=True)
    still_open.exclude(failure_class__in=OVERTAKEN).update(failure_class=FailureClass.INTERNAL)
    return False


@attempt_write
def attempt_not_sent(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> bool:
    """Record that there was no connection, so nothing can have arrived. The child is requeued."""
    closed = close_attempt(tx, attempt, AttemptState.NOT_SENT, is_counted=False)
    if closed:
        requeue_or_adopt(tx, child, attempt, reason="not sent: the backend was not reachable")
    return closed


@attempt_write
def attempt_never_accepted(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, remember_until: dt.datetime
) -> bool:
    """Record that the prompt was absent in every look-up. The child may be claimed under a new
    prompt id.

    The old id stays on the abandoned list: the bytes of a killed sender may still arrive.
    """
    closed = close_attempt(tx, attempt, AttemptState.NEVER_ACCEPTED, is_counted=False)
    if not closed:
        return False
    _abandon(attempt, remember_until)
    reason = (
        "the backend never accepted "
        f"it{f': {attempt.error_message}' if attempt.error_message else ''}"
    )
    requeue_or_fail(tx, child, attempt, reason, FailureClass.UNREACHABLE)
    return True


def _abandon(attempt: Attempt, until: dt.datetime) -> None:
    AbandonedPrompt.objects.create(
        attempt=attempt,
        backend_id=attempt.backend_id,
        prompt_id=attempt.prompt_id,
        created_at=now(),
        expires_at=until,
    )


@attempt_write
def attempt_lost(tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, reason: str) -> bool:
    """Record that ComfyUI had the prompt and lost it.

    If the prompt had not started, the child is requeued and the attempt is not counted. Otherwise
    the attempt failed: its output is lost. If a stop was pending, the loss counts as the stop:
    users restart a backend whose prompts they cancelled.
    """
    refused = _refusal_of_stop(tx, attempt)
    if refused is not None:
        return fail_attempt(tx, child, attempt, AttemptState.LOST, refused)
    was_to_stop = attempt.stop_requested_at is not None and not attempt.failure_class
    if attempt.started_at is not None and not was_to_stop:
        failure = Failure(kind=FailureClass.BACKEND_LOST, message=reason)
        return fail_attempt(tx, child, attempt, AttemptState.LOST, failure)
    charged = attempt.is_counted and attempt.started_at is not None
    closed = close_attempt(tx, attempt, AttemptState.LOST, is_counted=charged)
    if closed:
        requeue_or_fail(tx, child, attempt, reason, FailureClass.BACKEND_LOST)
    return closed


@attempt_write
def attempt_interrupted_by_other(
    tx: GroupTransaction, child: ChildJob, attempt: Attempt, *, end: AttemptResult
) -> bool:
    """Record that this prompt was interrupted by the stop of another prompt: ComfyUI's interrupt
    flag is process-wide.

    The child is requeued and the attempt is not counted.
    """
    update_row(attempt, {"is_counted": False})
    if attempt.state in attempt_sources_of(AttemptState.INTERRUPTED):
        end = without_replaced(attempt, end)
    if not close_with_result(tx, attempt, AttemptState.INTERRUPTED, end):
        return False
    reason = "hit by the stop of another prompt"
    requeue_or_fail(tx, child, attempt, reason, FailureClass.INTERRUPTED)
    return True


@attempt_write
def attempt_timed_out(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    *,
    offline: bool = False,
    stalled: bool = False,
) -> bool:
    """Time out a child and request the stop of its prompt; return whether the attempt still decided
    its child.

    If the group's policy allows a retry, the child is queued again. It is claimed after its prompt
    ended or hangs (:func:`attempt_stalled`). If the backend is ``offline``, the child fails as
    lost, not as timed out. ``stalled``: no event came for the group's ``stall_seconds``.
    """
    if child.current_attempt_id != attempt.pk or child.status not in CHILD_OPEN:
        return False
    if offline:
        lost = outages.lost_in_render(attempt.backend_id)
        outcomes.stop_failed(tx, attempt, StopReason.GAVE_UP, lost.kind, lost)
        outcomes.handle_failure(tx, child, attempt, lost)
        return True
    message, phase = f"Timed out after {tx.group.timeout_seconds} s", "running"
    if stalled:
        message, phase = (
            f"Stalled: ComfyUI sent no event of it for {tx.group.stall_seconds} s",
            "stalled",
        )
    failure = Failure(kind=FailureClass.TIMEOUT, message=message, details={"phase": phase})
    outcomes.stop_failed(tx, attempt, StopReason.TIMEOUT, FailureClass.TIMEOUT, failure)
    outcomes.handle_failure(tx, child, attempt, failure)
    return True


@attempt_write
def attempt_stalled(
    tx: GroupTransaction,
    child: ChildJob,
    attempt: Attempt,
    *,
    reachable: bool = True,
    can_interrupt: bool = True,
) -> bool:
    """Record that a prompt continues long after its stop was requested; return whether this call
    recorded it.

    The backend hangs, which counts against it. The child no longer waits for the end of the prompt,
    which may never come. The prompt keeps its slot, and its stop stays pending.

    Args:
        reachable: whether the backend responds. Otherwise it does not hang but was lost, and a
            backend that was paused and then switched off has not failed.
        can_interrupt: whether the backend can stop a running prompt. An old ComfyUI cannot: the
            prompt is no failure then, but a child whose group requires all outputs stops waiting
            for it.
    """
    # Likewise one that was given back, moved or recalled: its child waits for nothing else.
    given_back = Q(stop_reason__in=_WAITED_FOR, failure_class="")
    waited_for = Q(failure_class=FailureClass.TIMEOUT) | given_back
    refused = _refusal_of_stop(tx, attempt)
    if refused is not None:
        waited_for = Q(failure_class=refused.kind)
    elif not can_interrupt:
        return False
    hangs = Attempt.objects.filter(waited_for, pk=attempt.pk, ended_at__isnull=True)
    kind = FailureClass.STALLED
    if not reachable:
        timed_out = attempt.stop_reason == StopReason.TIMEOUT
        kind = FailureClass.BACKEND_LOST if timed_out else FailureClass.UNREACHABLE
    if not hangs.update(failure_class=kind):
        return False
    attempt.failure_class = kind.value
    quarantine.record_result(attempt)
    if refused is not None:
        # Its child waited for the end of this prompt, which may never come.
        outcomes.handle_failure(tx, child, attempt, refused)
    log.notify_runners_on_commit()
    return True


@attempt_write
def abandoned_prompt_found(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> bool:
    """Adopt a prompt on the abandoned list that runs at its backend, or reject it for good.

    It is adopted if its child is queued without an attempt; return whether it was. Otherwise the
    caller removes the prompt: after a requested stop it would end its child as interrupted.
    """
    if attempt.state == AttemptState.RUNNING and child.current_attempt_id == attempt.pk:
        # The response to an earlier call was lost.
        return True
    if attempt.state != AttemptState.NEVER_ACCEPTED:
        return False
    moved = attempt.stop_reason in VOID_ONCE_STARTED
    if (attempt.stop_requested_at is not None and not moved) or not is_free(child):
        never_asked = Attempt.objects.filter(pk=attempt.pk, stop_requested_at__isnull=True)
        if never_asked.update(stop_requested_at=now(), stop_reason=StopReason.SUPERSEDED):
            tx.mark_changed()
        return False
    AbandonedPrompt.objects.filter(attempt=attempt).delete()
    late_results.reinstate(child, attempt)
    tx.move_attempt(
        attempt,
        AttemptState.RUNNING,
        started_at=now(),
        ended_at=None,
        is_counted=True,
        failure_class="",
        **_answer_forgotten(attempt),
        stop_requested_at=None,
        stop_reason="",
    )
    tx.start_child(child, attempt)
    return True


@attempt_write
def abandoned_prompt_expire(_tx: GroupTransaction, _child: ChildJob, attempt: Attempt) -> bool:
    old = AbandonedPrompt.objects.filter(attempt=attempt, expires_at__lte=monotonic_now())
    return old.delete()[0] > 0
