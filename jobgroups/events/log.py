"""Creates the events of a group, stores them in the caller's transaction and publishes them after
the commit.

No other module creates events.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction

from jobgroups.database.statements import insert
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.shapes import events as shapes
from jobgroups.domain.webhooks import webhooks_of
from jobgroups.events.hub import hub
from jobgroups.events.messages import EventFrame, Message, StarFrame
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup, WebhookDelivery
from jobgroups.serializers import (
    MAX_FRAME_BYTES,
    shape,
    shown_backend,
    to_json,
    truncate,
    truncate_to_frame,
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event without a ``seq``."""

    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    child_id: str | None = None
    is_final: bool = False


def group_created(group: JobGroup) -> NewEvent:
    """The group was submitted; always its event 1."""
    return _new(shapes.GroupCreated, group, job_group_id=group.id, total=group.total_count)


def group_started(group: JobGroup) -> NewEvent:
    """A runner started work on a group that was accepted while no runner was alive."""
    return _new(shapes.GroupStarted, group, job_group_id=group.id)


A_PERSON: Final = "a person"  #: The actor of an event if the request names none.


def group_reopened(group: JobGroup, children: Sequence[ChildJob], *, by: str = "") -> NewEvent:
    """A retry started the group's next run: these children are queued again.

    ``backend_ids`` are their backends, in the order of ``job_ids``.
    """
    return _new(
        shapes.GroupReopened,
        group,
        job_group_id=group.id,
        job_ids=[child.id for child in children],
        backend_ids=[shown_backend(child) for child in children],
        reopened_at=children[0].queued_at,
        requested_by=by or A_PERSON,
    )


def child_started(child: ChildJob, attempt: Attempt) -> NewEvent:
    return _of_child(
        shapes.ChildStarted, child, attempt=attempt.number, started_at=attempt.started_at or now()
    )


def child_requeued(child: ChildJob, attempt: Attempt, reason: str) -> NewEvent:
    """An attempt ended without being counted, and its child is queued again."""
    fields = {
        "job_id": child.id,
        "backend_id": shown_backend(child),
        "attempt": attempt.number,
        "reason": reason,
    }
    return NewEvent("child_requeued", fields, child_id=child.id)


def child_retrying(
    child: ChildJob,
    *,
    previous_backend_id: str,
    failure_class: FailureClass | None,
    reason: str,
    requested_by: str | None = None,
) -> NewEvent:
    """The child waits for another attempt: by its group's policy, or because a user retried or
    moved it.

    ``child`` is queued, assigned to its next backend. ``previous_backend_id`` is the backend at
    which it failed, or which could not take it. ``failure_class`` is None if that is paused,
    drained or quarantined. ``requested_by`` is the user who retried or moved the child; None for
    the group's policy.
    """
    return _of_child(
        shapes.ChildRetrying,
        child,
        backend_id=previous_backend_id,
        attempt=child.attempt_count,
        failure_class=failure_class,
        reason=truncate(reason),
        next_backend_id=shown_backend(child),
        requested_by=requested_by,
    )


def child_completed(child: ChildJob) -> NewEvent:
    return _of_child(shapes.ChildCompleted, child, is_final=True)


def child_failed(child: ChildJob) -> NewEvent:
    """The child failed; ``error`` is ComfyUI's message, or the Director's if ComfyUI has none."""
    return _of_child(
        shapes.ChildFailed,
        child,
        is_final=True,
        attempt=child.attempt_count,
        error=truncate(child.error_message),
        error_details=_truncate_texts(json.loads(child.error_details_json or "null")),
        failed_at=child.completed_at,
    )


def child_timeout(child: ChildJob, timeout_seconds: int | None) -> NewEvent:
    """The child exceeded its timeout, ran without an event for too long, or was queued for too
    long.
    """
    return _of_child(
        shapes.ChildTimeout,
        child,
        is_final=True,
        attempt=child.attempt_count,
        timeout_seconds=timeout_seconds,
        error=child.error_message,
        timed_out_at=child.completed_at,
    )


def child_cancelled(child: ChildJob) -> NewEvent:
    """A user cancelled the child or its group, or ``stop_when`` of the group did (``stopped_by``)."""
    return _of_child(shapes.ChildCancelled, child, is_final=True, cancelled_at=child.completed_at)


def group_complete(group: JobGroup, children: Sequence[ChildJob]) -> NewEvent:
    """Every child is final; the last event of a run."""
    return _new(
        shapes.GroupComplete,
        group,
        job_group_id=group.id,
        total=group.total_count,
        succeeded=group.completed_count,
        failed=group.failed_count,
        cancelled=group.cancelled_count,
        results=[
            shape(
                shapes.ChildResult,
                child,
                job_id=child.id,
                backend_id=shown_backend(child),
                error=truncate(child.error_message),
            )
            for child in children
        ],
    )


def append_events(*groups: tuple[JobGroup, Sequence[NewEvent]]) -> None:
    """Number the events of groups, and store them with their deliveries to webhooks.

    After the commit they are published, as one message for each group. The caller's transaction has
    locked the groups' rows, and stores their ``seq``, which is increased here.
    """
    assert connection.in_atomic_block, "events are rows of their transaction"  # noqa: S101
    moment = now()
    rows: list[JobEvent] = []
    deliveries: list[WebhookDelivery] = []
    for group, new in groups:
        own = [
            JobEvent(
                group_id=group.id,
                seq=group.seq + offset,
                run=group.run,
                type=event.type,
                frame=_frame(event, group.seq + offset, group.run),
                created_at=moment,
            )
            for offset, event in enumerate(new, start=1)
        ]
        rows += own
        if group.webhook_json is not None or settings.DIRECTOR_WEBHOOK_URLS:
            deliveries += _deliveries(group, own)
        group.seq += len(own)
        frames = tuple(
            EventFrame(row.seq, row.frame, event.child_id, event.is_final)
            for row, event in zip(own, new, strict=True)
        )
        publish_on_commit(Message(group_id=group.id, events=frames, stored_at=moment.timestamp()))
    insert(rows)
    insert(deliveries)


def _deliveries(group: JobGroup, events: Sequence[JobEvent]) -> list[WebhookDelivery]:
    own = None if group.webhook_json is None else json.loads(group.webhook_json)
    webhooks = webhooks_of(own, settings.DIRECTOR_WEBHOOK_URLS, settings.DIRECTOR_WEBHOOK_EVENTS)
    return [
        WebhookDelivery(
            group_id=group.id,
            seq=event.seq,
            type=event.type,
            url=url,
            message_id=f"msg_{secrets.token_hex(12)}",
            created_at=event.created_at,
            due_at=event.created_at,
        )
        for event in events
        for url, types in webhooks.items()
        if event.type in types
    ]


def publish_star(group_id: str, job_id: str, *, starred: bool) -> None:
    """Notify the pages that show a child of its star after the commit. Not an event: no row, no
    ``seq``.
    """
    publish_on_commit(Message(group_id=group_id, stars=(StarFrame(job_id, starred),)))


def publish_changed(group_id: str) -> None:
    """Notify the pages that show a group of its name, its archiving or its deletion after the
    commit. Not an event.
    """
    publish_on_commit(Message(group_id=group_id, changed=True))


def publish_replaced(group_id: str, job_id: str) -> None:
    """Notify the pages that show a child that a file of it was replaced. Not an event."""
    publish_on_commit(Message(group_id=group_id, replaced=(job_id,)))


def publish_on_commit(message: Message) -> None:
    # robust: a failed notification must not look like a failed write. The callback is not a
    # partial: Django logs its __qualname__, which a partial lacks.
    transaction.on_commit(lambda: hub.publish(message), robust=True)


def send_key_on_commit(group_id: str, key: str) -> None:
    transaction.on_commit(lambda: hub.send_key(group_id, key), robust=True)


def notify_runners_on_commit(*, work_only: bool = False) -> None:
    """Notify every runner after the commit of the caller's transaction; ``work_only``: no backend
    has changed.
    """
    transaction.on_commit(lambda: hub.notify_runners(work_only=work_only), robust=True)


def notify_prompt_on_commit(group_id: str, *, owner: str, client_id: str) -> None:
    """Notify the sockets of a client of the ComfyUI listener of a new prompt after the commit."""
    transaction.on_commit(lambda: hub.notify_prompt(group_id, owner, client_id), robust=True)


def _frame(event: NewEvent, seq: int, run: int) -> str:
    head = {"type": event.type, "seq": seq, "run": run}
    frame = {**head, **event.fields, **head}
    if event.type == "group_complete":
        text = truncate_to_frame(frame, ("variation", "outputs", "error"), within="results")
        if len(text.encode()) <= MAX_FRAME_BYTES:
            return text
        return to_json({**frame, "results": [], "truncated": ["results"]})
    return truncate_to_frame(
        frame, ("error_details", "variation", "outputs", "warnings", "backend_ids", "job_ids")
    )


def _of_child(
    kind: type[shapes.ChildEvent], child: ChildJob, *, is_final: bool = False, **values: Any
) -> NewEvent:
    named = {"job_id": child.id, "backend_id": shown_backend(child), **values}
    return replace(_new(kind, child, **named), child_id=child.id, is_final=is_final)


def _new(kind: type[shapes.Event], row: ChildJob | JobGroup, **values: Any) -> NewEvent:
    """Return an event by its shape, whose other fields are those of the row."""
    name = shapes.type_of(kind)
    return NewEvent(name, shape(kind, row, type=name, seq=None, run=None, **values))


def _truncate_texts(value: Any) -> Any:
    if isinstance(value, str):
        return truncate(value)
    if isinstance(value, list):
        return [_truncate_texts(item) for item in value]
    if isinstance(value, dict):
        return {key: _truncate_texts(item) for key, item in value.items()}
    return value
