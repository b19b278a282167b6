"""The shapes of groups, their jobs, attempts and output files, and of what is done with them."""

from dataclasses import field
from typing import Any

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class OutputFile(Parsed):
    """One output file of a job.

    Attributes:
        type: ComfyUI's folder: ``output``, or ``temp`` for a preview; ``websocket``: only the
            Director has the file.
        node_id: The node that reported the file.
        file_url: The Director's address of the file; None in events.
        thumbnail_url: The Director's address of a thumbnail; None for a file that is no image and
            no video.
        captured: The Director has a copy. With it, ``blake3`` and ``size_bytes`` are known.
        sha256: None until it is computed: of a large file some time after the copy.
        width, height: Pixels; None if they are not known.
        duration: Seconds of a video or sound; None if it is not known.
        capture_warning: Why the Director has no copy although it tried, or what is doubtful about
            the copy; a sentence.
        missing: The backend does not have the file any more, or has another file of this name.
        reason: ``replaced`` if the backend has another file of this name.
    """

    filename: str
    url: str | None = None
    subfolder: str = ""
    type: str = "output"
    node_id: str | None = None
    file_url: str | None = None
    thumbnail_url: str | None = None
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


@record
class ListedOutput(OutputFile):
    """An image or a video of a completed job, in the list of the outputs of all groups.

    Attributes:
        number: Its number in its job, from 0, as in its address.
        index: Number of its job in the group, from 1.
        kind: ``image`` or ``video``.
        media_type: By the name of the file: ``image/png``.
        starred: Whether its job has a star.
        completed_at: When its job completed.
        title: What users read of the group.
    """

    job_group_id: str
    job_id: str
    number: int
    index: int
    kind: str
    media_type: str
    seed: int
    backend_id: str
    starred: bool
    completed_at: Moment
    submitter: str | None = None
    title: str


@record
class Attempt(Parsed):
    """One attempt of a job on one backend, with one ComfyUI prompt id.

    Attributes:
        charged: Whether it counts against ``max_attempts``.
        stop_reason: Why the Director stops or stopped its prompt, for example ``cancel``, ``moved``
            or ``recalled``.
        left_running: Why its prompt still runs although it is to be stopped.
    """

    number: int
    run: int | None = None
    backend_id: str | None = None
    prompt_id: str | None = None
    outcome: str | None = None
    charged: bool = True
    outputs: Any = None
    error_message: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    created_at: Moment | None = None
    accepted_at: Moment | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    stop_requested_at: Moment | None = None
    stop_reason: str | None = None
    left_running: str | None = None
    warnings: tuple[str, ...] = ()


@record
class Child(Parsed):
    """One job of a group: the workflow with one seed, on one backend.

    Attributes:
        backend_id: None for a job of the pool that no backend has started.
        status: ``queued``, ``running``, ``completed``, ``failed``, ``timeout`` or ``cancelled``.
        progress: Percent of the whole workflow, 0 to 100.
        attempts: The number of its attempts.
        waiting_reason: One sentence while the job is queued, or runs on an offline backend.
        eta_seconds: Seconds until the job is expected to end; None: it has ended, or that is not
            known.
        outputs_reused: Whether ComfyUI executed nothing for it: every node was cached.
        variation: The inputs that the job sets beside those of its group; None: it differs by its
            seed alone.
        metadata: Its own metadata, if the submission gives it some.
        stopped_by: ``stop_when`` if the group's condition cancelled the job.
    """

    job_id: str
    backend_id: str | None
    seed: int
    status: str
    progress: float = 0.0
    current_step: str | None = None
    outputs: Any = None
    error_message: str | None = None
    error_type: str | None = None
    failure_class: str | None = None
    queued_at: Moment | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    attempts: int
    waiting_reason: str | None = None
    eta_seconds: float | None = None
    error_details: dict[str, Any] | None = field(default=None, hash=False)
    warnings: tuple[str, ...] = ()
    outputs_reused: bool = False
    starred: bool = False
    variation: dict[str, Any] | None = field(default=None, hash=False)
    metadata: dict[str, Any] | None = field(default=None, hash=False)
    stopped_by: str | None = None


@record
class SkippedBackend:
    """A backend that was named in a submission and got no job; of the pool, a candidate that could
    take none then.
    """

    backend_id: str
    reason: str


@record
class Pause(Parsed):
    """Since when what waits is not sent.

    Attributes:
        of: What is paused: ``group``, ``submitter``, or ``farm``: everything.
        until: When it is resumed by itself; None: when a user does.
        by: Who paused it, if that is known.
    """

    of: str
    since: Moment
    until: Moment | None = None
    by: str | None = None
    reason: str | None = None


@record
class QueueState(Parsed):
    """Whether the whole farm is paused."""

    paused: Pause | None = None


@record
class GroupRow(Parsed):
    """One submission.

    Attributes:
        status: ``pending``, ``running``, ``partial_complete``, ``completed``, ``failed`` or
            ``cancelled``. The group has ended when ``completed_at`` is set, not before
            (it may be ``partial_complete`` while jobs still run).
        placement: ``bound``: each job was submitted to one backend; ``pool``: each goes to any free
            candidate.
        seq: Number of the last event in this snapshot: continue the stream with ``since=seq``.
        revision: Increases with each change that is no event, such as progress, a star or a
            captured file.
        run: From 1; a retry of the group opens the next.
        eta_seconds: Seconds until the last job is expected to end; None: the group has ended, or
            that is not known.
        timeout_seconds: Seconds that a job may run; None: any.
        stall_seconds: Seconds without an event of its prompt after which a job ends; None: any.
        retention_days: Days after its end until it is deleted; None: the Director's setting.
        expires_at: The end of these days; None: it has not ended, or is kept for any time. A group
            with a starred job stays, and the Director's limits of groups and bytes may delete a
            group earlier.
        max_attempts: Maximum number of attempts of a job within a run.
        retry_elsewhere: False, or the backends of a retry: ``group`` or ``any``.
        retry_on: Failure classes after which a job is retried; None for all retryable ones.
        partial_outputs: ``accept``, or ``fail``: a job of which ComfyUI refuses some outputs fails.
        submitter: Who submitted it, if the submission has a submitter.
        program: The program that sent it to the ComfyUI listener, by its ``User-Agent``, which may
            be empty; None: it came through the API.
        priority: From 0 to 100: of waiting groups, a higher one is first.
        level: The priority that counts: it rises by one for each ``DIRECTOR_AGING_MINUTES`` that
            the group waits without a job at a backend.
        max_running: Prompts that it has at backends at most; None: any number.
        start_after: Nothing of it is sent before; None: it may start at once.
        paused: The pause that holds what waits of it; None: none does.
        name: As a user called it; None: no user did.
        title: What users read: the name, else what its metadata, its prompt or its files name, else
            the id.
        archived_at: When a user moved it out of the lists; None: it is in the lists.
        visibility: ``private``, or ``shared``: where people see their own work alone, every account
            sees it.
        summary: What its workflow makes, as far as that is known: ``prompt``, ``negative``,
            ``model``, ``width``, ``height``, ``steps``, ``cfg``, ``sampler_name``, ``scheduler``,
            ``denoise``, ``file``.
        sweep: The axes of its jobs, ``{"mode", "axes": [{"input", "values"}]}``; None: it is no
            sweep.
        stop_when: The numbers of ``completed`` or ``failed`` jobs at which the rest ends; None: it
            does not.
        stopped_at: When that happened.
        webhook: The URL that gets its events, and these events; None: it has none of its own.
    """

    job_group_id: str
    status: str
    completed_count: int = 0
    failed_count: int = 0
    cancelled_count: int = 0
    total_count: int = 0
    created_at: Moment | None = None
    completed_at: Moment | None = None
    eta_seconds: float | None = None
    name: str | None = None
    title: str = ""
    archived_at: Moment | None = None
    visibility: str = "private"
    summary: dict[str, Any] = field(default_factory=dict, hash=False)
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    warnings: tuple[str, ...] = ()
    skipped_backends: tuple[SkippedBackend, ...] = ()
    sweep: dict[str, Any] | None = field(default=None, hash=False)
    stop_when: dict[str, int] | None = field(default=None, hash=False)
    stopped_at: Moment | None = None
    webhook: dict[str, Any] | None = field(default=None, hash=False)
    seed_strategy: str | None = None
    base_seed: int | None = None
    timeout_seconds: int | None = None
    stall_seconds: int | None = None
    retention_days: int | None = None
    expires_at: Moment | None = None
    max_attempts: int = 1
    retry_elsewhere: bool | str = False
    retry_on: tuple[str, ...] | None = None
    placement: str = "bound"
    partial_outputs: str = "accept"
    submitter: str | None = None
    program: str | None = None
    priority: int = 50
    level: int = 50
    max_running: int | None = None
    start_after: Moment | None = None
    paused: Pause | None = None
    run: int = 1
    seq: int | None = None
    revision: int = 0


@record
class QueueRow(Parsed):
    """A group in the queue. Of one that the account does not see, all but ``place`` and
    ``expected_start`` are None.

    Attributes:
        place: From 1, in the order in which groups start their next jobs; None: no job waits,
            backends have all that are open.
        submitter: Whose share of the farm it counts in: the submitter, or the address of the
            client.
        level: The priority that counts now.
        waiting_reason: Why it waits, as a sentence; None: no job waits.
        expected_start: When its next job is expected to start; None: that is not known, or no job
            waits.
        queued: Number of jobs that wait.
        running: Number of jobs that backends have.
    """

    place: int | None = None
    job_group_id: str | None = None
    title: str | None = None
    submitter: str | None = None
    priority: int | None = None
    level: int | None = None
    waiting_reason: str | None = None
    expected_start: Moment | None = None
    queued: int | None = None
    running: int | None = None


@record
class Queue(Parsed):
    """A page of the queue.

    Attributes:
        items: First groups of which no job waits, then those that wait, in their order, then those of
            which nothing is sent now, as they are paused or start later.
        paused: The pause of the whole farm; None: there is none.
        next: The address of the next page; None: this is the last.
    """

    items: tuple[QueueRow, ...] = ()
    paused: Pause | None = None
    next: str | None = None


@record
class Submitter(Parsed):
    """What a submitter may use of the farm, and has used.

    Attributes:
        name: The submitter of its groups; without a submitter, the address of the client.
        weight: Its share of a busy farm is in proportion to it.
        used_seconds: Seconds of backends, of which half count after each
            ``DIRECTOR_SHARE_HALF_LIFE``; without prompts that run now.
        max_running: Prompts that its groups have at backends at most; None: any number.
        max_queued: Jobs of its groups that are queued at most; None: any number.
        paused: The pause of its groups; None: there is none.
    """

    name: str
    weight: float = 1.0
    used_seconds: float = 0.0
    max_running: int | None = None
    max_queued: int | None = None
    paused: Pause | None = None


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
class OpenWork(Parsed):
    """What a cancel of all open groups cancels, or has cancelled.

    Attributes:
        groups: Number of groups that have not ended.
        jobs: Number of their jobs that are not final.
        running: Number of these that run.
        remaining: Number of groups that the request had no time for.
    """

    groups: int
    jobs: int
    running: int
    remaining: int = 0


@record
class Deletion(Parsed):
    """What the deletion of a group removes, or would.

    Attributes:
        starred: Number of its jobs with a star.
        files: Number of captured files that no other group has.
        bytes: Bytes of these files.
        kept_at_backends: Its jobs reported files that may still be at their backends: they stay
            there.
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
        removing_from: The backend whose queue still has the job's prompt. The prompt is removed
            first. If it starts before that, the job stays there, and an event reports that.
    """

    job_group_id: str
    job_id: str
    backend_id: str
    moved: bool
    removing_from: str | None = None
