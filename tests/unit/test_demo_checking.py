"""The demo's judgement: each thing that may go wrong is seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.client import Group
from director.demo.checking import Told, png_digest, shortcomings


def _picture(path: Path, colour: int, note: str = "") -> Path:
    notes = PngInfo()
    notes.add_text("prompt", note)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, pnginfo=notes)
    return path


@pytest.fixture
def first(tmp_path: Path) -> Told:
    """A first group as it must be."""
    group = Group(job_group_id="jg_1", status="completed", completed_count=3, seq=8)
    pictures = [_picture(tmp_path / f"{number}.png", number) for number in range(3)]
    return Told("Group 1", group, range(1, 9), range(1, 9), pictures)


@pytest.fixture
def second(first: Told) -> Told:
    """A second group as it must be."""
    group = Group(
        job_group_id="jg_2", status="partial_complete", completed_count=2, failed_count=1, seq=8
    )
    return Told("Group 2", group, range(1, 9), range(1, 9), first.pictures[:2])


def test_a_demo_as_it_must_be_has_no_shortcoming(first: Told, second: Told) -> None:
    """Nothing is said of a good one."""
    assert shortcomings(first, second) == []


def test_two_equal_pictures_are_seen_whatever_is_noted_in_them(first: Told, second: Told) -> None:
    """The seed in a file's notes makes no other picture of it."""
    _picture(first.pictures[1], 0, note="another seed")
    assert first.pictures[0].read_bytes() != first.pictures[1].read_bytes()
    assert shortcomings(first, second) == ["Group 1 made 3 pictures, 2 of them different."]


def test_a_missing_picture_is_seen(first: Told, second: Told) -> None:
    """Two pictures are not three."""
    fewer = dataclasses.replace(first, pictures=first.pictures[:2])
    assert shortcomings(fewer, second) == ["Group 1 made 2 pictures, 2 of them different."]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_whole_png_is_seen(content: bytes, first: Told, second: Told) -> None:
    """Neither an error page nor the head of a PNG is one."""
    first.pictures[2].write_bytes(content)
    assert "2.png is not a whole PNG." in shortcomings(first, second)


def test_a_png_cut_short_is_no_png(first: Told) -> None:
    """A download that broke off is not taken for a picture."""
    whole = first.pictures[0].read_bytes()
    first.pictures[0].write_bytes(whole[: len(whole) // 2])
    assert png_digest(first.pictures[0]) is None


def test_a_jpeg_is_no_png(tmp_path: Path) -> None:
    """The name of a file says nothing."""
    path = tmp_path / "picture.png"
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
def test_a_gap_a_repeat_and_an_early_end_are_seen(
    streamed: list[int], logged: list[int], first: Told, second: Told
) -> None:
    """Of the stream and of the log alike."""
    broken = dataclasses.replace(first, streamed=streamed, logged=logged)
    assert len(shortcomings(broken, second)) == 1


def test_a_second_group_without_its_failure_is_seen(first: Told, second: Told) -> None:
    """The fault must have come through."""
    group = dataclasses.replace(second.group, status="completed", completed_count=3, failed_count=0)
    [said] = shortcomings(first, dataclasses.replace(second, group=group))
    assert said.startswith("Group 2 ended as completed with 3 completed, 0 failed")
