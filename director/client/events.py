"""The events of a group's stream, one class per type; those without objects of the client are the
server's shapes.
"""

from dataclasses import field
from typing import Final

from director.client.decode import as_objects, build
from director.client.groups import Group, Outputs, group_fields, outputs_fields
from jobgroups.domain.shapes import Raw, events as shapes, record
from jobgroups.domain.shapes.events import Event


@record
class InitialState(Event):
    """The whole group as of ``seq``. It replaces all earlier events.

    More than 1,000 jobs are read page by page: they may be newer, and the events after ``seq``
    repeat their changes.
    """

    group: Group


@record
class ChildCompleted(shapes.ChildCompleted):
    """The job completed, with its outputs."""

    outputs: Outputs = field(default_factory=Outputs)


@record
class ChildResult(shapes.ChildResult):
    """The result of one job of a finished group."""

    outputs: Outputs | None = None


@record
class GroupComplete(shapes.GroupComplete):
    """Every job is final: the last event of a run."""

    results: tuple[ChildResult, ...] = ()


@record
class UnknownEvent(Event):
    """An event of an unknown type: see ``raw``."""


#: The events by the ``type`` of their frames.
BY_TYPE: Final[dict[str, type[Event]]] = {
    shapes.type_of(kind): kind
    for kind in (
        *(
            InitialState,
            shapes.GroupCreated,
            shapes.GroupStarted,
            shapes.GroupReopened,
            shapes.ChildStarted,
        ),
        *(
            shapes.ChildProgress,
            shapes.ChildRequeued,
            shapes.ChildRetrying,
            ChildCompleted,
            shapes.ChildFailed,
        ),
        *(shapes.ChildTimeout, shapes.ChildCancelled, GroupComplete),
    )
}


def parse_event(frame: Raw) -> Event:
    """Return the event in one frame, an ``UnknownEvent`` for an unknown type."""
    kind = frame.get("type")
    # Values that a frame lists as truncated are null in it.
    omitted = frame.get("truncated") or ()
    fields = {name: value for name, value in frame.items() if name not in omitted}
    fields["raw"] = frame
    if kind == "initial_state":
        fields["group"] = group_fields(frame)
    if kind == "child_completed":
        fields["outputs"] = outputs_fields(frame.get("outputs") or {}, frame)
    if kind == "group_complete":
        fields["results"] = [
            {**result, "outputs": outputs_fields(result.get("outputs"), result), "raw": result}
            for result in as_objects(frame.get("results", []))
        ]
    return build(BY_TYPE.get(str(kind), UnknownEvent), fields)
