"""Groups, their jobs, attempts and output files. The names are those of the API."""

import itertools
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from director.client.decode import as_object, as_objects, build
from jobgroups.domain.shapes import Moment, Parsed, Raw, record


@record
class OutputFile(Parsed):
    """One output file of a job, with its origin.

    Attributes:
        kind: ComfyUI's key of the output: ``images``, ``gifs``, ``audio``, ``video`` …
        type: ComfyUI's folder: ``output``, or ``temp`` for a preview; ``websocket``: only the Director has the file.
        file_url: The Director's address of the file; None in events.
        thumbnail_url: The Director's address of a thumbnail; None for a file that is no image and no video.
        node_id: The node that reported the file.
        captured: The Director has a copy. With it, ``blake3`` and ``size_bytes`` are known.
        sha256: None until it is computed: of a large file some time after the copy.
        width, height: Pixels; None if they are not known.
        duration: Seconds of a video or sound; None if it is not known.
        capture_warning: Why the Director has no copy although it tried, or what is doubtful about the copy; a sentence.
        missing: The backend does not have the file any more, or has another file of this name.
        reason: ``replaced`` if the backend has another file of this name.
        number: Its number in its job, from 1; None for a file without an address.
        variation: That of its job.
        metadata: That of its job; None for a file of an event.
        index: Number of its job in the group, from 1. It, ``job_group_id`` and ``group_metadata`` are None for a file that was
            not read from a ``Group``.
    """

    filename: str
    url: str | None = None
    subfolder: str = ""
    type: str = "output"
    kind: str = "images"
    file_url: str | None = None
    thumbnail_url: str | None = None
    node_id: str | None = None
    captured: bool = False
    blake3: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    capture_warning: str | None = None
    missing: bool = False
    reason: str | None = None
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
            return f"{self.filename} was replaced: another file has its name on {self.backend_id or 'its backend'} now."
        return f"{self.filename} is gone from {self.backend_id or 'its backend'}."


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
class Attempt(Parsed):
    """One attempt of a job on one backend, with one ComfyUI prompt id."""

    number: int
    run: int | None = None
    backend_id: str | None = None
    prompt_id: str | None = None
    outcome: str | None = None
    #: Whether it counts against ``max_attempts``.
    charged: bool = True
    error_message: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    created_at: Moment | None = None
    accepted_at: Moment | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    stop_requested_at: Moment | None = None
    outputs: Outputs | None = None
    #: Why the Director stops or stopped its prompt, for example ``cancel``, ``moved`` or ``recalled``.
    stop_reason: str | None = None
    #: Why its prompt still runs although it is to be stopped.
    left_running: str | None = None
    warnings: tuple[str, ...] = ()


@record
class Child(Parsed):
    """One job of a group: the workflow with one seed, on one backend.

    Attributes:
        backend_id: None for a job of the pool that no backend has started.
        status: ``queued``, ``running``, ``completed``, ``failed``, ``timeout`` or ``cancelled``.
        progress: Percent of the whole workflow, 0 to 100.
        attempts: The attempts; only ``job()`` fills them in.
        attempt_count: Number of attempts; 0 if the server does not send it.
        waiting_reason: One sentence while the job is queued, or runs on an offline backend.
        outputs_reused: Whether ComfyUI executed nothing for it: every node was cached.
        eta_seconds: Seconds until the job is expected to end; None: it has ended, or that is not known.
        variation: The inputs that the job sets beside those of its group; None: it differs by its seed alone.
        metadata: Its own metadata, if the submission gives it some.
        stopped_by: ``stop_when`` if the group's condition cancelled the job.
    """

    job_id: str
    backend_id: str | None
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
    eta_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    outputs_reused: bool = False
    starred: bool = False
    attempts: tuple[Attempt, ...] = ()
    attempt_count: int = 0
    variation: dict[str, Any] | None = field(default=None, hash=False)
    metadata: dict[str, Any] | None = field(default=None, hash=False)
    stopped_by: str | None = None

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Return all output files; empty until the job completed."""
        return self.outputs.files if self.outputs else ()

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings of the job, and those of the captures of its files."""
        return *self.warnings, *(file.capture_warning for file in self.files if file.capture_warning)

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Return all output images; empty until the job completed."""
        return self.outputs.images if self.outputs else ()


@record
class SkippedBackend:
    """A backend that was named in a submission and got no job; of the pool, a candidate that could take none then."""

    backend_id: str
    reason: str


@record
class Group(Parsed):
    """One submission and its jobs.

    Attributes:
        status: ``pending``, ``running``, ``partial_complete``, ``completed``, ``failed`` or
            ``cancelled``. The group has ended when ``completed_at`` is set, not before
            (it may be ``partial_complete`` while jobs still run).
        placement: ``bound``: each job was submitted to one backend; ``pool``: each goes to any free candidate.
        child_jobs: In the order of submission; empty in the pages of ``list()``.
        seq: Number of the last event in this snapshot: continue the stream with ``since=seq``.
        revision: Increases with each change that is no event, such as progress, a star or a captured file.
        run: From 1; a retry of the group opens the next.
        eta_seconds: Seconds until the last job is expected to end; None: the group has ended, or that is not known.
        timeout_seconds: Seconds that a job may run; None: any.
        stall_seconds: Seconds without an event of its prompt after which a job ends; None: any.
        retention_days: Days after its end until it is deleted; None: the Director's setting.
        expires_at: The end of these days; None: it has not ended, or is kept for any time. A group with a starred
            job stays, and the Director's limits of groups and bytes may delete a group earlier.
        max_attempts: Maximum number of attempts of a job within a run.
        retry_elsewhere: False, or the backends of a retry: ``group`` or ``any``.
        retry_on: Failure classes after which a job is retried; None for all retryable ones.
        partial_outputs: ``accept``, or ``fail``: a job of which ComfyUI refuses some outputs fails.
        submitter: Who submitted it, if the submission has a submitter.
        name: As a user called it; None: no user did.
        title: What users read: the name, else what its metadata, its prompt or its files name, else the id.
        archived_at: When a user moved it out of the lists; None: it is in the lists.
        summary: What its workflow makes, as far as that is known: ``prompt``, ``negative``, ``model``, ``width``,
            ``height``, ``steps``, ``cfg``, ``sampler_name``, ``scheduler``, ``denoise``, ``file``.
        sweep: The axes of its jobs, ``{"mode", "axes": [{"input", "values"}]}``; None: it is no sweep.
        stop_when: The numbers of ``completed`` or ``failed`` jobs at which the rest ends; None: it does not.
        stopped_at: When that happened.
        webhook: The URL that gets its events, and these events; None: it has none of its own.
        replayed: The submission's key was used before: this is the group of that submission.
    """

    job_group_id: str
    status: str
    placement: str = "bound"
    child_jobs: tuple[Child, ...] = ()
    completed_count: int = 0
    failed_count: int = 0
    cancelled_count: int = 0
    total_count: int = 0
    created_at: Moment | None = None
    completed_at: Moment | None = None
    eta_seconds: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    warnings: tuple[str, ...] = ()
    skipped_backends: tuple[SkippedBackend, ...] = ()
    seed_strategy: str | None = None
    base_seed: int | None = None
    timeout_seconds: int | None = None
    stall_seconds: int | None = None
    retention_days: int | None = None
    expires_at: Moment | None = None
    max_attempts: int = 1
    retry_elsewhere: bool | str = False
    retry_on: tuple[str, ...] | None = None
    partial_outputs: str = "accept"
    submitter: str | None = None
    name: str | None = None
    title: str = ""
    archived_at: Moment | None = None
    summary: dict[str, Any] = field(default_factory=dict, hash=False)
    run: int = 1
    seq: int | None = None
    revision: int = 0
    sweep: dict[str, Any] | None = field(default=None, hash=False)
    stop_when: dict[str, int] | None = field(default=None, hash=False)
    stopped_at: Moment | None = None
    webhook: dict[str, Any] | None = field(default=None, hash=False)
    replayed: bool = False

    @property
    def finished(self) -> bool:
        """Return whether every job is final and the group's last event is stored."""
        return self.completed_at is not None

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """Return every file of every job, in order."""
        of_group: dict[str, Any] = {"job_group_id": self.job_group_id, "group_metadata": self.metadata}
        return tuple(
            replace(file, index=index, **of_group)
            for index, child in enumerate(self.child_jobs, 1)
            for file in child.files
        )

    @property
    def images(self) -> tuple[OutputFile, ...]:
        """Return every image of every job, in order."""
        return tuple(file for file in self.files if file.kind == "images")


@record
class CancelResult(Parsed):
    """Result of a cancellation.

    Attributes:
        cancelled: The group is now ``cancelled``; False if it had ended with another status.
        interrupted: Number of jobs that this call cancelled.
    """

    cancelled: bool
    interrupted: int = 0
    already_complete: int = 0
    already_failed: int = 0


@record
class Deletion(Parsed):
    """What the deletion of a group removes, or would.

    Attributes:
        starred: Number of its jobs with a star.
        files: Number of captured files that no other group has.
        bytes: Bytes of these files.
        kept_at_backends: Its jobs reported files that may still be at their backends: they stay there.
    """

    jobs: int
    starred: int = 0
    files: int = 0
    bytes: int = 0
    kept_at_backends: bool = False


@record
class RetryResult(Parsed):
    """Result of a retry.

    Attributes:
        run: The run of the retried jobs: the one that the retry opened, or the current one.
        status: Status of the group; final if every prompt had completed after all.
        job_ids: Jobs that are queued again, in the group's order.
        adopted_job_ids: Jobs that got the result of an earlier attempt: they do not run again.
        moved: Queued jobs that are on another backend now: job id to backend id.
    """

    job_group_id: str
    run: int
    status: str
    job_ids: tuple[str, ...] = ()
    adopted_job_ids: tuple[str, ...] = ()
    moved: dict[str, str] = field(default_factory=dict, hash=False)


@record
class JobOfFile(Parsed):
    """The job that made a file.

    Attributes:
        attempt: Number of the attempt, if it is known.
        found_by: ``mark``: by the ids in the file; ``hash``: by its content.
    """

    job_group_id: str
    job_id: str
    attempt: int | None = None
    found_by: str = "mark"


@record
class MoveResult(Parsed):
    """Result of a move.

    Attributes:
        backend_id: The backend of the job now.
        moved: False: the job was queued there already, and nothing was changed.
        removing_from: The backend whose queue still has the job's prompt. The prompt is removed first. If it
            starts before that, the job stays there, and an event reports that.
    """

    job_group_id: str
    job_id: str
    backend_id: str
    moved: bool
    removing_from: str | None = None


def outputs_fields(value: Any, owner: Mapping[str, Any]) -> Raw | None:
    """Return the fields of an ``Outputs`` from the API's object, None if there is none.

    ``value`` is ``{"images": [file, …], "<ComfyUI's key>": […], "prompt_id"}`` or None. ``owner`` is the job or event
    with these outputs; its job id, backend, seed, variation and metadata are set on each file.
    """
    if value is None:
        return None
    outputs = as_object(value)
    origin = {name: owner.get(name) for name in ("job_id", "backend_id", "seed", "variation", "metadata")}
    numbers = itertools.count(1)
    files = [
        {**entry, **origin, "kind": kind, "raw": entry, "number": next(numbers) if entry.get("url") else None}
        # As the API numbers them.
        for kind, entries in sorted(outputs.items(), key=lambda one: one[0] != "images")
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
