"""What a user sees of a group, and what must hold for every one of its kind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from director.client import (
    Attempt,
    Child,
    ChildCancelled,
    ChildCompleted,
    ChildEvent,
    ChildFailed,
    ChildProgress,
    ChildStarted,
    Director,
    Event,
    Group,
    GroupComplete,
)
from tests.real.graphs import Graph
from tests.real.waiting import eventually


def watch(director: Director, group: Group, after: Callable[[Event], None] | None = None) -> list[Event]:
    """Return every event of ``group`` from its first to its ``group_complete``, without a gap.

    ``after`` is called with each of them while the stream is open; the stream outlives what it does
    to the Director.
    """
    events = []
    for event in director.stream(group.job_group_id, since=0):
        events.append(event)
        if after is not None:
            after(event)
    numbers = [event.seq for event in events if event.seq is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert isinstance(events[-1], GroupComplete)
    return events


def of_kind(events: list[Event], kind: type[Any], job_id: str) -> list[Any]:
    return [event for event in events if isinstance(event, kind) and event.job_id == job_id]


def only_child(director: Director, group: Group) -> Child:
    """Return the one child of ``group`` as it now is, with its attempts."""
    (child,) = group.child_jobs
    return director.job(group.job_group_id, child.job_id)


def sent(director: Director, group: Group) -> str:
    """Return the prompt id under which the only child was first sent to ComfyUI."""

    def first() -> Attempt | None:
        return next(iter(only_child(director, group).attempts), None)

    prompt_id = eventually("the child was claimed", first).prompt_id
    assert prompt_id
    return prompt_id


def until_progress(director: Director, group: Group) -> None:
    """Return once a step of the group's child was reported."""
    for event in director.stream(group.job_group_id, since=0):
        if isinstance(event, ChildProgress) and event.steps_completed:
            return
        assert not isinstance(event, GroupComplete), "it ended before it was seen to run"


def graph_in(picture: Path) -> Graph:
    """Return the workflow that ComfyUI wrote into a PNG: the one it ran."""
    with Image.open(picture) as image:
        assert image.format == "PNG"
        graph: Graph = json.loads(image.info["prompt"])
    return graph


def assert_ran_whole(events: list[Event], child: Child, *, node: str = "DirectorTestSampler") -> None:
    """``child`` started, went forward (four steps of ``node``), and completed with a picture."""
    assert (child.status, child.progress, len(child.images)) == ("completed", 100.0, 1)
    mine = of_kind(events, ChildEvent, child.job_id)
    assert isinstance(mine[0], ChildStarted)
    assert isinstance(mine[-1], ChildCompleted)
    between = of_kind(events, ChildProgress, child.job_id)
    assert between == mine[1:-1]
    reached = [event.progress for event in between]
    assert reached == sorted(reached)
    assert (node, 4) in {(event.current_step, event.steps_total) for event in between}
    assert (mine[0].seed, mine[-1].seed) == (child.seed, child.seed)


def timed_run(director: Director, group: Group) -> tuple[Group, float]:
    """Return the completed group and the seconds until its last event."""
    start = time.monotonic()
    events = watch(director, group)
    seconds = time.monotonic() - start
    (child,) = group.child_jobs
    assert len(of_kind(events, ChildStarted, child.job_id)) == 1
    ended = director.status(group.job_group_id)
    assert ended.status == "completed"
    return ended, seconds


def assert_cancelled(director: Director, group: Group) -> None:
    """The group and its child are cancelled, told once, and nothing came after."""
    events = watch(director, group)
    (child,) = group.child_jobs
    assert len(of_kind(events, ChildCancelled, child.job_id)) == 1
    assert not of_kind(events, ChildCompleted, child.job_id)
    assert not of_kind(events, ChildFailed, child.job_id)
    ended = director.status(group.job_group_id)
    assert (ended.status, ended.child_jobs[0].status) == ("cancelled", "cancelled")
