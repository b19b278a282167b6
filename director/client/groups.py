"""What a group is: its children, their attempts and what they made. Named as the API names them.

Every type keeps the JSON object it was made of in ``raw``, so that a field which a newer server
adds is at hand before this client knows it; two values are equal whatever is in there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from director.client.decode import Moment, as_object, as_objects, build

Raw: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One file that a child made, with where it came from.

    Attributes:
        kind: ComfyUI's key for it: ``images``, ``gifs``, ``audio``, ``video`` …
        type: ComfyUI's folder: ``output``, or ``temp`` for a preview.
        missing: The file is not there any more, or is another one by now.
        reason: ``replaced`` where the backend has another file of this name; None where nothing is said.
        index: Number of its job in the group, from 1; None if the file did not come with its group.
    """

    filename: str
    url: str | None = None
    subfolder: str = ""
    type: str = "output"
    kind: str = "images"
    missing: bool = False
    reason: str | None = None
    job_id: str | None = None
    backend_id: str | None = None
    seed: int | None = None
    index: int | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def why_missing(self) -> str:
        """Why the file cannot be had, as a sentence; empty where it is not missing."""
        if not self.missing:
            return ""
        if self.reason == "replaced":
            return (
                f"{self.filename} was replaced:"
                f" another file has its name on {self.backend_id or 'its backend'} now."
            )
        return f"{self.filename} is gone from {self.backend_id or 'its backend'}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """All that a child made. Texts and other values that are no files are in ``raw`` alone."""

    files: tuple[OutputFile, ...] = ()
    prompt_id: str | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """The pictures among the files."""
        return tuple(file for file in self.files if file.kind == "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a child on one backend, under one ComfyUI prompt id."""

    number: int
    run: int | None = None
    backend_id: str | None = None
    prompt_id: str | None = None
    outcome: str | None = None
    error_message: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    outputs: Outputs | None = None
    #: Why its prompt still renders although it is to be stopped.
    left_running: str | None = None
    warnings: tuple[str, ...] = ()
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One variation of a group: the workflow with one seed, on one backend.

    Attributes:
        status: ``queued``, ``running``, ``completed``, ``failed``, ``timeout`` or ``cancelled``.
        progress: Percent of the whole child, 0 to 100.
        attempts: Tries one by one; only ``job()`` fills them in.
        attempt_count: How many tries there were; 0 where the server did not say.
        waiting_reason: One sentence while it is queued, or runs at a backend that is offline.
    """

    job_id: str
    backend_id: str
    seed: int
    status: str
    progress: float = 0.0
    current_step: str | None = None
    outputs: Outputs | None = None
    error_message: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    queued_at: Moment | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    waiting_reason: str | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    attempt_count: int = 0
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Every file it made; empty until it completed."""
        return self.outputs.files if self.outputs else ()

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """The pictures it made; empty until it completed."""
        return self.outputs.images if self.outputs else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedBackend:
    """A backend that was named in a submission and got no child."""

    backend_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One submission and its children.

    Attributes:
        status: ``pending``, ``running``, ``partial_complete``, ``completed``, ``failed`` or
            ``cancelled``. It has ended when ``completed_at`` is set, not before
            (``partial_complete`` is also said while children still run).
        child_jobs: In the order of submission; empty in the pages of ``list()``.
        seq: Number of the last event that this snapshot reflects: stream on with ``since=seq``.
        run: From 1; a retry of the group opens the next.
        max_attempts: Attempts that a child may have within a run.
        retry_elsewhere: False, or where a child may be tried again: ``group`` or ``any``.
        retry_on: Failure classes after which it is tried again; None for all that may be.
        partial_outputs: ``accept``, or ``fail``: a child of which ComfyUI refuses some outputs fails.
        submitter: Who submitted it, where that was said.
        replayed: The submission's key had been used: this is the group made then.
    """

    job_group_id: str
    status: str
    child_jobs: tuple[Child, ...] = ()
    completed_count: int = 0
    failed_count: int = 0
    total_count: int = 0
    created_at: Moment | None = None
    completed_at: Moment | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    warnings: tuple[str, ...] = ()
    skipped_backends: tuple[SkippedBackend, ...] = ()
    seed_strategy: str | None = None
    base_seed: int | None = None
    timeout_seconds: int | None = None
    max_attempts: int = 1
    retry_elsewhere: bool | str = False
    retry_on: tuple[str, ...] | None = None
    partial_outputs: str = "accept"
    submitter: str | None = None
    run: int = 1
    seq: int | None = None
    replayed: bool = False
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def finished(self) -> bool:
        """Whether every child is final and the group's last event is written."""
        return self.completed_at is not None

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Every file of every child, in order."""
        return tuple(
            replace(file, index=index)
            for index, child in enumerate(self.child_jobs, 1)
            for file in child.files
        )

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Every picture of every child, in order."""
        return tuple(file for file in self.files if file.kind == "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelResult:
    """What a cancellation found.

    Attributes:
        cancelled: The group is now ``cancelled``; False when it had finished otherwise.
        interrupted: Children that this call cancelled.
    """

    cancelled: bool
    interrupted: int = 0
    already_complete: int = 0
    already_failed: int = 0
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryResult:
    """What a retry did.

    Attributes:
        run: The run in which they wait again: the one that it opened, or the group's present one.
        status: The group's; it has ended again where every picture had been made after all.
        job_ids: Children that wait again, in the group's order.
        adopted_job_ids: Children that got the picture of an earlier attempt: nothing is rendered.
        moved: Of those that wait again, the ones at another backend now: job id to backend id.
    """

    job_group_id: str
    run: int
    status: str
    job_ids: tuple[str, ...] = ()
    adopted_job_ids: tuple[str, ...] = ()
    moved: dict[str, str] = field(default_factory=dict, hash=False)
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveResult:
    """What a move did.

    Attributes:
        backend_id: The backend for which the child waits now.
        moved: False: it waited there already, and nothing was changed.
        removing_from: The backend whose queue still has the child's prompt. It is removed first; if it
            starts before that, the child stays there, and an event says so.
    """

    job_group_id: str
    job_id: str
    backend_id: str
    moved: bool
    removing_from: str | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


def outputs_fields(value: Any, owner: Mapping[str, Any]) -> Raw | None:
    """Return the fields of an ``Outputs`` from the API's object, None where there is none.

    Args:
        value: ``{"images": [file, …], "<ComfyUI's key>": […], "prompt_id"}`` or None.
        owner: The child or event it stands in; its job, backend and seed are noted on each file.
    """
    if value is None:
        return None
    outputs = as_object(value)
    origin = {name: owner.get(name) for name in ("job_id", "backend_id", "seed")}
    files = [
        {**entry, **origin, "kind": kind, "raw": entry}
        for kind, entries in outputs.items()
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str)
    ]
    return {"files": files, "prompt_id": outputs.get("prompt_id"), "raw": outputs}


def _attempt_fields(attempt: Raw, child: Raw) -> Raw:
    owner = {**child, "backend_id": attempt.get("backend_id", child.get("backend_id"))}
    outputs = outputs_fields(attempt.get("outputs"), owner)
    return {**attempt, "outputs": outputs, "raw": attempt}


def _child_fields(child: Raw) -> Raw:
    listed = child.get("attempts")
    tries = as_objects(listed) if isinstance(listed, list) else []
    return {
        **child,
        "outputs": outputs_fields(child.get("outputs"), child),
        # A status counts the attempts, a single child lists them.
        "attempts": [_attempt_fields(entry, child) for entry in tries],
        "attempt_count": listed if isinstance(listed, int) else len(tries),
        "raw": child,
    }


def parse_child(value: Any) -> Child:
    """Return the child in one JSON object.

    Raises:
        UnexpectedAnswer: It is none.
    """
    return build(Child, _child_fields(as_object(value)))


def parse_group(value: Any, *, replayed: bool = False) -> Group:
    """Return the group in the answer to a submission or status, a list's row, ``initial_state``.

    Raises:
        UnexpectedAnswer: It is none.
    """
    group = as_object(value)
    children = [_child_fields(child) for child in as_objects(group.get("child_jobs", []))]
    return build(
        Group,
        {
            "total_count": len(children),
            **group,
            "child_jobs": children,
            "replayed": replayed,
            "raw": group,
        },
    )


def parse_cancel(value: Any) -> CancelResult:
    """Return the answer to a cancellation.

    Raises:
        UnexpectedAnswer: It is none.
    """
    answer = as_object(value)
    return build(CancelResult, {**answer, "raw": answer})


def parse_retry(value: Any) -> RetryResult:
    """Return the answer to a retry.

    Raises:
        UnexpectedAnswer: It is none.
    """
    answer = as_object(value)
    return build(RetryResult, {**answer, "raw": answer})


def parse_move(value: Any) -> MoveResult:
    """Return the answer to a move.

    Raises:
        UnexpectedAnswer: It is none.
    """
    answer = as_object(value)
    return build(MoveResult, {**answer, "raw": answer})
