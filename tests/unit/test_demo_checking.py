from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.client import Child, Group
from director.demo.checks import DemoResult, png_digest, problems


def _image(path: Path, colour: int, note: str = "") -> Path:
    notes = PngInfo()
    notes.add_text("prompt", note)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, pnginfo=notes)
    return path


def _prompt(kind: str, job_id: str) -> dict[str, Any]:
    mark = {"director": {"group": "jg_1", "job": job_id, "attempt": 1}}
    return {"kind": kind, "prompt_id": f"p-{job_id}", **({"extra_data": mark} if kind == "accepted" else {})}


#: Prompts of other clients do not count.
OTHERS = [
    {"kind": "fault", "name": "slow"},
    {"kind": "accepted", "prompt_id": "c", "extra_data": None},
    {"kind": "accepted", "prompt_id": "d", "extra_data": {}},
    *[{"kind": "started", "prompt_id": "c"}] * 2,
]


@dataclass
class Demo:
    """Valid results: three images, one failure, and a kill while each of three prompts ran."""

    first: DemoResult
    second: DemoResult
    third: DemoResult
    audit_log: Sequence[dict[str, Any]]
    killed: bool = True

    def problems(self) -> list[str]:
        return problems(self.first, self.second, self.third, killed=self.killed, audit_log=self.audit_log)


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    children = tuple(Child(job_id=f"j_{n}", backend_id=f"gpu-{n}", status="completed", seed=n) for n in range(3))
    group = Group(job_group_id="jg_1", status="completed", completed_count=3, seq=8, child_jobs=children)
    images = [_image(tmp_path / f"{number}.png", number) for number in range(3)]
    first = DemoResult("Group 1", group, range(1, 9), range(1, 9), images)
    partial = replace(group, status="partial_complete", completed_count=2, failed_count=1)
    second = replace(first, title="Group 2", group=partial, images=images[:2])
    log = [_prompt(kind, child.job_id) for child in children for kind in ("accepted", "started", "ended")]
    return Demo(first, second, replace(first, title="Group 3"), [*log, *OTHERS])


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
        [problem] = demo.problems()
        assert problem.startswith(
            f"Group 1 ended as completed with {len(found)} images, 2 of them complete and different"
        )
    demo.first = replace(demo.first, images=images)
    for content in (b"", b"<html>", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2]):
        images[2].write_bytes(content)
        assert any("with 3 images, 2 of them complete" in problem for problem in demo.problems())
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
    assert problem.startswith("Group 2 ended as completed with 2 images")


def test_prompts_that_were_not_executed_once_are_reported(demo: Demo) -> None:
    demo.audit_log = [*(one for one in demo.audit_log if one.get("prompt_id") != "p-j_1"), _prompt("started", "j_2")]
    assert demo.problems() == ["Group 3 on gpu-1 was executed 0 times.", "Group 3 on gpu-2 was executed 2 times."]


def test_missing_kill_is_reported(demo: Demo) -> None:
    demo.killed = False
    assert demo.problems() == ["Group 3: the Director was not killed."]
