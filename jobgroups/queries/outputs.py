"""Reads the files that children reported, with the present address of their backends."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.models import Backend
from jobgroups.domain.outputs import REPLACED, download_name, file_digest, reported_files
from jobgroups.errors import ChildNotFound, GroupNotFound, OutputGone, OutputNotFound
from jobgroups.models import ChildJob, JobGroup


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a child reported, with the present address of its backend.

    Attributes:
        url: the backend's base URL.
        headers: the registered headers of the backend; secret.
        kind: ComfyUI's ``type``: ``output``, ``temp`` or ``input``.
    """

    backend_id: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    prompt_id: str
    filename: str
    subfolder: str
    kind: str
    seed: int
    job_id: str = ""
    #: Identifies the file, see ``jobgroups.domain.outputs``.
    digest: str = ""
    #: Whether a later job is known to have written another file of this name.
    replaced: bool = False
    #: Whether it is replaced and the job reported several files with its name: a cached thumbnail may be of
    #: another one.
    ambiguous: bool = False
    #: The latest end of the job that wrote it, and whether that is the backend's clock.
    ended_at: dt.datetime | None = None
    ended_by_backend: bool = False

    @property
    def download_name(self) -> str:
        """``{seed}_{backend}_{name}``, safe on every file system."""
        return download_name(self.seed, self.backend_id, self.filename)

    @property
    def identity(self) -> str:
        """Names the content, 64 hex digits.

        The prompt is part of it: ComfyUI gives the name of a removed file to another picture
        (comfyui-protocol.md, trap 9).
        """
        parts = [self.backend_id, self.prompt_id, self.filename, self.kind, self.subfolder]
        if self.ambiguous:
            parts.append(REPLACED)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def child_output(group_id: str, job_id: str, number: int) -> OutputFile:
    """Return a child's file by its number: images first, then the other keys in ComfyUI's order.

    Raises:
        GroupNotFound, ChildNotFound: the group, or the child in it, does not exist.
        OutputNotFound: the child reported fewer files.
        OutputGone: the backend was removed.
    """
    children = ChildJob.objects.filter(pk=job_id, group_id=group_id)
    child = children.select_related("current_attempt").first()
    if child is None:
        raise (ChildNotFound(job_id) if JobGroup.objects.filter(pk=group_id).exists() else GroupNotFound(group_id))
    outputs = json.loads(child.outputs_json or "{}")
    files = list(reported_files(outputs))
    if not 0 <= number < len(files):
        raise OutputNotFound(job_id, number, len(files))
    backend = Backend.objects.filter(pk=child.backend_id).first()
    if backend is None:
        raise OutputGone("Its backend is not registered any more.")
    return _located(child, backend, outputs, files[number])


def group_outputs(group_id: str, *, starred: bool) -> list[OutputFile]:
    """Return every file of a group whose backend is registered, child by child.

    Args:
        starred: only files of starred children.

    Raises:
        GroupNotFound: the group does not exist.
    """
    if not JobGroup.objects.filter(pk=group_id).exists():
        raise GroupNotFound(group_id)
    children = ChildJob.objects.filter(group_id=group_id, outputs_json__isnull=False)
    if starred:
        children = children.filter(starred=True)
    backends = Backend.objects.in_bulk()
    return [
        _located(child, backends[child.backend_id], outputs, item)
        for child in children.select_related("current_attempt").order_by("position")
        if child.backend_id in backends
        for outputs in [json.loads(child.outputs_json or "{}")]
        for item in reported_files(outputs)
    ]


def _located(child: ChildJob, backend: Backend, outputs: Mapping[str, Any], item: Mapping[str, Any]) -> OutputFile:
    attempt = child.current_attempt
    by_backend = None if attempt is None else attempt.backend_ended_at
    replaced = item.get("reason") == REPLACED
    same = (one for one in reported_files(outputs) if one.get("url") == item["url"])
    return OutputFile(
        backend_id=backend.id,
        url=backend.url,
        headers=dict(backend.headers),
        prompt_id=str(outputs.get("prompt_id", "")),
        filename=item["filename"],
        subfolder=str(item.get("subfolder", "")),
        kind=str(item.get("type", "output")),
        seed=child.seed,
        job_id=child.id,
        digest=file_digest(backend.id, item),
        replaced=replaced,
        ambiguous=replaced and len(list(same)) > 1,
        ended_at=by_backend or child.completed_at,
        ended_by_backend=by_backend is not None,
    )
