"""The demo's checks report each kind of failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.client import Child, Group
from director.demo.audit_log import Render, renders
from director.demo.checks import DemoResult, Outage, png_digest, problems

KILLED_AT = 100.0
KINDS = ["group_created", *["child_started"] * 3, *["child_completed"] * 3, "group_complete"]


def _image(path: Path, colour: int, note: str = "") -> Path:
    notes = PngInfo()
    notes.add_text("prompt", note)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, pnginfo=notes)
    return path


@pytest.fixture
def first(tmp_path: Path) -> DemoResult:
    """Return a valid first group."""
    group = Group(job_group_id="jg_1", status="completed", completed_count=3, seq=8)
    images = [_image(tmp_path / f"{number}.png", number) for number in range(3)]
    return DemoResult("Group 1", group, range(1, 9), range(1, 9), images)


@pytest.fixture
def second(first: DemoResult) -> DemoResult:
    """Return a valid second group."""
    group = Group(job_group_id="jg_2", status="partial_complete", completed_count=2, failed_count=1, seq=8)
    return DemoResult("Group 2", group, range(1, 9), range(1, 9), first.images[:2])


@pytest.fixture
def third(first: DemoResult) -> Outage:
    """Return a valid third group: each prompt executed once, running during the kill."""
    children = tuple(
        Child(job_id=f"cj_{number}", backend_id=f"gpu-{number}", status="completed", seed=number) for number in range(3)
    )
    result = dataclasses.replace(
        first, title="Group 3", group=dataclasses.replace(first.group, child_jobs=children), kinds=KINDS
    )
    seen = [Render(child.job_id, 1, "success", KILLED_AT - 1, KILLED_AT + 1) for child in children]
    return Outage(result, KILLED_AT, seen)


def test_valid_results_have_no_problem(first: DemoResult, second: DemoResult, third: Outage) -> None:
    assert problems(first, second, third) == []


def test_equal_images_with_different_metadata_are_reported(
    first: DemoResult, second: DemoResult, third: Outage
) -> None:
    """Each file contains its seed, so equal images have different files."""
    other = _image(first.images[1].with_name("other.png"), 0, note="another seed")
    assert first.images[0].read_bytes() != other.read_bytes()
    images = [first.images[0], other, first.images[2]]
    equal = dataclasses.replace(first, images=images)
    assert problems(equal, second, third) == ["Group 1 made 3 images, 2 of them different."]


def test_missing_image_is_reported(first: DemoResult, second: DemoResult, third: Outage) -> None:
    fewer = dataclasses.replace(first, images=first.images[:2])
    assert problems(fewer, second, third) == ["Group 1 made 2 images, 2 of them different."]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_incomplete_png_is_reported(content: bytes, first: DemoResult, second: DemoResult, third: Outage) -> None:
    first.images[2].write_bytes(content)
    assert "2.png is not a complete PNG." in problems(first, second, third)


def test_truncated_png_has_no_digest(first: DemoResult) -> None:
    whole = first.images[0].read_bytes()
    first.images[0].write_bytes(whole[: len(whole) // 2])
    assert png_digest(first.images[0]) is None


def test_jpeg_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, format="JPEG")
    assert png_digest(path) is None


@pytest.mark.parametrize(
    ("streamed", "logged"),
    [
        ([1, 2, 4, 5, 6, 7, 8], range(1, 9)),
        ([1, 2, 2, 3, 4, 5, 6, 7, 8], range(1, 9)),
        (range(1, 8), range(1, 9)),
        (range(1, 9), [1, 2, 3, 4, 5, 6, 8]),
    ],
)
def test_gap_repeat_and_early_end_are_reported(
    streamed: list[int], logged: list[int], first: DemoResult, second: DemoResult, third: Outage
) -> None:
    broken = dataclasses.replace(first, streamed=streamed, logged=logged)
    assert len(problems(broken, second, third)) == 1


def test_second_group_without_failure_is_reported(first: DemoResult, second: DemoResult, third: Outage) -> None:
    group = dataclasses.replace(second.group, status="completed", completed_count=3, failed_count=0)
    [problem] = problems(first, dataclasses.replace(second, group=group), third)
    assert problem.startswith("Group 2 ended as completed with 3 completed, 0 failed")


def test_prompt_that_was_executed_twice_is_reported(first: DemoResult, second: DemoResult, third: Outage) -> None:
    """The audit log shows a second execution after a restart."""
    twice = dataclasses.replace(third.renders[0], executions=2)
    doubled = dataclasses.replace(third, renders=[twice, *third.renders[1:]])
    [problem] = problems(first, second, doubled)
    assert problem == "Group 3 on gpu-0 was executed as [(2, 'success')], not once with success."


def test_child_with_two_prompts_and_child_without_are_reported(
    first: DemoResult, second: DemoResult, third: Outage
) -> None:
    renders_ = [third.renders[0], third.renders[0], third.renders[1]]
    doubled = dataclasses.replace(third, renders=renders_)
    said = problems(first, second, doubled)
    assert [sentence.split(" was ")[0] for sentence in said] == ["Group 3 on gpu-0", "Group 3 on gpu-2"]


@pytest.mark.parametrize(("started", "ended"), [(KILLED_AT - 2, KILLED_AT - 1), (KILLED_AT + 1, KILLED_AT + 2)])
def test_kill_outside_a_job_is_reported(
    started: float, ended: float, first: DemoResult, second: DemoResult, third: Outage
) -> None:
    missed = dataclasses.replace(third.renders[2], started_at=started, ended_at=ended)
    outage = dataclasses.replace(third, renders=[*third.renders[:2], missed])
    [problem] = problems(first, second, outage)
    assert problem == "Group 3 on gpu-2 was not running when the Director was killed."


def test_missing_kill_is_reported(first: DemoResult, second: DemoResult, third: Outage) -> None:
    [problem] = problems(first, second, dataclasses.replace(third, killed_at=None))
    assert problem == "Group 3: the Director was not killed."


def test_event_that_is_sent_twice_is_reported(first: DemoResult, second: DemoResult, third: Outage) -> None:
    """A repeated event with a new ``seq`` makes no gap."""
    again = ["group_created", "child_started", *KINDS[1:]]
    result = dataclasses.replace(
        third.result,
        group=dataclasses.replace(third.result.group, seq=9),
        streamed=range(1, 10),
        logged=range(1, 10),
        kinds=again,
    )
    [problem] = problems(first, second, dataclasses.replace(third, result=result))
    assert problem.startswith("Group 3: the stream had the events group_created, child_started, child_started,")


def test_audit_log_is_filtered_by_the_mark_of_the_group() -> None:
    """Prompts of other clients and groups do not count; the second start does."""

    def accepted(prompt_id: str, extra: object) -> dict[str, object]:
        return {"kind": "accepted", "time": 1.0, "prompt_id": prompt_id, "extra_data": extra}

    def then(kind: str, prompt_id: str, time: float, **facts: object) -> dict[str, object]:
        return {"kind": kind, "time": time, "prompt_id": prompt_id, **facts}

    ours = {"director": {"group": "jg_1", "job": "cj_1", "attempt": 1}}
    entries = [
        {"kind": "fault", "time": 0.5, "name": "slow"},
        accepted("a", ours),
        accepted("b", {"director": {"group": "jg_2", "job": "cj_9", "attempt": 1}}),
        accepted("c", {}),
        accepted("d", None),
        then("started", "a", 2.0),
        then("ended", "a", 3.0, outcome="lost"),
        then("started", "c", 3.0),
        then("started", "a", 4.0),
        then("ended", "a", 5.0, outcome="success"),
    ]
    assert renders(entries, "jg_1") == [Render("cj_1", 2, "success", 2.0, 5.0)]
    assert renders(entries[:6], "jg_1") == [Render("cj_1", 1, None, 2.0, None)]
    assert renders(entries[:2], "jg_1") == [Render("cj_1", 0, None, None, None)]
