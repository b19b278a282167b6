"""Every request to the Director: path, parameters and body."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import quote

from director.client.wire import Request, dump


class SubmitOptions(TypedDict, total=False):
    """Options of a submission beside the workflow and the backends.

    Attributes:
        parameters: Inputs to set in every job: ``{"steps": 20}``, ``{"3.steps": 20}`` or
            ``{"3": {"steps": 20}}``.
        seed_strategy: ``random`` (default), ``sequential``, ``fibonacci`` or ``golden_ratio``.
        base_seed: Seed of the first job, 0 … 2**53 - 1; drawn by the server if left out.
        metadata: Any JSON object up to 16 KiB; returned unchanged.
        timeout_seconds: 30 … 3600 (default 300) from the first sign of execution.
        required_capabilities: Tags and properties that a backend must have.
        max_attempts: Maximum number of attempts of a job within a run, 1 … 10.
        retry_elsewhere: True or ``group``: a failed job may be retried on the other backends of its
            group; ``any``: on every online backend; False: on its own backend only.
        retry_on: Failure classes after which a job is retried; all retryable ones if left out.
        partial_outputs: ``accept`` (default): a job of which ComfyUI refuses some outputs completes
            with the others and a warning; ``fail``: its prompt is stopped and it fails.
        submitter: Who submits it, up to 150 characters: a filter of the list of groups.
        idempotency_key: Submissions with one key within 24 h make one group. A new key for each call
            if left out.
    """

    parameters: Mapping[str, Any] | None
    seed_strategy: str | None
    base_seed: int | None
    metadata: Mapping[str, Any] | None
    timeout_seconds: int | None
    required_capabilities: Sequence[str] | None
    max_attempts: int | None
    retry_elsewhere: bool | str | None
    retry_on: Sequence[str] | None
    partial_outputs: str | None
    submitter: str | None
    idempotency_key: str | None


class ListFilters(TypedDict, total=False):
    """Filters of ``list``.

    Attributes:
        status: A group status.
        backend: Groups with a job on this backend.
        submitter: Groups that were submitted under exactly this name.
        metadata: ``{"scene": "shot_001"}``: groups with these values in their metadata.
        created_after: Datetime with a time zone; likewise ``created_before``.
        limit: Groups per request, at most 200. All pages are read during the iteration.
    """

    status: str | None
    backend: str | None
    submitter: str | None
    metadata: Mapping[str, Any] | None
    created_after: datetime | None
    created_before: datetime | None
    limit: int | None


class RetryOptions(TypedDict, total=False):
    """Options of a retry.

    Attributes:
        where: ``"same"``: on the job's own backend; ``"other"``: on another one that is online and has what
            the group requires; ``"auto"``: on another one if one can accept the job and the failure may not
            repeat there (out of memory, a missing model or node, a lost backend).
        backend_id: On this backend, instead of ``where``.
        retry_elsewhere: ``True`` or ``"group"``: a job may move to another backend of the group if
            necessary; ``"any"``: to any that accepts it; ``False``: to none. The group's policy, if none
            of the three is given.
        run: The run that the caller saw; a group that was retried since then is refused.
        by: The user's name, for the events.
    """

    where: str | None
    backend_id: str | None
    retry_elsewhere: bool | str | None
    run: int | None
    by: str | None


class BackendFields(TypedDict, total=False):
    """Fields of a backend that a user sets.

    Attributes:
        name: Display name; the server derives one from the address if left out.
        tags: For ``required_capabilities``.
        enabled: False: no new jobs; running jobs finish.
        headers: Sent to this ComfyUI with every request (basic auth of a proxy …); never shown again.
    """

    name: str | None
    tags: Sequence[str] | None
    enabled: bool | None
    headers: Mapping[str, str] | None


class HoldOptions(TypedDict, total=False):
    """Options of a pause, a drain or a quarantine."""

    now: bool
    reason: str | None
    by: str | None
    minutes: int | None


#: Fields of a body that are lists of strings.
_LISTS: Final = {"backend_ids", "job_ids", "required_capabilities", "retry_on", "tags"}


def _path(*segments: str) -> str:
    """Return ``/api/…`` with each segment encoded.

    An empty segment would be the path of the collection, and HTTP clients and proxies would resolve a segment
    of dots.
    """
    if not all(segments):
        raise ValueError("An id is never empty.")
    encoded = (quote(segment, safe="", errors="replace") for segment in segments)
    return "/api/" + "/".join(s.replace(".", "%2E") if s in {".", ".."} else s for s in encoded)


def get(*segments: str, **params: str) -> Request:
    """Return a request that reads ``/api/…``."""
    return Request("GET", _path(*segments), params=tuple(params.items()), repeatable=True)


def delete(*segments: str) -> Request:
    """Return a request that cancels or removes.

    It is not repeated after a lost answer: the second answer to a cancellation would not count the jobs that
    the first one cancelled.
    """
    return Request("DELETE", _path(*segments))


def _body(allowed: type, options: Mapping[str, Any], **more: Any) -> bytes:
    """Return the JSON of all values that are not None.

    Raises:
        TypeError: An option is not allowed, or one string is given for a list of strings.
    """
    if unknown := options.keys() - allowed.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    fields = {k: v for k, v in {**more, **options}.items() if v is not None}
    for name in _LISTS & fields.keys():
        # A string is a sequence of strings, too: "localhost_8188" would mean 14 backends.
        if isinstance(fields[name], str):
            raise TypeError(f"{name} is a list of strings, not one string.")
        fields[name] = list(fields[name])
    return dump(fields)


def submit(
    workflow: Mapping[str, Any], backend_ids: Sequence[str], *, idempotency_key: str | None = None, **options: Any
) -> Request:
    """Return the submission of a group; safe to repeat, since it has an idempotency key."""
    body = _body(SubmitOptions, options, workflow_json=workflow, backend_ids=backend_ids)
    key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    headers = {"Idempotency-Key": key}
    return Request("POST", _path("job-group"), body=body, headers=headers, repeatable=True)


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("A datetime without a time zone could be any of 24 moments.")
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dump(value).decode()


def list_groups(
    *,
    metadata: Mapping[str, Any] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: int | None = None,
    status: str | None = None,
    backend: str | None = None,
    submitter: str | None = None,
    cursor: str | None = None,
) -> Request:
    """Return the request for one page of groups, newest first."""
    params = {
        "status": status,
        "backend": backend,
        "submitter": submitter,
        **{f"metadata.{name}": _text(value) for name, value in (metadata or {}).items()},
        "created_after": _moment(created_after) if created_after else None,
        "created_before": _moment(created_before) if created_before else None,
        "limit": None if limit is None else str(limit),
        "cursor": cursor,
    }
    return get("job-groups", **{k: v for k, v in params.items() if v is not None})


def retry(*segments: str, job_ids: Sequence[str] | None = None, **options: Unpack[RetryOptions]) -> Request:
    """Return the retry of a group (``job_ids``: of these jobs only), or of the job at ``segments``.

    It is not repeated after a lost answer: by then the run that the first one opened may have ended, too.
    """
    body = _body(RetryOptions, options, job_ids=job_ids)
    return Request("POST", _path("job-groups", *segments, "retry"), body=body)


def move(group_id: str, job_id: str, backend_id: str, *, by: str | None = None) -> Request:
    """Return the move of a queued job; safe to repeat, since the second move changes nothing."""
    path = _path("job-groups", group_id, "jobs", job_id, "move")
    body = {"backend_id": backend_id} if by is None else {"backend_id": backend_id, "by": by}
    return Request("POST", path, body=dump(body), repeatable=True)


def add_backend(url: str, *, backend_id: str | None = None, **fields: Any) -> Request:
    """Return the registration of a ComfyUI; ``fields`` are those of ``BackendFields``."""
    body = _body(BackendFields, fields, url=url, backend_id=backend_id)
    return Request("POST", _path("backends"), body=body)


def update_backend(backend_id: str, *, url: str | None = None, **fields: Any) -> Request:
    """Return a change of a backend; fields that are None stay."""
    body = _body(BackendFields, fields, url=url)
    return Request("PATCH", _path("backends", backend_id), body=body, repeatable=True)


def change_hold(backend_id: str, action: str, **options: Unpack[HoldOptions]) -> Request:
    """Return ``pause``, ``drain``, ``resume``, ``quarantine`` or ``release``; safe to repeat."""
    path = _path("backends", backend_id, action)
    return Request("POST", path, body=_body(HoldOptions, options), repeatable=True)


def find_backends() -> Request:
    """Return the search for ComfyUIs on the Director's host. It changes nothing."""
    return Request("POST", _path("backends", "find"), body=b"{}", repeatable=True)


def decide_found(url: str, decision: str) -> Request:
    """Return the decision about a found ComfyUI: ``add``, ``ignore`` or ``unignore``."""
    path = _path("backends", "found", decision)
    return Request("POST", path, body=dump({"url": url}), repeatable=decision != "add")


def test_backend(url: str, headers: Mapping[str, str] | None) -> Request:
    """Return the test of an address. It changes nothing."""
    body = _body(BackendFields, {}, url=url, headers=headers)
    return Request("POST", _path("backends", "test"), body=body, repeatable=True)


def workflow_from_png(content: bytes) -> Request:
    """Return the request for the workflow in a PNG."""
    headers = {"Content-Type": "image/png"}
    path = _path("workflow-from-png")
    return Request("POST", path, body=content, headers=headers, repeatable=True)


def stream_path(group_id: str, since: int | None) -> str:
    """Return the path of a group's event stream, resumed after event ``since`` if given."""
    path = _path("job-groups", group_id).replace("/api/", "/ws/", 1)
    return path if since is None else f"{path}?since={since}"
