"""Groups, their jobs, attempts and output files. The names are those of the API."""

import itertools
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from director.client.decode import as_object, as_objects, build
from jobgroups.domain.shapes import Parsed, Raw, groups as shapes, record


@record
class OutputFile(shapes.OutputFile):
    """One output file of a job, with its origin.

    Attributes:
        kind: ComfyUI's key of the output: ``images``, ``gifs``, ``audio``, ``video`` …
        number: Its number in its job, from 1; None for a file without an address.
        variation: That of its job.
        metadata: That of its job; None for a file of an event.
        index: Number of its job in the group, from 1. It, ``job_group_id`` and ``group_metadata``
            are None for a file that was not read from a ``Group``.
    """

    kind: str = "images"
    job_id: str | None = None
    backend_id: str | None = None
    seed: int | None = None
    number: int | None = None
    variation: dict[str, Any] | None = field(default=None, hash=False)
    metadata: dict[str, Any] | None = field(default=None, hash=False)
    index: int | None = None
    job_group_id: str | None = None
    group_metadata: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def why_missing(self) -> str:
        """Return why the file is missing, as a sentence; empty if it is not."""
        if not self.missing:
            return ""
        if self.reason == "replaced":
            return f"{self.filename} was replaced: another file has its name on its backend now."
        return f"{self.filename} is gone from its backend."


@record
class Outputs(Parsed):
    """The outputs of a job. Texts and other values that are not files are in ``raw`` only."""

    files: tuple[OutputFile, ...] = ()
    prompt_id: str | None = None

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Return the images among the files."""
        return tuple(file for file in self.files if file.kind == "images")


@record
class Attempt(shapes.Attempt):
    """One attempt of a job on one backend, with one ComfyUI prompt id."""

    outputs: Outputs | None = None


@record
class Child(shapes.Child):
    """One job of a group: the workflow with one seed, on one backend.

    Attributes:
        attempts: The attempts; only ``job()`` fills them in.
        attempt_count: Number of attempts; 0 if the server does not send it.
    """

    outputs: Outputs | None = None
    attempts: tuple[Attempt, ...] = ()  # type: ignore[assignment]  # their number in the answer about a group
    attempt_count: int = 0

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Return all output files; empty until the job completed."""
        return self.outputs.files if self.outputs else ()

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings of the job, and those of the captures of its files."""
        return *self.warnings, *(
            file.capture_warning for file in self.files if file.capture_warning
        )

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Return all output images; empty until the job completed."""
        return self.outputs.images if self.outputs else ()


@record
class Group(shapes.GroupRow):
    """One submission and its jobs.

    Attributes:
        child_jobs: In the order of submission; empty in the pages of ``list()``.
        replayed: The submission's key was used before: this is the group of that submission.
    """

    child_jobs: tuple[Child, ...] = ()
    replayed: bool = False

    @property
    def finished(self) -> bool:
        """Return whether every job is final and the group's last event is stored."""
        return self.completed_at is not None

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Return every file of every job, in order."""
        of_group: dict[str, Any] = {
            "job_group_id": self.job_group_id,
            "group_metadata": self.metadata,
        }
        return tuple(
            replace(file, index=index, **of_group)
            for index, child in enumerate(self.child_jobs, 1)
            for file in child.files
        )

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Return every image of every job, in order."""
        return tuple(file for file in self.files if file.kind == "images")


def outputs_fields(value: Any, owner: Mapping[str, Any]) -> Raw | None:
    """Return the fields of an ``Outputs`` from the API's object, None if there is none.

    ``value`` is ``{"images": [file, …], "<ComfyUI's key>": […], "prompt_id"}`` or None. ``owner``
    is the job or event with these outputs; its job id, backend, seed, variation and metadata are
    set on each file.
    """
    if value is None:
        return None
    outputs = as_object(value)
    origin = {
        name: owner.get(name) for name in ("job_id", "backend_id", "seed", "variation", "metadata")
    }
    numbers = itertools.count(1)
    files = [
        {
            **entry,
            **origin,
            "kind": kind,
            "raw": entry,
            "number": next(numbers) if entry.get("url") else None,
        }
        # As the API numbers them.
        for kind, entries in sorted(
            outputs.items(), key=lambda kind_entries: kind_entries[0] != "images"
        )
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict) and _is_file(entry)
    ]
    return {"files": files, "prompt_id": outputs.get("prompt_id"), "raw": outputs}


def _is_file(entry: dict[str, Any]) -> bool:
    """Return whether what a node reported names a file; a custom node may report anything."""
    texts = [entry.get("filename"), entry.get("subfolder", ""), entry.get("type", "")]
    return all(isinstance(text, str) for text in texts)


def _attempt_fields(attempt: Raw, child: Raw) -> Raw:
    owner = {**child, "backend_id": attempt.get("backend_id", child.get("backend_id"))}
    outputs = outputs_fields(attempt.get("outputs"), owner)
    return {**attempt, "outputs": outputs, "raw": attempt}


def _child_fields(child: Raw) -> Raw:
    listed = child.get("attempts")
    attempts = as_objects(listed) if isinstance(listed, list) else []
    return {
        **child,
        "outputs": outputs_fields(child.get("outputs"), child),
        # A status counts the attempts, a single child lists them.
        "attempts": [_attempt_fields(entry, child) for entry in attempts],
        "attempt_count": listed if isinstance(listed, int) else len(attempts),
        # Null in a frame that would be too long.
        "warnings": child.get("warnings") or (),
        "raw": child,
    }


def parse_child(value: Any) -> Child:
    """Return the job in one JSON object."""
    return build(Child, _child_fields(as_object(value)))


def group_fields(group: Raw) -> Raw:
    """Return the fields of a ``Group`` from the API's object."""
    children = [_child_fields(child) for child in as_objects(group.get("child_jobs", []))]
    return {"total_count": len(children), **group, "child_jobs": children, "raw": group}


def parse_group(value: Any, *, replayed: bool = False) -> Group:
    """Return the group in the answer to a submission or status, or in a list's row."""
    return build(Group, {**group_fields(as_object(value)), "replayed": replayed})
