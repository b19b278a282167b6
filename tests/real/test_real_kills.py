"""The plug is pulled in mid-render: the Director's, a real ComfyUI's, and both at once.

What was rendered is read from ComfyUI and its output folder, never from the Director. A second
execution would be in ComfyUI's history, with the group's mark or with cached nodes, or leave one
file more.
"""

import dataclasses
import hashlib
import uuid
from collections import Counter
from pathlib import Path

import pytest

from director import client
from tests.harness.processes import Served
from tests.harness.waits import until
from tests.real.comfyui import ComfyUI, OwnComfyUI
from tests.real.conftest import served
from tests.real.groups import of_kind, sampled, watch

#: A start of ComfyUI alone may take a minute on a slow machine.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def pictures(prefix: str) -> str:
    """A file name prefix that nobody has used before, so that files can be counted."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def test_a_director_that_is_killed_three_times_loses_and_doubles_nothing(
    comfyui: ComfyUI, pictures: str, tmp_path: Path
) -> None:
    kills: list[str] = []
    foreign: list[str] = []
    with served(tmp_path, comfyui.url) as (process, director):
        group = director.submit(sampled(pictures, steps=20, seconds=2.0), backend_of(director) * 6)
        first, _, third, _, fifth, _ = (child.job_id for child in group.child_jobs)

        def kill(event: client.Event) -> None:
            mine = event.job_id if isinstance(event, client.ChildProgress) else ""
            if mine in {first, third, fifth} - set(kills):
                kills.append(mine)
                foreign.append(comfyui.post_prompt(sampled(f"{pictures}-foreign")))
                process.kill()
                process.start()

        events = watch(director, group, after=kill)
        ended = with_attempts(director, group)

    assert kills == [first, third, fifth]
    assert_each_rendered_once(comfyui, ended, events, pictures)
    assert {comfyui.wait_outcome(prompt_id) for prompt_id in foreign} == {"execution_success"}


@pytest.mark.parametrize("director_too", [False, True], ids=["comfyui", "comfyui and director"])
def test_a_killed_comfyui_costs_what_it_was_rendering_and_nothing_else(
    mortal: OwnComfyUI, pictures: str, tmp_path: Path, director_too: bool
) -> None:
    killed = False
    with served(tmp_path, mortal.url) as (process, director):
        group = director.submit(sampled(pictures, steps=100, seconds=5.0), backend_of(director) * 3)
        first = group.child_jobs[0].job_id

        def kill(event: client.Event) -> None:
            nonlocal killed
            if killed or not (isinstance(event, client.ChildProgress) and event.job_id == first):
                return
            killed = True
            wait_until_one_waits(mortal, director, group)
            mortal.kill()
            restart(mortal, director, process if director_too else None)

        events = watch(director, group, after=kill)
        ended = with_attempts(director, group)

    lost, waiting, unsent = ended.child_jobs
    assert (ended.status, ended.completed_count, ended.failed_count) == ("partial_complete", 2, 1)
    assert (lost.status, lost.error_type) == ("failed", "ConnectionError")
    assert "lost the prompt" in (lost.error_message or "")
    assert [outcomes(child) for child in ended.child_jobs] == [
        ["lost"],
        ["lost", "success"],
        ["success"],
    ]
    assert_told_once(events, ended)
    assert_executed(mortal, ended, [waiting, unsent])
    assert mortal.count_pictures(pictures) == 2


def backend_of(director: client.Director) -> list[str]:
    (backend,) = director.backends()
    return [backend.backend_id]


def wait_until_one_waits(comfyui: ComfyUI, director: client.Director, group: client.Group) -> None:
    """Wait until the second child's prompt stands behind the first one's, seen by ComfyUI."""

    def prompts(child: client.Child) -> list[str | None]:
        return [
            attempt.prompt_id for attempt in director.job(group.job_group_id, child.job_id).attempts
        ]

    first, second = group.child_jobs[:2]
    until(lambda: comfyui.running() == prompts(first) and comfyui.pending() == prompts(second))


def restart(comfyui: OwnComfyUI, director: client.Director, process: Served | None) -> None:
    """Start ComfyUI again; with ``process`` that is killed as well, and started before it."""
    if process is not None:
        process.kill()
        process.start()
    until(lambda: statuses(director) == ["offline"])
    comfyui.start()


def statuses(director: client.Director) -> list[str]:
    return [backend.status for backend in director.backends()]


def with_attempts(director: client.Director, group: client.Group) -> client.Group:
    ended = director.status(group.job_group_id)
    children = (director.job(ended.job_group_id, child.job_id) for child in ended.child_jobs)
    return dataclasses.replace(ended, child_jobs=tuple(children))


def outcomes(child: client.Child) -> list[str | None]:
    return [attempt.outcome for attempt in child.attempts]


def assert_each_rendered_once(
    comfyui: ComfyUI, ended: client.Group, events: list[client.Event], pictures: str
) -> None:
    """Every child completed at its first attempt, with a picture of its own and none to spare."""
    count = len(ended.child_jobs)
    ends = [(child.status, child.error_message, outcomes(child)) for child in ended.child_jobs]
    assert ends == [("completed", None, ["success"])] * count
    assert (ended.status, ended.completed_count, ended.failed_count) == ("completed", count, 0)
    assert_told_once(events, ended)
    assert_executed(comfyui, ended, list(ended.child_jobs))
    assert comfyui.count_pictures(pictures) == count


def assert_told_once(events: list[client.Event], ended: client.Group) -> None:
    """The events of each child have one start, and one end with its present status."""
    ends = {"completed": client.ChildCompleted, "failed": client.ChildFailed}
    for child in ended.child_jobs:
        kinds = [
            type(one)
            for one in of_kind(events, client.ChildEvent, child.job_id)
            if one.seq is not None
        ]
        assert kinds == [client.ChildStarted, ends[child.status]]


def assert_executed(comfyui: ComfyUI, ended: client.Group, children: list[client.Child]) -> None:
    """ComfyUI's history has one prompt for each of ``children``, its last one, and no other.

    Each was executed from its seed on: nothing of it had been rendered before.
    """
    history = comfyui.sent_for(ended.job_group_id)
    assert history.keys() == {child.attempts[-1].prompt_id for child in children}
    files = Counter[str]()
    for entry in history.values():
        kinds = [kind for kind, _ in entry["status"]["messages"]]
        assert kinds[-1] == "execution_success"
        cached = [data["nodes"] for kind, data in entry["status"]["messages"] if "cached" in kind]
        assert not any(cached), f"it was executed before: {cached}"
        (image,) = entry["outputs"]["2"]["images"]
        content = comfyui.view(image["filename"], image["subfolder"])
        files[hashlib.sha256(content).hexdigest()] += 1
    assert set(files.values()) == {1}
