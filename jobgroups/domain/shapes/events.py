"""The events of a group's stream, one class per type.

State events have ``seq``, the group's counter without gaps, and ``run``. Progress has neither: it
is not stored, and the latest replaces earlier ones.
"""

import re
from dataclasses import field
from typing import Any

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class Event(Parsed):
    """Base class of the events.

    Attributes:
        type: The event's JSON ``type``.
        seq: Its number in the group's log, from 1; None for events that are not stored.
        run: The group's run; None if the server does not send it.
    """

    type: str
    seq: int | None = None
    run: int | None = None


def type_of(kind: type[Event]) -> str:
    """Return the JSON ``type`` of events: that of ``ChildFailed`` is ``child_failed``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


@record
class GroupCreated(Event):
    """The group is stored: ``seq`` 1."""

    job_group_id: str | None = None
    total: int | None = None
    created_at: Moment | None = None


@record
class GroupStarted(Event):
    """A runner claimed the first job of a group that was accepted without one."""

    job_group_id: str | None = None


@record
class GroupReopened(Event):
    """A retry opened the next run, which is this event's.

    Attributes:
        job_ids: Jobs that are queued again without attempts; their earlier result may follow at
            once.
        backend_ids: The backend of each job, in the order of ``job_ids``; None: it waits in the
            pool.
        requested_by: The user who retried them.
    """

    job_group_id: str | None = None
    job_ids: tuple[str, ...] = ()
    backend_ids: tuple[str | None, ...] = ()
    reopened_at: Moment | None = None
    requested_by: str | None = None


@record
class ChildEvent(Event):
    """An event of one job; ``backend_id`` None: a job of the pool, which no backend has started or
    has any more.
    """

    job_id: str
    backend_id: str | None
    seed: int | None = None
    variation: dict[str, Any] | None = field(default=None, hash=False)


@record
class ChildStarted(ChildEvent):
    """The backend has started to execute the job."""

    backend_id: str
    attempt: int | None = None
    started_at: Moment | None = None


@record
class ChildProgress(ChildEvent):
    """``progress`` of the whole workflow in percent, and the steps of the current node."""

    backend_id: str
    attempt: int | None = None
    progress: float
    current_step: str | None = None
    steps_completed: int | None = None
    steps_total: int | None = None


@record
class ChildRequeued(ChildEvent):
    """The job is queued again. The attempt is not counted."""

    attempt: int | None = None
    reason: str | None = None


@record
class ChildRetrying(ChildEvent):
    """The job is queued for another attempt: by its group's policy, or because a user retried or
    moved it.

    The job has not ended, also if it had failed before.

    Attributes:
        backend_id: The backend where it failed or was queued.
        attempt: Number of attempts so far.
        failure_class: Class of the failure; None if the backend is paused, draining or quarantined.
        reason: The reason, as a sentence.
        next_backend_id: The backend where it is queued now; None: in the pool.
        not_before: Earliest start of the attempt; None: at once.
        queued_at: Since when it is queued.
        requested_by: The user who retried or moved it; None: the group's policy did.
    """

    attempt: int | None = None
    failure_class: str | None = None
    reason: str | None = None
    next_backend_id: str | None = None
    not_before: Moment | None = None
    queued_at: Moment | None = None
    requested_by: str | None = None


@record
class ChildCompleted(ChildEvent):
    """The job completed, with its outputs.

    Attributes:
        warnings: Sentences about nodes that were not executed, and missing files.
        outputs_reused: Whether ComfyUI executed nothing for it: every node was cached.
    """

    backend_id: str
    outputs: Any = None
    warnings: tuple[str, ...] = ()
    outputs_reused: bool = False
    completed_at: Moment | None = None


@record
class ChildFailed(ChildEvent):
    """The job failed; ``error`` is a sentence, ``error_type`` and ``failure_class`` its kind."""

    attempt: int | None = None
    error: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    failed_at: Moment | None = None


@record
class ChildTimeout(ChildEvent):
    """The job timed out."""

    attempt: int | None = None
    timeout_seconds: int | None = None
    error: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    timed_out_at: Moment | None = None


@record
class ChildCancelled(ChildEvent):
    """A user cancelled the job, or ``stop_when`` of its group (``stopped_by``)."""

    stopped_by: str | None = None
    cancelled_at: Moment | None = None


@record
class ChildResult(Parsed):
    """The result of one job of a finished group."""

    job_id: str
    backend_id: str | None = None
    seed: int | None = None
    variation: dict[str, Any] | None = field(default=None, hash=False)
    status: str
    outputs: Any = None
    error: str | None = None


@record
class GroupComplete(Event):
    """Every job is final: the last event of a run. ``failed`` counts timeouts, too."""

    job_group_id: str | None = None
    status: str | None = None
    total: int
    succeeded: int
    failed: int
    cancelled: int = 0
    completed_at: Moment | None = None
    stopped_at: Moment | None = None
    results: tuple[ChildResult, ...] = ()
