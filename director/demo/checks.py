"""Checks the results of a demo: what the API returned, the images, and the backends' audit logs.

The audit logs prove independently of the Director that no prompt was executed twice.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from director.client import Group


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the API returned for one group."""

    title: str  #: Display name of the group.
    group: Group  #: Status after the end.
    streamed: Sequence[int]  #: ``seq`` of every state event of the live stream, in order of arrival.
    logged: Sequence[int]  #: ``seq`` of every event of the log, read after the end.
    images: Sequence[Path]  #: Downloaded files, in the order of the children.


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


def problems(
    first: DemoResult, second: DemoResult, third: DemoResult, *, killed: bool, audit_log: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return one sentence for each failed check; an empty list if the demo succeeded.

    Args:
        first: of the group without a failure.
        second: of the group with one failed job.
        third: of the group during which the Director was killed.
        killed: whether it was killed indeed.
        audit_log: entries of all backends.
    """
    found = [] if killed else [f"{third.title}: the Director was not killed."]
    for result, status, count in ((first, "completed", 3), (second, "partial_complete", 2), (third, "completed", 3)):
        digests = {digest for path in result.images if (digest := png_digest(path))}
        if (result.group.status, len(result.images), len(digests)) != (status, count, count):
            found.append(
                f"{result.title} ended as {result.group.status} with {len(result.images)} images, {len(digests)} of"
                f" them complete and different, not as {status} with {count}."
            )
        expected = list(range(1, (result.group.seq or 0) + 1))
        for name, seqs in (("stream", result.streamed), ("log", result.logged)):
            if list(seqs) != expected:
                found.append(f"{result.title}: the {name} was {list(seqs)}, not {expected}.")
    log = list(audit_log)
    counts = {child.backend_id: _executions(log, child.job_id) for child in third.group.child_jobs}
    return found + [
        f"{third.title} on {name} was executed {count} times." for name, count in counts.items() if count != 1
    ]


def _executions(log: Sequence[Mapping[str, Any]], job_id: str) -> int:
    """Return how often the prompts with the Director's mark of a job were started."""
    marks = {one["prompt_id"]: one.get("extra_data") for one in log if one["kind"] == "accepted"}
    prompts = {prompt_id for prompt_id, mark in marks.items() if mark and mark.get("director", {}).get("job") == job_id}
    return sum(one["kind"] == "started" and one["prompt_id"] in prompts for one in log)
