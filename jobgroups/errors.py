"""Errors of requests and lookups, one class per condition.

    JobGroupsError
    ├── InvalidRequest            400, with field errors
    │   ├── TooManyChildren       400 too_many_children
    │   └── NoOnlineBackends      400 no_online_backends, with the list of skipped ones
    ├── GroupNotFound             404
    ├── ChildNotFound             404
    ├── BackendNotFound           404
    ├── AddressNotFound           404 address_not_found
    ├── OutputNotFound            404 output_not_found
    ├── NoOutputs                 404 no_outputs
    ├── NoWorkflow                400 no_workflow
    ├── NoThumbnail               404 no_thumbnail
    ├── OutputTooLarge            413 output_too_large, with its size and its backend's address
    ├── OutputGone                410 output_gone
    │   └── OutputReplaced        410 output_gone, with reason "replaced"
    ├── RangeNotSatisfiable       416 range_not_satisfiable
    ├── BackendAway               502 backend_unreachable
    ├── Conflict                  409
    │   ├── IdempotencyConflict   409 idempotency_conflict
    │   ├── BackendExists         409 backend_exists, with the id it is registered as
    │   ├── BackendInUse          409 backend_in_use
    │   ├── GroupNotFinished      409 group_not_finished
    │   ├── RunPassed             409 run_passed
    │   ├── NothingToRetry        409 nothing_to_retry
    │   ├── JobCompleted          409 job_completed
    │   ├── JobNotFailed          409 job_not_failed
    │   ├── JobNotWaiting         409 job_not_waiting
    │   ├── NoOtherBackend        409 no_other_backend, with the jobs that it concerns
    │   └── BackendUnavailable    409 backend_unavailable, with the list of them
    └── RunnerAbsent              503 runner_absent

``LeaseLost`` is internal: it ends a runner's session of a backend, and no client sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class JobGroupsError(Exception):
    """An error that a client receives as JSON."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(self, detail: str, *, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        #: More keys for the JSON body, beside ``detail`` and ``code``.
        self.extra: dict[str, Any] = dict(extra or {})


class InvalidRequest(JobGroupsError):
    """The request's body, parameters or headers are invalid; nothing was stored."""

    code = "invalid_request"

    def __init__(self, detail: str, *, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail, extra={"errors": list(errors)} if errors else None)


class TooManyChildren(InvalidRequest):
    """The request has more backend ids than a group may have children."""

    code = "too_many_children"


class NoOnlineBackends(JobGroupsError):
    """No backend of the request can take a child now."""

    code = "no_online_backends"

    def __init__(self, skipped: Sequence[Mapping[str, str]]) -> None:
        super().__init__("No valid online backends available", extra={"skipped_backends": list(skipped)})


class GroupNotFound(JobGroupsError):
    """No group has this id."""

    code = "group_not_found"
    status = 404

    def __init__(self, group_id: str) -> None:
        super().__init__(f"Job group {group_id} not found")


class ChildNotFound(JobGroupsError):
    """The group has no child with this id."""

    code = "job_not_found"
    status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} not found")


class BackendNotFound(JobGroupsError):
    """No backend has this id."""

    code = "backend_not_found"
    status = 404

    def __init__(self, backend_id: str) -> None:
        super().__init__(f"Backend {backend_id} not found")


class AddressNotFound(JobGroupsError):
    """Discovery has no offered or ignored ComfyUI at this address."""

    code = "address_not_found"
    status = 404

    def __init__(self) -> None:
        super().__init__("No ComfyUI was found at this address.")


class OutputNotFound(JobGroupsError):
    """The child reported fewer files."""

    code = "output_not_found"
    status = 404

    def __init__(self, job_id: str, number: int, count: int) -> None:
        files = "1 file" if count == 1 else f"{count} files"
        super().__init__(f"Job {job_id} has reported {files}; there is no number {number}.")


class NoThumbnail(JobGroupsError):
    """The file exists, but has no thumbnail."""

    code = "no_thumbnail"
    status = 404

    def __init__(self, reason: str) -> None:
        super().__init__(f"There is no thumbnail of this output. {reason}")


class OutputTooLarge(JobGroupsError):
    """The file exceeds the limit of the proxy, and the client does not follow redirects."""

    code = "output_too_large"
    status = 413

    def __init__(self, *, size: int, limit: int, backend_id: str, url: str) -> None:
        super().__init__(
            f"This output has {size} bytes; up to {limit} come through the Director"
            " (DIRECTOR_PROXY_MAX_BYTES). It can be had from its backend, at url.",
            extra={"bytes": size, "backend_id": backend_id, "url": url},
        )


class NoOutputs(JobGroupsError):
    """The group, or its starred children, have no files yet."""

    code = "no_outputs"
    status = 404

    def __init__(self, *, starred: bool) -> None:
        super().__init__("Nothing that is starred has a file." if starred else "The group has no files yet.")


class NoWorkflow(JobGroupsError):
    """The PNG has no valid workflow."""

    code = "no_workflow"


class OutputGone(JobGroupsError):
    """The child reported the file, but it no longer exists."""

    code = "output_gone"
    status = 410

    def __init__(self, reason: str) -> None:
        super().__init__(f"The output is gone. {reason}")


class OutputReplaced(OutputGone):
    """A later job has written another file with this name."""

    def __init__(self, filename: str, backend_id: str) -> None:
        super().__init__(f"It was replaced: another file has its name ({filename}) on {backend_id} now.")
        self.extra["reason"] = "replaced"


class RangeNotSatisfiable(JobGroupsError):
    """The requested range is beyond the end of the file."""

    code = "range_not_satisfiable"
    status = 416

    def __init__(self) -> None:
        super().__init__("The file has no such part.")


class BackendAway(JobGroupsError):
    """The backend of the requested file does not answer."""

    code = "backend_unreachable"
    status = 502

    def __init__(self, backend_id: str, reason: str) -> None:
        super().__init__(f"Backend {backend_id} has it, and does not answer now. {reason}")


class Conflict(JobGroupsError):
    """The request is valid, but not in the present state."""

    code = "conflict"
    status = 409


class IdempotencyConflict(Conflict):
    """The idempotency key was used with another body within 24 h."""

    code = "idempotency_conflict"


class BackendInUse(Conflict):
    """The backend has open children, or prompts that may still run."""

    code = "backend_in_use"


class BackendExists(Conflict):
    """The address, or the id, is registered already."""

    code = "backend_exists"

    def __init__(self, detail: str, backend_id: str) -> None:
        super().__init__(detail, extra={"backend_id": backend_id})


class GroupNotFinished(Conflict):
    """A retry starts the next run of a group, and the present run has not ended."""

    code = "group_not_finished"

    def __init__(self, group_id: str, open_count: int) -> None:
        jobs = "1 job is" if open_count == 1 else f"{open_count} jobs are"
        super().__init__(
            f"Job group {group_id} has not ended: {jobs} not final. "
            "Retry a failed job alone, or wait for the end or cancel it, then retry."
        )


class RunPassed(Conflict):
    """The group is not in the run that the request names; usually it was retried meanwhile."""

    code = "run_passed"

    def __init__(self, group_id: str, run: int, named: int) -> None:
        why = " now: it was retried meanwhile." if named < run else f"; it has no run {named}."
        super().__init__(f"Job group {group_id} is in run {run}{why} Load it again.")


class NothingToRetry(Conflict):
    """No child of the group failed, timed out or was cancelled with the group."""

    code = "nothing_to_retry"

    def __init__(self, group_id: str) -> None:
        super().__init__(
            f"Nothing in job group {group_id} failed or timed out. "
            "A retry renders a cancelled job only if it names that job."
        )


class JobCompleted(Conflict):
    """A child of a retry has completed."""

    code = "job_completed"

    def __init__(self, job_ids: Sequence[str]) -> None:
        others = f" (and {len(job_ids) - 1} more)" if len(job_ids) > 1 else ""
        super().__init__(
            f"Job {job_ids[0]}{others} is completed; leave it out. "
            "Submit a new group to have it rendered with changes.",
            extra={"job_ids": list(job_ids)},
        )


class JobNotFailed(Conflict):
    """While its group runs, a child can be retried only if it failed or timed out."""

    code = "job_not_failed"

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(
            f"Job {job_id} is {status}, and its group has not ended: until then only a job that "
            "failed or timed out can be retried."
        )


class JobNotWaiting(Conflict):
    """Only a queued child can be moved to another backend."""

    code = "job_not_waiting"

    def __init__(self, job_id: str, status: str, backend_id: str) -> None:
        if status == "running":
            state = f"runs on {backend_id}. Wait for its end, or cancel it."
        else:
            state = f"is {status}. A retry can render it at another backend."
        super().__init__(f"Job {job_id} is not waiting and cannot be moved: it {state}")


class NoOtherBackend(Conflict):
    """A child of a retry at another backend has no other backend now."""

    code = "no_other_backend"

    def __init__(self, job_ids: Sequence[str]) -> None:
        others = f" (and {len(job_ids) - 1} more)" if len(job_ids) > 1 else ""
        super().__init__(
            f"No other backend for job {job_ids[0]}{others} works now and has what its group "
            "requires. Enable or start another backend, name one with backend_id, or retry at the "
            'same backend (where: "same").',
            extra={"job_ids": list(job_ids)},
        )


class BackendUnavailable(Conflict):
    """The backends of children of a retry take no jobs now."""

    code = "backend_unavailable"

    def __init__(self, unavailable: Sequence[Mapping[str, str]], *, hint: str) -> None:
        first = unavailable[0]
        others = f" (and {len(unavailable) - 1} more)" if len(unavailable) > 1 else ""
        super().__init__(
            f"{first['backend_id']}{others} takes no jobs: {first['reason']} {hint}",
            extra={"unavailable_backends": list(unavailable)},
        )


class RunnerAbsent(JobGroupsError):
    """No runner is alive; nothing was stored."""

    code = "runner_absent"
    status = 503

    def __init__(self) -> None:
        super().__init__("ParallelJobManager not initialized")


class LeaseLost(Exception):
    """Another runner holds the backend's lease; this runner must not write any more."""

    def __init__(self, backend_id: str, epoch: int) -> None:
        super().__init__(f"The lease of {backend_id} (epoch {epoch}) was lost to another runner.")
        self.backend_id = backend_id
        self.epoch = epoch
