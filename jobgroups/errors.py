"""Errors of requests and lookups, one class per condition; docs/api.md lists them by ``code``.

``LeaseLost`` is internal: it ends a runner's session of a backend, and no client sees it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import InvalidRequest, RequestError


def _and_more(names: Sequence[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]


class MethodNotAllowed(RequestError, code="method_not_allowed", status=405):
    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__(
            f"This path takes {', '.join(method for method in methods if method != 'OPTIONS')}."
        )
        self.headers = {"Allow": ", ".join(methods)}


class TooManyChildren(InvalidRequest, code="too_many_children"):
    """The request has more backend ids than a group may have children."""


class NoOnlineBackends(RequestError, code="no_online_backends"):
    def __init__(self, skipped: Sequence[Mapping[str, str]]) -> None:
        super().__init__(
            "No valid online backends available", extra={"skipped_backends": list(skipped)}
        )


class Overloaded(RequestError, code="overloaded", status=503, retry_after=5):
    """A write that starts jobs has not begun in time, and does not begin any more."""

    text = "The Director is too busy: nothing was stored. Send the request again in some seconds."


class NothingDescribed(RequestError, code="nothing_described", status=503):
    text = (
        "The workflow is in the editor's format. No online backend described its node classes, "
        "which the conversion"
        ' needs: start a backend, or export the workflow with "Export (API)".'
    )


class UserFileNotFound(RequestError, code="user_file_not_found", status=404):
    text = "There is no file {}."


class UserFileExists(RequestError, code="user_file_exists", status=409):
    text = "There is a file {}; send overwrite=true to replace it."


class UserPathInvalid(RequestError, code="user_path_invalid"):
    text = "{} is no name of a file or setting here."


class UserStorageFull(RequestError, code="user_storage_full", status=413):
    text = (
        "A file, or all settings together, may have at most {} MiB, and all files of a user {} MiB. "
        "Delete some first."
    )


class RouteUnavailable(RequestError, code="route_unavailable", status=503, retry_after=5):
    """The machine of a route of custom nodes gives no usable answer."""


class NoMachine(RequestError, code="no_machine", status=503, retry_after=5):
    """No machine describes its nodes now."""

    text = "No machine of the Director answers now. Start a ComfyUI, or see the page Backends."


class PromptIdConflict(RequestError, code="prompt_id_conflict"):
    text = "The prompt_id {} was used before with another body; use a new one."


class GroupNotFound(RequestError, code="group_not_found", status=404):
    text = "Job group {} not found"


class ChildNotFound(RequestError, code="job_not_found", status=404):
    text = "Job {} not found"


class BackendNotFound(RequestError, code="backend_not_found", status=404):
    text = "Backend {} not found"


class TooManyWaiting(RequestError, code="too_many_waiting", status=429):
    text = "{} requests{} wait for events already. Send the request without wait, or use the WebSocket."


class TooManyStreams(RequestError, code="too_many_streams", status=429, retry_after=5):
    text = (
        "{} event streams{} are open already. Close one, or request the state of the jobs from time "
        "to time."
    )


class TooManySockets(RequestError, code="too_many_sockets", status=429):
    text = "{} WebSockets{} are open already. Close one, or connect again later."


class ExclusionNotFound(RequestError, code="exclusion_not_found", status=404):
    text = "Backend {} has no exclusion {}"


class OutputNotFound(RequestError, code="output_not_found", status=404):
    def __init__(self, job_id: str, number: int, count: int) -> None:
        files = "1 file" if count == 1 else f"{count} files"
        super().__init__(f"Job {job_id} has reported {files}; there is no number {number}.")


class AssetNotFound(RequestError, code="asset_not_found", status=404):
    text = "Asset {} not found"


class DeliveryNotFound(RequestError, code="delivery_not_found", status=404):
    text = "Webhook delivery {} not found"


class StorageFull(RequestError, code="storage_full", status=507):
    """A file cannot be written, or should not: the disk is almost full."""

    text = "The file cannot be stored: {}. Nothing was kept of it; free some space."


class StorageAway(RequestError, code="storage_unavailable", status=503):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The storage of files does not work now ({reason}). Nothing was kept; try again in "
            "some minutes."
        )


class NoThumbnail(RequestError, code="no_thumbnail", status=404):
    text = "There is no thumbnail of this output. {}"


class OutputTooLarge(RequestError, code="output_too_large", status=413):
    def __init__(self, *, size: int, limit: int, backend_id: str, url: str) -> None:
        super().__init__(
            f"This output has {size} bytes; up to {limit} come through the Director"
            " (DIRECTOR_PROXY_MAX_BYTES). It can be had from its backend, at url.",
            extra={"bytes": size, "backend_id": backend_id, "url": url},
        )


class NoOutputs(RequestError, code="no_outputs", status=404):
    def __init__(self, *, starred: bool) -> None:
        super().__init__(
            "Nothing that is starred has a file." if starred else "The group has no files yet."
        )


class QueueFull(RequestError, code="queue_full", status=429, retry_after=60):
    """The submitter may not have so many queued jobs; nothing was stored."""

    def __init__(self, submitter: str, queued: int, jobs: int, limit: int) -> None:
        remedy = "submit it again when others have started"
        if jobs > limit:
            remedy, self.headers = "submit fewer jobs at once", {}
        super().__init__(
            f"{submitter} has {queued} queued jobs and may have {limit}; this group has {jobs}. "
            f"Nothing was stored: {remedy}.",
            extra={"queued": queued, "max_queued": limit},
        )


class TooManySheets(RequestError, code="too_many_sheets", status=429):
    text = "Other contact sheets are being drawn. Send the request again."


class NoWorkflow(RequestError, code="no_workflow"):
    """The PNG has no valid workflow."""


class ProvenanceUnknown(RequestError, code="provenance_unknown", status=404):
    """No job is known that made a file."""


class OutputGone(RequestError, code="output_gone", status=410):
    text = "The output is gone. {}"


class OutputReplaced(OutputGone):
    def __init__(self, filename: str, backend: str) -> None:
        super().__init__(
            f"It was replaced: another file has its name ({filename}) on {backend} now."
        )
        self.extra["reason"] = "replaced"


class RangeNotSatisfiable(RequestError, code="range_not_satisfiable", status=416):
    text = "The file has no such part."


class BackendAway(RequestError, code="backend_unreachable", status=502):
    text = "Backend {} has it, and does not answer now. {}"


class WrongBody(BackendAway):
    """The answer for a file has another body: a web page, or a part of the file."""

    text = "Backend {} did not send the file. {}"


class Conflict(RequestError, code="conflict", status=409):
    """The request is valid, but not in the present state."""


class IdempotencyConflict(Conflict, code="idempotency_conflict"):
    """The idempotency key was used within 24 h with another body, or by another account of a name."""


class BackendInUse(Conflict, code="backend_in_use"):
    """The backend has open children, or prompts that may still run."""


class AssetInUse(Conflict, code="asset_in_use"):
    def __init__(self, names: str, count: int) -> None:
        """``names`` are those of the ``count`` groups that need it."""
        super().__init__(
            f"The group {names} needs the file and has not ended. Cancel it or wait for its end."
            if count == 1
            else f"{count} groups need the file and have not ended: {names}. Cancel them or wait "
            "for their end."
        )


class AssetDeleted(Conflict, code="asset_deleted"):
    text = (
        "Node {}: the file of its input {!r} was deleted. Upload it again and submit a new group."
    )


class GroupOpen(Conflict, code="group_open"):
    text = "Job group {} has not ended. Cancel it or wait for its end, then delete it."


class GroupEnded(Conflict, code="group_ended"):
    def __init__(self, group_id: str) -> None:
        super().__init__(f"Job group {group_id} has ended: no job of it waits.")


class GroupStopping(Conflict, code="group_stopping"):
    text = (
        "A prompt of job group {} may still run at {}. Delete the group after its end there, or "
        "after a backend that is gone for good is removed."
    )


class GroupDeleted(RequestError, code="group_deleted", status=410):
    text = (
        "This Idempotency-Key was used within 24 h, and its job group was deleted. Use a new key "
        "to run it again."
    )


class GroupNotFinished(Conflict, code="group_not_finished"):
    def __init__(self, group_id: str, open_count: int) -> None:
        jobs = "1 job is" if open_count == 1 else f"{open_count} jobs are"
        super().__init__(
            f"Job group {group_id} has not ended: {jobs} not final. "
            "Retry a failed job alone, or wait for the end or cancel it, then retry."
        )


class RunPassed(Conflict, code="run_passed"):
    def __init__(self, group_id: str, run: int, named: int) -> None:
        why = " now: it was retried meanwhile." if named < run else f"; it has no run {named}."
        super().__init__(f"Job group {group_id} is in run {run}{why} Load it again.")


class NothingToRetry(Conflict, code="nothing_to_retry"):
    text = (
        "Nothing in job group {} failed or timed out. A retry renders a cancelled job only if it "
        "names that job."
    )


class JobCompleted(Conflict, code="job_completed"):
    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(
            f"Job {_and_more(job_ids)} is completed; leave it out. "
            "Submit a new group to have it rendered with changes.",
            extra={"job_ids": list(job_ids)},
        )


class JobNotFailed(Conflict, code="job_not_failed"):
    text = (
        "Job {} is {}, and its group has not ended: until then only a job that failed or timed "
        "out can be retried."
    )


class JobNotWaiting(Conflict, code="job_not_waiting"):
    def __init__(self, job_id: str, status: str, backend: str) -> None:
        if status == "running":
            state = f"runs on {backend}. Wait for its end, or cancel it."
        else:
            state = f"is {status}. A retry can render it at another backend."
        super().__init__(f"Job {job_id} is not waiting and cannot be moved: it {state}")


class NoOtherBackend(Conflict, code="no_other_backend"):
    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(
            f"No other backend for job {_and_more(job_ids)} works now and has what its group "
            "requires. Enable or start another backend, name one with backend_id, or retry at the "
            'same backend (where: "same").',
            extra={"job_ids": list(job_ids)},
        )


class BackendUnavailable(Conflict, code="backend_unavailable"):
    def __init__(self, reasons: Mapping[str, str], names: Mapping[str, str], *, hint: str) -> None:
        """``reasons`` and ``names`` are by the ids of backends; the text has the first three reasons."""
        of_reason: dict[str, list[str]] = {}
        for backend_id, reason in reasons.items():
            of_reason.setdefault(reason.rstrip("."), []).append(names.get(backend_id, backend_id))
        sentences = [
            f"{', '.join(backends)} take{'s' * (len(backends) == 1)} no jobs: {reason}."
            for reason, backends in of_reason.items()
        ]
        unavailable = [{"backend_id": one, "reason": reason} for one, reason in reasons.items()]
        super().__init__(
            " ".join([*sentences[:3], hint]), extra={"unavailable_backends": unavailable}
        )


class RunnerAbsent(RequestError, code="runner_absent", status=503):
    """No runner is alive; nothing was stored."""

    text = "ParallelJobManager not initialized"


class NotAllowed(RequestError, code="not_allowed", status=403):
    """The account, or its token, does not permit this."""


class AccountNotFound(RequestError, code="account_not_found", status=404):
    """No account has this name."""


class TokenNotFound(RequestError, code="token_not_found", status=404):
    """No token of the account has this id."""


class AccountExists(Conflict, code="account_exists"):
    """An account has this name, perhaps in other letters."""


class LastAdministrator(Conflict, code="last_administrator"):
    """An active administrator has to remain."""


class ComfyApiError(RequestError):
    """An error with a code of the Comfy API v2, which only its paths raise; docs/comfy-api-v2.md
    lists them.
    """


class HashMismatch(ComfyApiError, code="hash_mismatch", status=409):
    text = "The file has another hash than expected_hash. Nothing was stored."


class BlobNotFound(ComfyApiError, code="blob_not_found", status=404):
    text = "There is no content with this hash. Upload the file."


class IdempotencyKeyReuse(ComfyApiError, code="idempotency_key_reuse", status=422):
    text = (
        "This Idempotency-Key was used within 24 h. Look for the result of that request, or use a "
        "new key."
    )


class AssetHeld(ComfyApiError, code="asset_in_use", status=409):
    """The contract allows no word on which of the two it is."""

    text = "Asset {} is in use: a job that has not ended needs it, or a job made it."


class MissingAsset(ComfyApiError, code="missing_asset", status=422):
    def __init__(self, node_id: str, name: str, reason: str) -> None:
        wrong = {node_id: [{"field": name, "reason": reason}]}
        super().__init__(f"Node {node_id}, input {name}: {reason}", extra={"node_errors": wrong})


class InvalidWorkflow(ComfyApiError, code="invalid_workflow", status=422):
    """The graph is invalid, or no backend that answers can execute it."""

    def __init__(self, detail: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__(detail, extra={"node_errors": dict(node_errors)} if node_errors else None)


class WorkflowFormatUi(ComfyApiError, code="workflow_format_ui", status=422):
    text = 'This is the editor\'s format. Export the workflow with "Export (API)".'


class MetadataInvalid(ComfyApiError, code="metadata_invalid", status=422):
    """The labels of a submission are invalid."""


class InvalidMetadataFilter(ComfyApiError, code="invalid_metadata_filter", status=422):
    """A filter of the list is invalid."""


class InvalidCursor(ComfyApiError, code="invalid_cursor", status=422):
    text = "The cursor is not one that this list gave; start without it."


class LeaseLost(Exception):
    """Another runner holds the backend's lease; this runner must not write any more."""

    def __init__(self, backend_id: str, epoch: int) -> None:
        super().__init__(f"The lease of {backend_id} (epoch {epoch}) was lost to another runner.")
        self.backend_id = backend_id
        self.epoch = epoch


class SetRefused(Exception):
    """Another transaction has stored what contradicts a set of writes. Nothing of it was stored."""
