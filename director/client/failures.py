"""Recent failures by cause, backend and workflow."""

from dataclasses import dataclass

from director.client.decode import Moment, Parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureExample:
    """The newest failure of a row; ``attempt`` None: the job was never sent."""

    job_group_id: str
    job_id: str
    at: Moment
    attempt: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """All failures with one cause at one backend in one workflow.

    Attributes:
        backend_id: None: jobs of the pool that no candidate could take.
        workflow: Identifier of the workflow; it does not depend on the seeds.
        workflow_name: Name of the group of the newest failure, how many more groups there are, and the
            model.
        groups: Number of groups with these failures.
        failed_jobs: Jobs that are failed or timed out now.
        retrying: Failures whose jobs are not final.
    """

    failure_class: str
    backend_id: str | None
    workflow: str
    failures: int
    failed_jobs: int
    first_at: Moment
    last_at: Moment
    workflow_name: str = ""
    groups: int = 0
    retrying: int = 0
    example: FailureExample | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
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
