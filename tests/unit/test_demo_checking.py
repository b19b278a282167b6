from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.client import Child, Group
from director.demo.checks import DemoResult, Outage, Render, png_digest, problems, renders

KILLED_AT = 100.0
KINDS = ["group_created", *["child_started"] * 3, *["child_completed"] * 3, "group_complete"]


def _image(path: Path, colour: int, note: str = "") -> Path:
    notes = PngInfo()
    notes.add_text("prompt", note)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, pnginfo=notes)
    return path


@dataclass
class Demo:
    """Valid results: three images, one failure, and a kill while each of three prompts ran."""

    first: DemoResult
    second: DemoResult
    third: Outage

    def problems(self) -> list[str]:
        return problems(self.first, self.second, self.third)

    def change_third(self, **changes: Any) -> None:
        self.third = replace(self.third, result=replace(self.third.result, **changes))


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    group = Group(job_group_id="jg_1", status="completed", completed_count=3, seq=8)
    images = [_image(tmp_path / f"{number}.png", number) for number in range(3)]
    first = DemoResult("Group 1", group, range(1, 9), range(1, 9), images)
    partial = replace(group, status="partial_complete", completed_count=2, failed_count=1)
    second = replace(first, title="Group 2", group=partial, images=images[:2])
    children = tuple(
        Child(job_id=f"cj_{number}", backend_id=f"gpu-{number}", status="completed", seed=number) for number in range(3)
    )
    killed = replace(group, child_jobs=children)
    result = replace(first, title="Group 3", group=killed, kinds=KINDS)
    seen = [Render(child.job_id, 1, "success", KILLED_AT - 1, KILLED_AT + 1) for child in children]
    return Demo(first, second, Outage(result, KILLED_AT, seen))


def test_valid_results_have_no_problem(demo: Demo) -> None:
    assert demo.problems() == []


def test_equal_missing_and_incomplete_images_are_reported(demo: Demo) -> None:
    """Each file contains its seed, so equal images have different files."""
    images = demo.first.images
    other = _image(images[1].with_name("other.png"), 0, note="another seed")
    assert images[0].read_bytes() != other.read_bytes()
    whole = images[2].read_bytes()
    for found in ([images[0], other, images[2]], images[:2]):
        demo.first = replace(demo.first, images=found)
        assert demo.problems() == [f"Group 1 made {len(found)} images, 2 of them different."]
    demo.first = replace(demo.first, images=images)
    for content in (b"", b"<html>", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2]):
        images[2].write_bytes(content)
        assert "2.png is not a complete PNG." in demo.problems()
    Image.new("RGB", (8, 8)).save(images[2], format="JPEG")
    assert png_digest(images[2]) is None


@pytest.mark.parametrize(
    ("streamed", "logged"),
    [
        ([1, 2, 4, 5, 6, 7, 8], range(1, 9)),
        ([1, 2, 2, 3, 4, 5, 6, 7, 8], range(1, 9)),
        (range(1, 8), range(1, 9)),
        (range(1, 9), [1, 2, 3, 4, 5, 6, 8]),
    ],
)
def test_gap_repeat_and_early_end_are_reported(streamed: list[int], logged: list[int], demo: Demo) -> None:
    demo.first = replace(demo.first, streamed=streamed, logged=logged)
    assert len(demo.problems()) == 1


def test_second_group_without_failure_is_reported(demo: Demo) -> None:
    demo.second = replace(demo.second, group=demo.first.group)
    [problem] = demo.problems()
    assert problem.startswith("Group 2 ended as completed with 3 completed, 0 failed")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"executions": 2}, "was executed as [(2, 'success')], not once with success."),
        ({"job_id": "other"}, "was executed as [], not once with success."),
        ({"ended_at": KILLED_AT - 0.5}, "was not running when the Director was killed."),
        ({"started_at": KILLED_AT + 0.5}, "was not running when the Director was killed."),
    ],
)
def test_prompt_that_was_not_executed_once_during_the_kill_is_reported(
    changes: dict[str, Any], problem: str, demo: Demo
) -> None:
    changed = replace(demo.third.renders[2], **changes)
    demo.third = replace(demo.third, renders=[*demo.third.renders[:2], changed])
    assert demo.problems() == [f"Group 3 on gpu-2 {problem}"]


def test_missing_kill_is_reported(demo: Demo) -> None:
    demo.third = replace(demo.third, killed_at=None)
    assert demo.problems() == ["Group 3: the Director was not killed."]


def test_event_that_is_sent_twice_is_reported(demo: Demo) -> None:
    """A repeated event with a new ``seq`` makes no gap."""
    again = ["group_created", "child_started", *KINDS[1:]]
    group = replace(demo.third.result.group, seq=9)
    demo.change_third(group=group, streamed=range(1, 10), logged=range(1, 10), kinds=again)
    [problem] = demo.problems()
    assert problem.startswith("Group 3: the stream had the events group_created, child_started,")


def test_audit_log_is_filtered_by_the_mark_of_the_group() -> None:
    """Prompts of other clients and groups do not count; the second start does."""

    def entry(kind: str, prompt_id: str, time: float, **facts: object) -> dict[str, object]:
        return {"kind": kind, "time": time, "prompt_id": prompt_id, **facts}

    ours = {"director": {"group": "jg_1", "job": "cj_1", "attempt": 1}}
    others = {"director": {"group": "jg_2", "job": "cj_9", "attempt": 1}}
    entries = [
        {"kind": "fault", "time": 0.5, "name": "slow"},
        entry("accepted", "a", 1.0, extra_data=ours),
        entry("accepted", "b", 1.0, extra_data=others),
        entry("accepted", "c", 1.0, extra_data={}),
        entry("accepted", "d", 1.0, extra_data=None),
        entry("started", "a", 2.0),
        entry("ended", "a", 3.0, outcome="lost"),
        entry("started", "c", 3.0),
        entry("started", "a", 4.0),
        entry("ended", "a", 5.0, outcome="success"),
    ]
    assert renders(entries, "jg_1") == [Render("cj_1", 2, "success", 2.0, 5.0)]
    assert renders(entries[:6], "jg_1") == [Render("cj_1", 1, None, 2.0, None)]
    assert renders(entries[:2], "jg_1") == [Render("cj_1", 0, None, None, None)]
