"""What must be true of a demo, judged from what its user got. Pure but for reading the pictures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from director.client import Group
from director.demo.audit_log import Render

#: What a group of three tells that starts, completes and ends: nothing twice, nothing missing.
_A_WHOLE_STORY: Final = {
    "group_created": 1,
    "child_started": 3,
    "child_completed": 3,
    "group_complete": 1,
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a user was told of one group.

    Attributes:
        title: for people.
        group: its status after the end.
        streamed: ``seq`` of every state event of the live stream, as they came.
        logged: ``seq`` of every event of the log, read after the end.
        pictures: the files that were downloaded, in the order of the children.
        kinds: type of every state event of the live stream, as they came.
    """

    title: str
    group: Group
    streamed: Sequence[int]
    logged: Sequence[int]
    pictures: Sequence[Path]
    kinds: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outage:
    """What came of a group whose Director was killed while it was rendered.

    Attributes:
        told: what its user was told, before and after.
        killed_at: seconds since the epoch; None: nobody killed it.
        renders: the group's prompts, as the audit logs of the backends record them.
    """

    told: DemoResult
    killed_at: float | None
    renders: Sequence[Render]


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


def problems(first: DemoResult, second: DemoResult, third: Outage) -> list[str]:
    """Return what is not as it must be, a sentence each; nothing if the demo succeeded."""
    return [
        *_three_pictures(first),
        *_one_failed(second),
        *_three_pictures(third.told),
        *_survived(third),
        *(sentence for told in (first, second, third.told) for sentence in _gapless(told)),
    ]


def _three_pictures(told: DemoResult) -> list[str]:
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


def _one_failed(told: DemoResult) -> list[str]:
    group = told.group
    got = (group.status, group.completed_count, group.failed_count, len(told.pictures))
    if got == ("partial_complete", 2, 1, 2):
        return []
    status, completed, failed, pictures = got
    return [
        f"{told.title} ended as {status} with {completed} completed, {failed} failed and {pictures}"
        " pictures, not as partial_complete with 2, 1 and 2."
    ]


def _gapless(told: DemoResult) -> list[str]:
    expected = list(range(1, (told.group.seq or 0) + 1))
    found = []
    if list(told.streamed) != expected:
        found.append(f"{told.title}: the stream was {list(told.streamed)}, not {expected}.")
    if list(told.logged) != expected:
        found.append(f"{told.title}: the log is {list(told.logged)}, not {expected}.")
    return found


def _survived(outage: Outage) -> list[str]:
    """Return what the kill cost: it must have hit every render, and have doubled none of them."""
    told = outage.told
    found = []
    if dict(Counter(told.kinds)) != _A_WHOLE_STORY:
        found.append(f"{told.title}: the stream told {', '.join(told.kinds) or 'nothing'}.")
    if outage.killed_at is None:
        found.append(f"{told.title}: the Director was not killed.")
    for child in told.group.child_jobs:
        mine = [render for render in outage.renders if render.job_id == child.job_id]
        found += _once(f"{told.title} on {child.backend_id}", mine, outage.killed_at)
    return found


def _once(name: str, renders: Sequence[Render], killed_at: float | None) -> list[str]:
    """Return what is wrong with the prompts of a child: one must be there, executed once."""
    executed = [(render.executions, render.outcome) for render in renders]
    if executed != [(1, "success")]:
        return [f"{name} was executed as {executed}, not once with success."]
    if killed_at is not None and not renders[0].was_running_at(killed_at):
        return [f"{name} was not being rendered when the Director was killed."]
    return []
