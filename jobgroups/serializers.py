"""Rows as the JSON objects of the API. No other module names these fields.

The functions take loaded rows and do not query the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobgroups.domain.clock import iso, iso_or_none
from jobgroups.domain.states import CHILD_OPEN, ChildStatus, RetryScope
from jobgroups.models import Attempt, ChildJob, JobGroup

#: Maximum length of a text in an event, in bytes of UTF-8.
MAX_TEXT_BYTES = 2048
#: Maximum length of a frame: 1 MiB, the limit of daphne and of many clients, minus the envelope.
MAX_FRAME_BYTES = 2**20 - 4096


def to_json(value: object) -> str:
    """Return the value as JSON text without blanks, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def truncate(text: str | None) -> str | None:
    """Truncate a text to 2 KiB of UTF-8, at a whole character and with an ellipsis."""
    if text is None or len(text.encode()) <= MAX_TEXT_BYTES:
        return text
    return text.encode()[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def serialize_child(row: ChildJob, *, waiting_reason: str | None = None) -> dict[str, Any]:
    """Return a child with every field of its schema; unknown ones are null."""
    return {
        "job_id": row.id,
        "backend_id": row.backend_id or "",
        "seed": row.seed,
        "status": row.status,
        "progress": round(row.progress, 2),
        "current_step": row.current_step,
        "outputs": _from_json(row.outputs_json),
        "error_message": row.error_message,
        "error_type": row.error_type,
        "failure_class": row.failure_class or None,
        "queued_at": iso(row.queued_at),
        "started_at": iso_or_none(row.started_at),
        "completed_at": iso_or_none(row.completed_at),
        "attempts": row.attempt_count,
        "waiting_reason": waiting_reason if row.status in CHILD_OPEN else None,
        "error_details": _from_json(row.error_details_json),
        "warnings": _from_json(row.warnings_json),
        "starred": row.starred,
    }


def serialize_group(row: JobGroup) -> dict[str, Any]:
    """Return a group without its children."""
    return {
        "job_group_id": row.id,
        "status": row.status,
        "completed_count": row.completed_count,
        "failed_count": row.failed_count,
        "cancelled_count": row.cancelled_count,
        "total_count": row.total_count,
        "created_at": iso(row.created_at),
        "completed_at": iso_or_none(row.completed_at),
        "metadata": _from_json(row.metadata_json),
        "warnings": _from_json(row.warnings_json),
        "skipped_backends": _from_json(row.skipped_backends_json),
        "seed_strategy": row.seed_strategy,
        "base_seed": row.base_seed,
        "timeout_seconds": row.timeout_seconds,
        "max_attempts": row.max_attempts,
        "retry_elsewhere": False if row.retry_elsewhere == RetryScope.NEVER else row.retry_elsewhere,
        "retry_on": row.retry_on,
        "partial_outputs": row.partial_outputs,
        "submitter": row.submitter or None,
        "run": row.run,
        "seq": row.seq,
    }


def serialize_submission(row: JobGroup, children: Iterable[ChildJob]) -> dict[str, Any]:
    """Return the response to a submission, as it was when the group was stored: also for a replay."""
    return {
        "job_group_id": row.id,
        "child_jobs": [
            {"job_id": one.id, "backend_id": one.backend_id or "", "seed": one.seed, "status": ChildStatus.QUEUED.value}
            for one in children
        ],
        "status": "pending" if row.accepted_without_runner else "running",
        "created_at": iso(row.created_at),
        "warnings": _from_json(row.warnings_json),
        "skipped_backends": _from_json(row.skipped_backends_json),
    }


def serialize_attempt(row: Attempt, *, left_running: str = "") -> dict[str, Any]:
    """Return one attempt of a child, with its outputs even if it failed.

    Args:
        row: the attempt.
        left_running: why its prompt still runs although its stop is pending.
    """
    return {
        "number": row.number,
        "run": row.run,
        "backend_id": row.backend_id,
        "prompt_id": row.prompt_id,
        "outcome": row.state,
        "charged": row.is_counted,
        "outputs": _from_json(row.outputs_json),
        "error_message": row.error_message,
        "error_type": row.error_type,
        "failure_class": row.failure_class or None,
        "error_details": _from_json(row.error_details_json),
        "created_at": iso(row.created_at),
        "accepted_at": iso_or_none(row.accepted_at),
        "started_at": iso_or_none(row.started_at),
        "ended_at": iso_or_none(row.ended_at),
        "stop_requested_at": iso_or_none(row.stop_requested_at),
        "stop_reason": row.stop_reason or None,
        "left_running": left_running or None,
        "warnings": _from_json(row.warnings_json),
    }


def serialize_result(row: ChildJob, *, with_outputs: bool = True) -> dict[str, Any]:
    """Return a child's entry in ``group_complete``."""
    return {
        "job_id": row.id,
        "backend_id": row.backend_id or "",
        "seed": row.seed,
        "status": row.status,
        "outputs": _from_json(row.outputs_json) if with_outputs else None,
        "error": truncate(row.error_message),
    }


def truncate_to_frame(frame: Mapping[str, Any], keys: Sequence[str], within: str | None = None) -> str:
    """Return a frame's text; if it would exceed 1 MiB, with null for some of ``keys``.

    ``"truncated": [key, …]`` lists them: the client requests these values from the REST API.

    Args:
        frame: the frame.
        keys: the keys that may be dropped, the most dispensable first.
        within: the list of objects that have these keys; None: the frame itself.
    """
    text = to_json(frame)
    dropped: list[str] = []
    short = dict(frame)
    for key in keys:
        if len(text.encode()) <= MAX_FRAME_BYTES:
            break
        if within is None and short.get(key) is None:
            continue
        dropped.append(key)
        if within is None:
            short[key] = None
        else:
            short[within] = [{**item, key: None} for item in short[within]]
        text = to_json({**short, "truncated": dropped})
    return text
