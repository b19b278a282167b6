"""Workflows for a real ComfyUI with the nodes of tests/contract, and what must hold for their
groups.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from director import client
from tests.harness import graphs
from tests.harness.graphs import Graph
from tests.harness.waits import until


def sampled(prefix: str, *, steps: int = 4, seconds: float = 0.4) -> Graph:
    """Return sampler "1" → SaveImage "2"; the sampler takes ``seconds`` and can be interrupted."""
    return graphs.sampler(0, steps, seconds / steps, prefix=prefix)


def media(prefix: str) -> Graph:
    """Return sampler → an MP4, a WebM and an animated WebP of 2 s; a FLAC and an MP3 of 3 s; a
    text; no picture.
    """
    graph = sampled(prefix)
    graph["1"]["inputs"] |= {"width": 128, "height": 64}
    del graph["2"]
    rest = Path(__file__).with_name("media.json").read_text(encoding="utf-8")
    return graph | json.loads(rest.replace("$prefix", prefix))


def frames(prefix: str) -> Graph:
    """Return sampler → SaveImage, and SaveImageWebsocket of the same picture."""
    graph = sampled(prefix)
    return graph | {"3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}


def drawn(prefix: str) -> dict[str, Any]:
    """Return EmptyImage → SaveImage as the editor saves it."""
    image = {
        "inputs": [],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
        "widgets_values": [64, 32, 1, 0],
    }
    save = {
        "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
        "outputs": [],
        "widgets_values": [prefix],
    }
    nodes = [
        {
            "id": number,
            "type": name,
            "pos": [300 * number, 0],
            "size": [200, 100],
            "flags": {},
            "order": 0,
            "mode": 0,
        }
        | {"properties": {}, **rest}
        for number, name, rest in ((1, "EmptyImage", image), (2, "SaveImage", save))
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"]]
    return {
        "last_node_id": 2,
        "last_link_id": 1,
        "nodes": nodes,
        "links": links,
        "groups": [],
        "extra": {},
        "version": 0.4,
    }


def loading(prefix: str, asset: client.Asset, *, seconds: float) -> Graph:
    """Return LoadImage of an asset → SaveImage, and a sampler → PreviewImage that takes
    ``seconds``.
    """
    graph = sampled(prefix, seconds=seconds)
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": asset.reference}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph | {"4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


def watch(
    director: client.Director,
    group: client.Group,
    after: Callable[[client.Event], None] | None = None,
) -> list[client.Event]:
    """Return every event of ``group``, without a gap; ``after`` is called with each of them at
    once.
    """
    events = []
    for event in director.stream(group.job_group_id, since=0):
        events.append(event)
        if after is not None:
            after(event)
    numbers = [event.seq for event in events if event.seq is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert isinstance(events[-1], client.GroupComplete)
    return events


def of_kind(events: list[client.Event], kind: type[Any], job_id: str) -> list[Any]:
    return [event for event in events if isinstance(event, kind) and event.job_id == job_id]


def only_child(director: client.Director, group: client.Group) -> client.Child:
    (child,) = group.child_jobs
    return director.job(group.job_group_id, child.job_id)


def sent(director: client.Director, group: client.Group) -> str:
    """Return the prompt id under which the only child was first sent to ComfyUI."""

    def first() -> client.Attempt | None:
        return next(iter(only_child(director, group).attempts), None)

    prompt_id: str = until(first).prompt_id
    return prompt_id


def until_progress(director: client.Director, group: client.Group) -> None:
    """Return once a step of the group's child was reported."""
    for event in director.stream(group.job_group_id, since=0):
        if isinstance(event, client.ChildProgress) and event.steps_completed:
            return
        assert not isinstance(event, client.GroupComplete), "it ended before it was seen to run"


def graph_in(picture: Path) -> Graph:
    """Return the workflow that ComfyUI wrote into a PNG: the one it ran."""
    with Image.open(picture) as image:
        assert image.format == "PNG"
        graph: Graph = json.loads(image.info["prompt"])
    return graph


def assert_ran_whole(
    events: list[client.Event], child: client.Child, *, node: str = "TestSampler"
) -> None:
    """``child`` started, went forward (four steps of ``node``), and completed with a picture."""
    assert (child.status, child.progress, len(child.images)) == ("completed", 100.0, 1)
    mine = of_kind(events, client.ChildEvent, child.job_id)
    assert isinstance(mine[0], client.ChildStarted)
    assert isinstance(mine[-1], client.ChildCompleted)
    between = of_kind(events, client.ChildProgress, child.job_id)
    assert between == mine[1:-1]
    reached = [event.progress for event in between]
    assert reached == sorted(reached)
    assert (node, 4) in {(event.current_step, event.steps_total) for event in between}
    assert (mine[0].seed, mine[-1].seed) == (child.seed, child.seed)


def assert_cancelled(director: client.Director, group: client.Group) -> None:
    """The group and its child are cancelled, one event says so, and none follows."""
    events = watch(director, group)
    (child,) = group.child_jobs
    assert len(of_kind(events, client.ChildCancelled, child.job_id)) == 1
    assert not of_kind(events, client.ChildCompleted, child.job_id)
    assert not of_kind(events, client.ChildFailed, child.job_id)
    ended = director.status(group.job_group_id)
    assert (ended.status, ended.child_jobs[0].status) == ("cancelled", "cancelled")
