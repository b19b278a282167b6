"""The events of a group's stream, one type each.

State events carry ``seq``, the group's own counter without gaps, and ``run``. Progress carries
neither: it is not stored, and the latest wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from director.client.decode import Moment, as_objects, build
from director.client.groups import Group, Outputs, Raw, outputs_fields, parse_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Anything the stream says.

    Attributes:
        type: The event's name on the wire.
        seq: Its number in the group's log, from 1; None for what is not stored.
        run: The group's run it belongs to; None where the server did not say.
    """

    type: str
    seq: int | None = None
    run: int | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialState(Event):
    """The whole group as of ``seq``. It replaces whatever was known before."""

    group: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCreated(Event):
    """The group is on disk: ``seq`` 1."""

    job_group_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReopened(Event):
    """A retry opened the next run, which is this event's.

    Attributes:
        job_ids: Children that wait again, as if nobody had tried them; an earlier picture of theirs
            may follow at once.
        backend_ids: Where each of them is bound to, in the order of ``job_ids``.
        requested_by: The person who retried them.
    """

    job_group_id: str | None = None
    job_ids: tuple[str, ...] = ()
    backend_ids: tuple[str, ...] = ()
    reopened_at: Moment | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent(Event):
    """Something about one child."""

    job_id: str
    backend_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(ChildEvent):
    """The backend showed the first sign of executing it."""

    seed: int | None = None
    attempt: int | None = None
    started_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildProgress(ChildEvent):
    """How far it is: ``progress`` of the whole child in percent, steps of the current node."""

    progress: float
    current_step: str | None = None
    steps_completed: int | None = None
    steps_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRequeued(ChildEvent):
    """An attempt came to nothing and is not counted: it waits again."""

    attempt: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRetrying(ChildEvent):
    """It waits for another try: by its group's policy, or because a person retried or moved it.

    It has not ended, also where it had failed: nothing of its end counts any more.

    Attributes:
        backend_id: Where it failed, or waited in vain.
        attempt: How many attempts it has had.
        failure_class: Of what failed; None where the backend is held back or set aside.
        reason: What happened, as a sentence.
        next_backend_id: Where it waits now.
        not_before: When it is tried there at the earliest; None for at once.
        queued_at: Since when it waits.
        requested_by: The person who retried or moved it; None: the group's policy did.
    """

    seed: int | None = None
    attempt: int | None = None
    failure_class: str | None = None
    reason: str | None = None
    next_backend_id: str | None = None
    not_before: Moment | None = None
    queued_at: Moment | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCompleted(ChildEvent):
    """It is done, and this is what it made.

    Attributes:
        warnings: Sentences about nodes that were not executed, and files that are gone.
    """

    seed: int | None = None
    outputs: Outputs = field(default_factory=Outputs)
    warnings: tuple[str, ...] = ()
    completed_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFailed(ChildEvent):
    """It ended without a result; ``error`` is a sentence, ``error_type`` and ``failure_class`` its kind."""

    error: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    failed_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTimeout(ChildEvent):
    """Its time was up."""

    timeout_seconds: int | None = None
    failure_class: str | None = None
    timed_out_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCancelled(ChildEvent):
    """Somebody cancelled it."""

    cancelled_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """One line of a finished group."""

    job_id: str
    status: str
    backend_id: str | None = None
    seed: int | None = None
    outputs: Outputs | None = None
    error: str | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComplete(Event):
    """Every child is final: the last event of a run. ``failed`` counts timeouts too."""

    job_group_id: str | None = None
    total: int
    succeeded: int
    failed: int
    results: tuple[ChildResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event type that this client does not know (yet): see ``raw``."""


_BY_TYPE: Final[dict[str, type[Event]]] = {
    "group_created": GroupCreated,
    "group_reopened": GroupReopened,
    "child_started": ChildStarted,
    "child_progress": ChildProgress,
    "child_requeued": ChildRequeued,
    "child_retrying": ChildRetrying,
    "child_completed": ChildCompleted,
    "child_failed": ChildFailed,
    "child_timeout": ChildTimeout,
    "child_cancelled": ChildCancelled,
    "group_complete": GroupComplete,
}


def _initial_state(frame: Raw) -> InitialState:
    common = {name: frame.get(name) for name in ("type", "seq", "run")}
    state = build(Event, {**common, "raw": frame})
    return InitialState(
        type=state.type, seq=state.seq, run=state.run, raw=frame, group=parse_group(frame)
    )


def _result_fields(result: Raw) -> Raw:
    return {**result, "outputs": outputs_fields(result.get("outputs"), result), "raw": result}


def parse_event(frame: Raw) -> Event:
    """Return the event in one frame, an ``UnknownEvent`` for a type that is not known.

    Raises:
        UnexpectedAnswer: A known type lacks what it must have.
    """
    kind = frame.get("type")
    if kind == "initial_state":
        return _initial_state(frame)
    fields = {**frame, "raw": frame}
    if kind == "child_completed":
        fields["outputs"] = outputs_fields(frame.get("outputs") or {}, frame)
    if kind == "group_complete":
        fields["results"] = [_result_fields(r) for r in as_objects(frame.get("results", []))]
    return build(_BY_TYPE.get(str(kind), UnknownEvent), fields)
