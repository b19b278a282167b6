"""What must be true of a demo, judged from what its user got. Pure but for reading the pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from director.client import Group


@dataclass(frozen=True, slots=True)
class Told:
    """What a user was told of one group.

    Attributes:
        title: for people.
        group: its status after the end.
        streamed: ``seq`` of every state event of the live stream, as they came.
        logged: ``seq`` of every event of the log, read after the end.
        pictures: the files that were downloaded, in the order of the children.
    """

    title: str
    group: Group
    streamed: Sequence[int]
    logged: Sequence[int]
    pictures: Sequence[Path]


def png_digest(path: Path) -> str | None:
    """Return the SHA-256 of a PNG's pixels, None for what is no whole PNG.

    Of the pixels and not of the file: two files of one picture differ by the seed noted in them.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            size = f"{picture.width}x{picture.height}".encode()
            return hashlib.sha256(size + picture.convert("RGB").tobytes()).hexdigest()
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None


def shortcomings(first: Told, second: Told) -> list[str]:
    """Return what is not as it must be, a sentence each; nothing if the demo succeeded."""
    return [
        *_three_pictures(first),
        *_one_failed(second),
        *_gapless(first),
        *_gapless(second),
    ]


def _three_pictures(told: Told) -> list[str]:
    found = []
    if told.group.status != "completed":
        found.append(f"{told.title} ended as {told.group.status}, not as completed.")
    digests = [png_digest(path) for path in told.pictures]
    broken = [path.name for path, digest in zip(told.pictures, digests, strict=True) if not digest]
    found += [f"{name} is not a whole PNG." for name in broken]
    different = len({digest for digest in digests if digest})
    if (len(digests), different) != (3, 3):
        found.append(f"{told.title} made {len(digests)} pictures, {different} of them different.")
    return found


def _one_failed(told: Told) -> list[str]:
    group = told.group
    got = (group.status, group.completed_count, group.failed_count, len(told.pictures))
    if got == ("partial_complete", 2, 1, 2):
        return []
    status, completed, failed, pictures = got
    return [
        f"{told.title} ended as {status} with {completed} completed, {failed} failed and {pictures}"
        " pictures, not as partial_complete with 2, 1 and 2."
    ]


def _gapless(told: Told) -> list[str]:
    expected = list(range(1, (told.group.seq or 0) + 1))
    found = []
    if list(told.streamed) != expected:
        found.append(f"{told.title}: the stream was {list(told.streamed)}, not {expected}.")
    if list(told.logged) != expected:
        found.append(f"{told.title}: the log is {list(told.logged)}, not {expected}.")
    return found
