"""Jobs as the JSON objects of the Comfy API v2, and their statuses."""

import datetime as dt
import json
import time
from typing import Any, Final

from jobgroups.api.answers import answers
from jobgroups.api.v2.requests import content_url
from jobgroups.domain.clock import iso, iso_or_none
from jobgroups.domain.failures import KEY_LOST, FailureClass
from jobgroups.domain.media_types import media_kind, media_type
from jobgroups.domain.output_ids import output_uuid
from jobgroups.domain.outputs import file_digest, nodes_of_files, reported_files
from jobgroups.domain.states import ChildStatus
from jobgroups.models import ChildJob, JobGroup
from jobgroups.queries.asset_records import url_expiry
from jobgroups.queries.group_status import Answer, group_versions
from jobgroups.queries.single_jobs import SingleJob
from jobgroups.serializers import expires_at, to_json
from jobgroups.workflow.progress import position

ENDED: Final = frozenset({"succeeded", "failed", "canceled"})
#: Statuses of jobs that have another name here.
_RENAMED: Final = {
    ChildStatus.COMPLETED: "succeeded",
    ChildStatus.TIMEOUT: "failed",
    ChildStatus.CANCELLED: "canceled",
}
_NEVER: Final = "9999-12-31T23:59:59.000Z"  #: In the contract, each job has a deadline.


def status_of(job: SingleJob) -> str:
    """Return the status of a job. While its files are being stored, it has not succeeded."""
    if job.is_storing:
        return "running"
    status = ChildStatus(job.child.status)
    return "canceling" if job.is_stopping else _RENAMED.get(status, status.value)


def serialize_summary(job: SingleJob) -> dict[str, Any]:
    group, child = job.group, job.child
    return {
        "id": group.id,
        "status": status_of(job),
        "create_time": iso(group.created_at),
        "update_time": iso(child.completed_at or child.started_at or child.queued_at),
        "metadata": _labels(group),
    }


def serialize_job(job: SingleJob, base_url: str) -> dict[str, Any]:
    """Return a job. ``base_url`` is the Director's address with a slash at its end."""
    group, child = job.group, job.child
    status, path, deadline = status_of(job), f"/api/v2/jobs/{group.id}", expires_at(group)
    completed_at = child.completed_at if status in ENDED else None
    return {
        "id": group.id,
        "status": status,
        "created_at": iso(group.created_at),
        "started_at": iso_or_none(child.started_at),
        "completed_at": iso_or_none(completed_at),
        "expires_at": iso_or_none(deadline) or _NEVER,
        "queue_position": job.queue_position,
        "progress": _progress(group, child),
        "outputs": _outputs(job, base_url),
        "error": _error(child),
        "metrics": {
            "queue_ms": _milliseconds(group.created_at, child.started_at),
            "execution_ms": None
            if completed_at is None or child.seconds is None
            else round(child.seconds * 1000),
        },
        "metadata": _labels(group),
        "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
    }


def _milliseconds(start: dt.datetime | None, end: dt.datetime | None) -> int | None:
    return round((end - start).total_seconds() * 1000) if start and end else None


def _labels(group: JobGroup) -> dict[str, str]:
    # Groups of our own API may have other values.
    return {
        key: value
        for key, value in json.loads(group.metadata_json).items()
        if isinstance(value, str)
    }


def _progress(group: JobGroup, child: ChildJob) -> dict[str, Any] | None:
    if child.started_at is None:
        return None
    graph, step, has_steps = (
        json.loads(group.workflow_json),
        child.current_step,
        child.steps_total > 1,
    )
    at = position(graph, child.progress, step)
    return {
        "value": round(child.progress / 100, 4),
        "nodes_done": at.done,
        "nodes_total": at.total,
        "current_node": at.current,
        "current_node_class": at.current and graph[at.current]["class_type"],
        "step": child.steps_completed if has_steps else None,
        "steps": child.steps_total if has_steps else None,
        "message": f"{step} {child.steps_completed}/{child.steps_total}" if has_steps else step,
    }


def _outputs(job: SingleJob, base_url: str) -> list[dict[str, Any]]:
    """Return the files of a job; while they are being stored, those that are."""
    group, child, attempt = job.group, job.child, job.child.current_attempt
    backend_id = child.backend_id or ""
    node_of = nodes_of_files(backend_id, json.loads(attempt.node_outputs_json) if attempt else {})
    stored_files, is_storing, results = job.stored_files, job.is_storing, []
    for number, file in enumerate(reported_files(json.loads(child.outputs_json or "{}"))):
        stored = stored_files.get(number)
        if file.get("missing") or (is_storing and stored is None):
            continue
        asset_id, name = output_uuid(child.id, number), file["filename"]
        kind = "latent" if name.lower().endswith(".latent") else media_kind(name)
        results.append(
            {
                "node_id": node_of.get(file_digest(backend_id, file), ""),
                "name": name,
                "type": "file" if kind == "other" else kind,
                "content_type": media_type(name),
                "size_bytes": stored.size_bytes if stored else 0,
                "id": asset_id,
                "hash": f"blake3:{stored.blake3}" if stored else None,
                "url": content_url(base_url, asset_id),
                "url_expires_at": url_expiry(expires_at(group)),
                "job_id": group.id,
            }
        )
    return results


def _error(child: ChildJob) -> dict[str, Any] | None:
    if child.status not in (ChildStatus.FAILED, ChildStatus.TIMEOUT):
        return None
    details = json.loads(child.error_details_json or "{}")
    refused = details.get("node_errors") or {}
    node_id = details.get("node_id") or next(iter(refused), None)
    of_node = refused.get(node_id)
    code = (
        "node_execution_error"
        if child.failure_class == FailureClass.NODE_ERROR
        else child.failure_class
    )
    return {
        "code": KEY_LOST if details.get("reason") == KEY_LOST else code or "failed",
        "message": child.error_message or "",
        "node_id": node_id,
        "class_type": details.get("node_type")
        or (of_node.get("class_type") if isinstance(of_node, dict) else None),
        "traceback": "".join(details.get("traceback") or ()) or None,
    }


async def job_answer(group_id: str, base_url: str) -> Answer:
    """Return a job as it is now, or raise ``GroupNotFound`` or ``ChildNotFound``."""
    return await answers.get(_read, group_id, base_url)


def _read(group_id: str, base_url: str, _earlier: Answer | None) -> Answer:
    began = time.monotonic()
    versions = group_versions([group_id])
    job = serialize_job(SingleJob.read(group_id), base_url)
    is_open = job["status"] not in ENDED
    return Answer.of(versions[group_id], began, to_json(job).encode(), may_change=is_open)
