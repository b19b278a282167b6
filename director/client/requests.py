"""Every request to the Director: path, parameters and body."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from director.client.wire import Request, dump


class SubmitOptions(TypedDict, total=False):
    """What may be said of a submission beside the workflow and the backends.

    Attributes:
        parameters: Inputs to set in every child: ``{"steps": 20}``, ``{"3.steps": 20}`` or
            ``{"3": {"steps": 20}}``.
        seed_strategy: ``random`` (default), ``sequential``, ``fibonacci`` or ``golden_ratio``.
        base_seed: Seed of the first child, 0 … 2**53 - 1; drawn by the server if left out.
        metadata: Any JSON object up to 16 KiB; comes back equal.
        timeout_seconds: 30 … 3600 (default 300) from the first sign of execution.
        required_capabilities: Tags and facts that a backend must have.
        max_attempts: How often a child is tried within a run at most, 1 … 10.
        retry_elsewhere: True or ``group``: a child that failed may be tried again on the other
            backends of its group; ``any``: on every backend that works; False: on its own alone.
        retry_on: Failure classes after which a child is tried again; all that may be if left out.
        partial_outputs: ``accept`` (default): a child of which ComfyUI refuses some outputs completes
            with the others and a warning; ``fail``: its prompt is stopped and it fails.
        submitter: Who submits it, up to 150 characters: groups can be listed by it.
        idempotency_key: Submissions with one key within 24 h make one group. Chosen freshly for
            each call if left out.
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
    """Which groups ``list`` gives.

    Attributes:
        status: A group status.
        backend: Groups with a child on this backend.
        submitter: Groups that were submitted under this very name.
        metadata: ``{"scene": "shot_001"}``: groups whose metadata say so.
        created_after: Aware datetime; likewise ``created_before``.
        limit: Groups per request, at most 200. All pages are read as they are iterated over.
    """

    status: str | None
    backend: str | None
    submitter: str | None
    metadata: Mapping[str, Any] | None
    created_after: datetime | None
    created_before: datetime | None
    limit: int | None


class BackendFields(TypedDict, total=False):
    """What a person says of a backend.

    Attributes:
        name: For people; the server makes one of the address if left out.
        tags: What ``required_capabilities`` may ask for.
        enabled: False: no new children, running ones finish.
        headers: Sent to this ComfyUI with everything (basic auth of a proxy …); never shown again.
    """

    name: str | None
    tags: Sequence[str] | None
    enabled: bool | None
    headers: Mapping[str, str] | None


def _path(*segments: str) -> str:
    """Return ``/api/…`` with each segment encoded.

    An empty segment would name the collection instead of a thing in it, and a segment of dots would
    be resolved away by HTTP clients and proxies.
    """
    if not all(segments):
        raise ValueError("An id is never empty.")
    encoded = (quote(segment, safe="", errors="replace") for segment in segments)
    return "/api/" + "/".join(s.replace(".", "%2E") if s in {".", ".."} else s for s in encoded)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _strings(name: str, values: Sequence[str]) -> list[str]:
    # One string is a sequence of strings too: "localhost_8188" would ask for 14 backends.
    if isinstance(values, str):
        raise TypeError(f"{name} is a list of strings, not one string.")
    return list(values)


def submit(
    workflow: Mapping[str, Any],
    backend_ids: Sequence[str],
    *,
    parameters: Mapping[str, Any] | None = None,
    seed_strategy: str | None = None,
    base_seed: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    timeout_seconds: int | None = None,
    required_capabilities: Sequence[str] | None = None,
    max_attempts: int | None = None,
    retry_elsewhere: bool | str | None = None,
    retry_on: Sequence[str] | None = None,
    partial_outputs: str | None = None,
    submitter: str | None = None,
    idempotency_key: str | None = None,
) -> Request:
    """Return the submission of a group; safe to repeat, since it carries an idempotency key."""
    optional = {
        "parameters": parameters,
        "seed_strategy": seed_strategy,
        "base_seed": base_seed,
        "metadata": metadata,
        "timeout_seconds": timeout_seconds,
        "max_attempts": max_attempts,
        "retry_elsewhere": retry_elsewhere,
        "partial_outputs": partial_outputs,
        "submitter": submitter,
    }
    body = {"workflow_json": workflow, "backend_ids": _strings("backend_ids", backend_ids)}
    body |= _given(optional)
    if required_capabilities is not None:
        body["required_capabilities"] = _strings("required_capabilities", required_capabilities)
    if retry_on is not None:
        body["retry_on"] = _strings("retry_on", retry_on)
    key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    headers = {"Idempotency-Key": key}
    return Request("POST", _path("job-group"), body=dump(body), headers=headers, repeatable=True)


def status(group_id: str) -> Request:
    """Return the request for a group's status."""
    return Request("GET", _path("job-groups", group_id), repeatable=True)


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("A datetime without a time zone could be any of 24 moments.")
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dump(value).decode()


def list_groups(
    *,
    status: str | None = None,
    backend: str | None = None,
    submitter: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: int | None = None,
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
    query = tuple(_given(params).items())
    return Request("GET", _path("job-groups"), params=query, repeatable=True)


def workflow(group_id: str) -> Request:
    """Return the request for a group's workflow as it was submitted."""
    return Request("GET", _path("job-groups", group_id, "workflow"), repeatable=True)


def events(group_id: str, since: int) -> Request:
    """Return the request for the stored events after ``since``."""
    path = _path("job-groups", group_id, "events")
    return Request("GET", path, params=(("since", str(since)),), repeatable=True)


def job(group_id: str, job_id: str) -> Request:
    """Return the request for one child with its attempts."""
    return Request("GET", _path("job-groups", group_id, "jobs", job_id), repeatable=True)


def cancel(group_id: str) -> Request:
    """Return the cancellation of a group.

    Not repeated after a lost answer although that would cancel nothing more: the second answer
    would count none of what the first one cancelled.
    """
    return Request("DELETE", _path("job-groups", group_id))


def cancel_job(group_id: str, job_id: str) -> Request:
    """Return the cancellation of one child."""
    return Request("DELETE", _path("job-groups", group_id, "jobs", job_id))


class RetryOptions(TypedDict, total=False):
    """How children are retried.

    Attributes:
        where: ``"same"``: at its own backend; ``"other"``: at another one that works and has what the
            group requires; ``"auto"``: at another one if one can take it and the failure is one that
            another backend may not have (out of memory, a missing model or node, a lost backend).
        backend_id: At this backend, instead of ``where``.
        retry_elsewhere: ``True`` or ``"group"``: a child may go to another backend of the group if it
            has reason to; ``"any"``: to any that can take it; ``False``: to none. With nothing said of
            the place: as the group says.
        run: The run that you saw; a group that was retried since is refused.
        by: The person's name, for the events.
    """

    where: str | None
    backend_id: str | None
    retry_elsewhere: bool | str | None
    run: int | None
    by: str | None


def _retry(
    path: str, *, job_ids: Sequence[str] | None = None, **options: Unpack[RetryOptions]
) -> Request:
    # Not repeated after a lost answer: by then the run that the first one opened may have ended too.
    body = _given(options)
    if job_ids is not None:
        body["job_ids"] = _strings("job_ids", job_ids)
    return Request("POST", path, body=dump(body))


def retry(
    group_id: str, *, job_ids: Sequence[str] | None = None, **options: Unpack[RetryOptions]
) -> Request:
    """Return the retry of a group: of the named children, or of all that failed."""
    return _retry(_path("job-groups", group_id, "retry"), job_ids=job_ids, **options)


def retry_job(group_id: str, job_id: str, **options: Unpack[RetryOptions]) -> Request:
    """Return the retry of one child."""
    return _retry(_path("job-groups", group_id, "jobs", job_id, "retry"), **options)


def move(group_id: str, job_id: str, backend_id: str, *, by: str | None = None) -> Request:
    """Return the move of a child that waits; safe to repeat, since the second one changes nothing."""
    path = _path("job-groups", group_id, "jobs", job_id, "move")
    body = {"backend_id": backend_id, **_given({"by": by})}
    return Request("POST", path, body=dump(body), repeatable=True)


def backends() -> Request:
    """Return the request for all backends."""
    return Request("GET", _path("backends"), repeatable=True)


def backend(backend_id: str) -> Request:
    """Return the request for one backend."""
    return Request("GET", _path("backends", backend_id), repeatable=True)


def _backend_body(
    *,
    url: str | None = None,
    backend_id: str | None = None,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    enabled: bool | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    fields = {
        "url": url,
        "backend_id": backend_id,
        "name": name,
        "tags": None if tags is None else _strings("tags", tags),
        "enabled": enabled,
        "headers": headers,
    }
    return dump(_given(fields))


def add_backend(url: str, *, backend_id: str | None = None, **fields: Any) -> Request:
    """Return the registration of a ComfyUI; ``fields`` are those of ``BackendFields``."""
    body = _backend_body(url=url, backend_id=backend_id, **fields)
    return Request("POST", _path("backends"), body=body)


def update_backend(backend_id: str, *, url: str | None = None, **fields: Any) -> Request:
    """Return a change of a backend; what is not named, or None, stays."""
    body = _backend_body(url=url, **fields)
    return Request("PATCH", _path("backends", backend_id), body=body, repeatable=True)


def delete_backend(backend_id: str) -> Request:
    """Return the removal of a backend."""
    return Request("DELETE", _path("backends", backend_id))


def change_hold(
    backend_id: str,
    word: str,
    *,
    now: bool | None = None,
    reason: str | None = None,
    by: str | None = None,
    minutes: int | None = None,
) -> Request:
    """Return a word about a backend (``pause``, ``drain``, …); said twice it changes nothing more."""
    said = {"now": now, "reason": reason, "by": by, "minutes": minutes}
    path = _path("backends", backend_id, word)
    return Request("POST", path, body=dump(_given(said)), repeatable=True)


def find_backends() -> Request:
    """Return the search for ComfyUIs on the Director's machine. It changes nothing."""
    return Request("POST", _path("backends", "find"), body=b"{}", repeatable=True)


def found_backends() -> Request:
    """Return the request for the ComfyUIs that discovery found."""
    return Request("GET", _path("backends", "found"), repeatable=True)


def decide_found(url: str, decision: str) -> Request:
    """Return the decision about a found ComfyUI: ``add``, ``ignore`` or ``unignore``."""
    path = _path("backends", "found", decision)
    return Request("POST", path, body=dump({"url": url}), repeatable=decision != "add")


def test_backend(url: str, headers: Mapping[str, str] | None) -> Request:
    """Return the question whether a ComfyUI answers at an address. It changes nothing."""
    body = _backend_body(url=url, headers=headers)
    return Request("POST", _path("backends", "test"), body=body, repeatable=True)


def failures(window: str) -> Request:
    """Return the request for the failures within a window."""
    return Request("GET", _path("failures"), params=(("window", window),), repeatable=True)


def workflow_from_png(content: bytes) -> Request:
    """Return the question which workflow a PNG has in it."""
    headers = {"Content-Type": "image/png"}
    path = _path("workflow-from-png")
    return Request("POST", path, body=content, headers=headers, repeatable=True)


def health() -> Request:
    """Return the health check."""
    return Request("GET", _path("health"), repeatable=True)


def stream_path(group_id: str, since: int | None) -> str:
    """Return the path of a group's event stream, resumed after event ``since`` if given."""
    path = _path("job-groups", group_id).replace("/api/", "/ws/", 1)
    return path if since is None else f"{path}?since={since}"
