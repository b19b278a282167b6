"""Workflows for a real ComfyUI with the nodes of tests/contract, and what must hold for their groups."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from director.client import (
    Asset,
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
from tests.harness import graphs
from tests.harness.graphs import Graph
from tests.harness.waits import until


def sampled(prefix: str, *, steps: int = 4, seconds: float = 0.4) -> Graph:
    """Return sampler "1" → SaveImage "2"; the sampler takes ``seconds`` and can be interrupted."""
    return graphs.sampler(0, steps, seconds / steps, prefix=prefix)


def failing(prefix: str, kind: str) -> Graph:
    """Return sampler → node that raises → SaveImage."""
    return _with_node(prefix, "TestFail", {"kind": kind, "after": 0.0})


def deaf(prefix: str, *, seconds: float) -> Graph:
    """Return sampler → node that no interrupt reaches for ``seconds`` → SaveImage."""
    return _with_node(prefix, "TestSlow", {"seconds": seconds, "interruptible": False})


def media(prefix: str) -> Graph:
    """Return sampler → an MP4, a WebM and an animated WebP of 2 s; a FLAC and an MP3 of 3 s; a text; no picture."""
    graph = sampled(prefix)
    graph["1"]["inputs"] |= {"width": 128, "height": 64}
    del graph["2"]
    frames = {"images": ["3", 0], "fps": 8.0, "filename_prefix": prefix}
    return graph | {
        "3": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 16}},
        "4": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "fps": 8.0}},
        "5": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["4", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
        "6": {"class_type": "SaveWEBM", "inputs": {**frames, "codec": "vp9", "crf": 32.0}},
        "7": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {**frames, "lossless": False, "quality": 80, "method": "default"},
        },
        "8": {"class_type": "EmptyAudio", "inputs": {"duration": 3.0, "sample_rate": 44_100, "channels": 2}},
        "9": {"class_type": "SaveAudio", "inputs": {"audio": ["8", 0], "filename_prefix": prefix}},
        "10": {
            "class_type": "SaveAudioMP3",
            "inputs": {"audio": ["8", 0], "filename_prefix": prefix, "quality": "128k"},
        },
        "11": {"class_type": "PrimitiveString", "inputs": {"value": "<b>a caption</b>"}},
        "12": {"class_type": "PreviewAny", "inputs": {"source": ["11", 0]}},
    }


def loading(prefix: str, asset: Asset, *, seconds: float) -> Graph:
    """Return LoadImage of an asset → SaveImage, and a sampler → PreviewImage that takes ``seconds``."""
    graph = sampled(prefix, seconds=seconds)
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": asset.reference}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph | {"4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


def _with_node(prefix: str, class_type: str, inputs: dict[str, Any]) -> Graph:
    graph = sampled(prefix)
    node = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    graph["5"] = {**node, "_meta": {"title": "The culprit"}}
    graph["2"]["inputs"]["images"] = ["5", 0]
    return graph


def watch(director: Director, group: Group, after: Callable[[Event], None] | None = None) -> list[Event]:
    """Return every event of ``group``, without a gap; ``after`` is called with each of them at once."""
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
    (child,) = group.child_jobs
    return director.job(group.job_group_id, child.job_id)


def sent(director: Director, group: Group) -> str:
    """Return the prompt id under which the only child was first sent to ComfyUI."""

    def first() -> Attempt | None:
        return next(iter(only_child(director, group).attempts), None)

    prompt_id: str = until(first).prompt_id
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


def assert_ran_whole(events: list[Event], child: Child, *, node: str = "TestSampler") -> None:
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
