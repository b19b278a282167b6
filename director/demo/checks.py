"""Checks the results of a demo: what the API returned, the images, and the backends' audit logs.

The audit logs prove independently of the Director that no prompt was executed twice.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from director.client import Group

#: State events of a group with three children that complete: no duplicate, no gap.
_ALL_EVENTS: Final = {"group_created": 1, "child_started": 3, "child_completed": 3, "group_complete": 1}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the API returned for one group.

    Attributes:
        title: display name of the group.
        group: status after the end.
        streamed: ``seq`` of every state event of the live stream, in order of arrival.
        logged: ``seq`` of every event of the log, read after the end.
        images: downloaded files, in the order of the children.
        kinds: type of every state event of the live stream, in order of arrival.
    """

    title: str
    group: Group
    streamed: Sequence[int]
    logged: Sequence[int]
    images: Sequence[Path]
    kinds: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Render:
    """One prompt of a group, as recorded by its backend.

    Attributes:
        job_id: the child of the prompt.
        executions: number of executions.
        outcome: result of the last execution; None while it runs.
        started_at: start of the first execution in seconds since the epoch; None without execution.
        ended_at: end of the last execution; None while it runs.
    """

    job_id: str
    executions: int
    outcome: str | None
    started_at: float | None
    ended_at: float | None

    def was_running_at(self, moment: float) -> bool:
        started, ended = self.started_at, self.ended_at
        return started is not None and started < moment and (ended is None or ended > moment)


@dataclass(frozen=True, slots=True)
class Outage:
    """Results of a group whose Director was killed while the jobs ran.

    ``killed_at`` in seconds since the epoch is None if the Director was not killed. ``renders`` are the group's prompts
    from the audit logs of the backends.
    """

    result: DemoResult
    killed_at: float | None
    renders: Sequence[Render]


def renders(entries: Iterable[Mapping[str, Any]], group_id: str) -> list[Render]:
    """Return every prompt that was accepted for a group, in the order of acceptance."""
    log = list(entries)
    return [
        _render(mark["job"], [one for one in log if one.get("prompt_id") == entry["prompt_id"]])
        for entry in log
        if entry["kind"] == "accepted" and (mark := _mark(entry)).get("group") == group_id
    ]


def _mark(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the Director's mark on a prompt; empty for a prompt of another client."""
    mark = (entry.get("extra_data") or {}).get("director")
    return mark if isinstance(mark, dict) else {}


def _render(job_id: str, entries: list[Mapping[str, Any]]) -> Render:
    starts = [entry["time"] for entry in entries if entry["kind"] == "started"]
    ends = [entry for entry in entries if entry["kind"] == "ended"]
    return Render(
        job_id=job_id,
        executions=len(starts),
        outcome=ends[-1]["outcome"] if ends else None,
        started_at=min(starts, default=None),
        ended_at=ends[-1]["time"] if ends else None,
    )


def png_digest(path: Path) -> str | None:
    """Return the SHA-256 of a PNG's pixels; None if the file is not a complete PNG.

    Equal images can have different files: each file contains its seed.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            size = f"{image.width}x{image.height}".encode()
            return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None


def problems(first: DemoResult, second: DemoResult, third: Outage) -> list[str]:
    """Return one sentence for each failed check; an empty list if the demo succeeded."""
    return [
        *_three_images(first),
        *_one_failed(second),
        *_three_images(third.result),
        *_survived(third),
        *(sentence for result in (first, second, third.result) for sentence in _gapless(result)),
    ]


def _three_images(result: DemoResult) -> list[str]:
    found = []
    if result.group.status != "completed":
        found.append(f"{result.title} ended as {result.group.status}, not as completed.")
    digests = [png_digest(path) for path in result.images]
    broken = [path.name for path, digest in zip(result.images, digests, strict=True) if not digest]
    found += [f"{name} is not a complete PNG." for name in broken]
    different = len({digest for digest in digests if digest})
    if (len(digests), different) != (3, 3):
        found.append(f"{result.title} made {len(digests)} images, {different} of them different.")
    return found


def _one_failed(result: DemoResult) -> list[str]:
    group = result.group
    got = (group.status, group.completed_count, group.failed_count, len(result.images))
    if got == ("partial_complete", 2, 1, 2):
        return []
    status, completed, failed, images = got
    return [
        f"{result.title} ended as {status} with {completed} completed, {failed} failed and {images}"
        " images, not as partial_complete with 2, 1 and 2."
    ]


def _gapless(result: DemoResult) -> list[str]:
    expected = list(range(1, (result.group.seq or 0) + 1))
    found = []
    if list(result.streamed) != expected:
        found.append(f"{result.title}: the stream was {list(result.streamed)}, not {expected}.")
    if list(result.logged) != expected:
        found.append(f"{result.title}: the log is {list(result.logged)}, not {expected}.")
    return found


def _survived(outage: Outage) -> list[str]:
    result = outage.result
    found = []
    if dict(Counter(result.kinds)) != _ALL_EVENTS:
        found.append(f"{result.title}: the stream had the events {', '.join(result.kinds) or 'none'}.")
    if outage.killed_at is None:
        found.append(f"{result.title}: the Director was not killed.")
    for child in result.group.child_jobs:
        mine = [render for render in outage.renders if render.job_id == child.job_id]
        found += _once(f"{result.title} on {child.backend_id}", mine, outage.killed_at)
    return found


def _once(name: str, renders: Sequence[Render], killed_at: float | None) -> list[str]:
    executed = [(render.executions, render.outcome) for render in renders]
    if executed != [(1, "success")]:
        return [f"{name} was executed as {executed}, not once with success."]
    if killed_at is not None and not renders[0].was_running_at(killed_at):
        return [f"{name} was not running when the Director was killed."]
    return []
