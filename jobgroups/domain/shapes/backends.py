"""Backends, found ComfyUIs, the Director's health, recent failures and the usage."""

from dataclasses import field
from datetime import date
from typing import Any

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class Device:
    """A GPU (or the CPU) of a backend; memory in bytes."""

    name: str
    vram_total: int | None = None
    vram_free: int | None = None


@record
class Quarantine:
    """Reason and duration of a quarantine; ``until`` None: until a user releases it, ``by`` None:
    automatic.
    """

    since: Moment
    until: Moment | None = None
    reason: str | None = None
    by: str | None = None


@record
class Backend(Parsed):
    """One registered ComfyUI.

    Attributes:
        status: ``online``, ``busy``, ``paused``, ``draining``, ``quarantined``, ``offline``,
            ``unknown`` or ``disabled``; ``status_reason``, ``status_since`` and ``status_by`` have
            the reason, the time and the user.
        partner_nodes_allowed: A user confirmed that it may get the API key for partner nodes.
        extensions_allowed: A user confirmed that scripts of its custom nodes may act as the users of
            ComfyUI's editor.
        hours: When it takes jobs, as ``mon-fri 19:00-07:00; sat-sun``; None: always.
        time_zone: IANA name of the zone of its hours; None: UTC.
        opens_at: When its hours begin; None: it is within them, has none, or they never begin.
        queue_ours: Prompts of the Director that are queued or run there.
        queue_foreign: Prompts of other clients.
        hold: ``pause`` or ``drain``; with ``evict`` its running jobs are requeued.
        changed_by: Who paused, drained, enabled or disabled it last; ``changed_reason`` and
            ``changed_at`` have the reason and the time.
        quarantine: None: not quarantined.
        on_probation: No prompt has succeeded since its quarantine ended.
        limitations: What cannot be done with it, as sentences: by its version, and why it gets no
            key for partner nodes.
        adopted_at: When discovery registered it automatically; None: a user registered or changed
            it.
        completed_day: Jobs that it completed in the last 24 hours.
        failed_day: Attempts that failed there in the last 24 hours, also of jobs that were retried
            on another backend.
        seconds_per_job: The mean seconds of the jobs that it completed in the last hour; None:
            there was none.
        relative_seconds: These, divided by the medians of the other backends for the same
            workflows; None: no other backend ran one.
        slow: ``relative_seconds`` is 2 or more, with three jobs or more.
        flaky: Three or more attempts failed there in the last 24 hours, a tenth or more of all, and
            three times the share of the other backends.
    """

    backend_id: str
    name: str
    url: str
    tags: tuple[str, ...] = ()
    partner_nodes_allowed: bool = False
    extensions_allowed: bool = False
    hours: str | None = None
    time_zone: str | None = None
    enabled: bool
    status: str
    status_reason: str | None = None
    status_since: Moment | None = None
    status_by: str | None = None
    opens_at: Moment | None = None
    queue_ours: int = 0
    queue_foreign: int = 0
    running: int = 0
    hold: str | None = None
    evict: bool = False
    quarantine: Quarantine | None = None
    on_probation: bool = False
    devices: tuple[Device, ...] = ()
    comfyui_version: str | None = None
    last_seen_at: Moment | None = None
    changed_by: str | None = None
    changed_reason: str | None = None
    changed_at: Moment | None = None
    limitations: tuple[str, ...] = ()
    adopted_at: Moment | None = None
    completed_day: int = 0
    failed_day: int = 0
    seconds_per_job: float | None = None
    relative_seconds: float | None = None
    slow: bool = False
    flaky: bool = False


@record
class Exclusion(Parsed):
    """A workflow that a backend cannot run: jobs of the pool go to other backends.

    Attributes:
        kind: ``missing`` (a node class, model or file) or ``out_of_memory``.
        group_id: The group to which it is limited; None: all groups with the workflow.
        count: Failures since ``since``; the last one was at ``last_at``.
        reason: What ComfyUI said.
        until: When it ends by itself.
    """

    exclusion_id: int
    backend_id: str
    kind: str
    workflow_digest: str
    group_id: str | None = None
    count: int = 1
    reason: str = ""
    since: Moment | None = None
    last_at: Moment | None = None
    until: Moment | None = None


@record
class CheckReason:
    """Why a backend cannot execute a workflow, or a part of it.

    Attributes:
        code: ``node_missing``, ``file_missing``, ``value_invalid``, ``input_missing``,
            ``capability_missing``, ``unavailable`` or ``excluded``.
        node_id: The node; None if the reason concerns the whole backend. Likewise ``class_type``
            and ``input``.
        nearest: Names that the backend has and that are most like the missing one.
    """

    code: str
    node_id: str | None = None
    class_type: str | None = None
    input: str | None = None
    message: str
    nearest: tuple[str, ...] = ()


@record
class BackendCheck:
    """Whether one backend can execute a workflow.

    Attributes:
        can_run: It can, as far as that is known. With ``reasons``: in part.
        known: Every node class of the workflow could be read from it.
        state_reason: Why it takes no jobs now.
        jobs: Of a plan, the number of jobs that it can execute.
    """

    backend_id: str
    can_run: bool
    known: bool = False
    state_reason: str | None = None
    reasons: tuple[CheckReason, ...] = ()
    jobs: int | None = None


@record
class WorkflowCheck(Parsed):
    """Which backends can execute a workflow; ``can_run`` is their number.

    Attributes:
        choices: What the lists of the backends offer, by ``node.input``.
        choice_backends: Of an input with unequal lists, the number of backends that have a choice,
            by ``node.input``.
        usual_seconds: The seconds of a job of this workflow, or of that with the nearest values;
            None: none has run.
    """

    can_run: int
    backends: tuple[BackendCheck, ...] = ()
    choices: dict[str, list[Any]] = field(default_factory=dict, hash=False)
    choice_backends: dict[str, dict[str, int]] = field(default_factory=dict, hash=False)
    usual_seconds: float | None = None


@record
class ConvertedWorkflow(Parsed):
    """A workflow in the API format, and what the conversion could not do as the editor does."""

    workflow: dict[str, Any] = field(hash=False)
    warnings: tuple[str, ...] = ()


@record
class PlannedJob:
    """One job that a submission would make."""

    seed: int
    variation: dict[str, Any] | None = field(default=None, hash=False)
    metadata: dict[str, Any] | None = field(default=None, hash=False)
    backend_id: str | None = None


@record
class SubmissionPlan(Parsed):
    """What a submission would make; with ``base_seed`` it makes exactly these jobs.

    ``eta_seconds`` are those until the last job ends; None: ``eta_reason`` is why the jobs would not
    all be sent at their turn, or None if the workflow has never run or a backend does not work.
    """

    total_count: int
    placement: str
    base_seed: int
    seed_strategy: str | None = None
    sweep: dict[str, Any] | None = field(default=None, hash=False)
    jobs: tuple[PlannedJob, ...] = ()
    backends: tuple[BackendCheck, ...] = ()
    skipped_backends: tuple[dict[str, str], ...] = field(default=(), hash=False)
    warnings: tuple[str, ...] = ()
    eta_seconds: float | None = None
    eta_reason: str | None = None


@record
class Health(Parsed):
    """Health of the Director: ``ok``, ``degraded`` or ``down``, and each check by name."""

    status: str
    version: str | None = None
    checks: dict[str, Any] = field(default_factory=dict, hash=False)


@record
class FoundAddress(Parsed):
    """A ComfyUI that discovery found.

    Attributes:
        ignored: A user chose not to be offered it.
    """

    url: str
    comfyui_version: str | None = None
    devices: tuple[Device, ...] = ()
    first_seen_at: Moment | None = None
    last_seen_at: Moment | None = None
    ignored: bool = False
    ignored_at: Moment | None = None


@record
class Found(FoundAddress):
    """An address that was probed, registered or not; discovery alone sets the times.

    Attributes:
        ok: A ComfyUI answers there.
        backend_id: Id of the registered backend, None if it is not registered.
        reason: Why it does not answer as a ComfyUI.
    """

    ok: bool = True
    backend_id: str | None = None
    reason: str | None = None


@record
class FailureExample:
    """The newest failure of a row; ``attempt`` None: the job was never sent."""

    job_group_id: str
    job_id: str
    attempt: int | None = None
    message: str = ""
    at: Moment


@record
class FailedGroup:
    """The failed jobs of a group behind a row, for a retry, which its owner or an operator
    (``may_retry``) requests.
    """

    job_group_id: str
    name: str
    placement: str
    may_retry: bool
    finished: bool
    job_ids: tuple[str, ...]


@record
class FailureRow:
    """All failures with one cause at one backend in one workflow.

    Attributes:
        backend_id: None: jobs of the pool that no candidate could take.
        workflow: Identifier of the workflow; it does not depend on the seeds.
        workflow_name: Name of the group of the newest failure, how many more groups there are, and
            the model.
        groups: Number of groups with these failures.
        failed_jobs: Jobs that are failed or timed out now.
        retrying: Failures whose jobs are not final.
    """

    failure_class: str
    backend_id: str | None
    workflow: str
    workflow_name: str = ""
    groups: int = 0
    failures: int
    failed_jobs: int
    retrying: int = 0
    first_at: Moment
    last_at: Moment
    example: FailureExample | None = None


@record
class Failures(Parsed):
    """The failures within a window.

    Attributes:
        failed_jobs: Jobs that are failed or timed out now, of all rows.
        results: Failures without a later success, the most frequent first.
        recovered: Failures whose jobs completed with a later attempt.
        left_out: Number of rows that are not listed.
        only_newest: Number of counted failures if there were more; None: all are counted.
    """

    window: str
    since: Moment
    failed_jobs: int = 0
    results: tuple[FailureRow, ...] = ()
    recovered: tuple[FailureRow, ...] = ()
    left_out: int = 0
    only_newest: int | None = None


@record
class UsageRow:
    """The attempts with the same values of the dimensions.

    Attributes:
        dimensions: The value of each dimension by its name; empty: there is none.
        gpu_seconds: Seconds from the start to the end of the attempts.
        jobs: Number of different jobs.
        failures: Attempts that failed.
        retries: Attempts after the first one of their job, without those of which nothing was
            executed.
    """

    dimensions: dict[str, str]
    gpu_seconds: float
    attempts: int
    jobs: int
    failures: int
    retries: int


@record
class Usage(Parsed):
    """The attempts that ended in some days.

    Attributes:
        first_day: The first day, in UTC.
        last_day: The last day, in UTC.
        since: When the oldest stored group was created; None: there is no group.
        by: The names of the dimensions.
        results: The newest day first if the days are a dimension, then the row with the most GPU
            seconds.
        next: The URL of more rows; None: there are none.
    """

    first_day: date
    last_day: date
    since: Moment | None
    by: tuple[str, ...]
    results: tuple[UsageRow, ...]
    next: str | None
