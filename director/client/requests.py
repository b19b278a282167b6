"""Every request to the Director: path, parameters and body."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypedDict
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the Director.

    Attributes:
        path: Below the Director's address, percent-encoded.
        body: JSON text, None for none.
        repeatable: The request may be sent again after a lost answer: that changes nothing more.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False


class SubmitOptions(TypedDict, total=False):
    """Options of a submission beside the workflow, the backends and the number of jobs.

    Attributes:
        jobs: The jobs of the pool in the place of a number, each with inputs, seed and metadata of
            its own: ``[{"parameters": {"6.text": "a cat"}, "seed": 7, "metadata": {"shot": 1}},
            …]``.
        sweep: Or the values of some inputs, ``{"axes": [{"input": "3.cfg", "values": [5, 7]},
            {"input": "seed", "count": 4}]}``: one job for each combination, or with ``"mode":
            "zip"`` for each place in the lists.
        parameters: Inputs to set in every job: ``{"steps": 20}``, ``{"3.steps": 20}`` or
            ``{"3": {"steps": 20}}``.
        seed_strategy: ``random`` (default), ``sequential``, ``fibonacci`` or ``golden_ratio``.
        base_seed: Seed of the first job, 0 … 2**53 - 1; drawn by the server if left out.
        metadata: Any JSON object up to 16 KiB; returned unchanged.
        timeout_seconds: 30 … 3600 (default 300) from the first sign of execution.
        stall_seconds: 30 … 86400 without an event of the job's prompt, instead of the default
            ``timeout_seconds``: the job may run for days. With both, each ends the job.
        retention_days: 1 … 36500 days after the end of the group until it is deleted, instead of
            the Director's setting. A group with a starred job stays.
        required_capabilities: Tags and properties that a backend must have.
        max_attempts: Maximum number of attempts of a job within a run, 1 … 10; at least 2 in the
            pool by default.
        retry_elsewhere: True or ``group``: a failed job may be retried on the other backends of its
            group; ``any``: on every online backend; False: on its own backend only. Jobs of the
            pool are always retried on any candidate.
        retry_on: Failure classes after which a job is retried; all retryable ones if left out.
        partial_outputs: ``accept`` (default): a job of which ComfyUI refuses some outputs completes
            with the others and a warning; ``fail``: its prompt is stopped and it fails.
        stop_when: ``{"completed": 4}`` or ``{"failed": 10}``: after so many jobs the others are not
            needed and are cancelled, once.
        webhook: ``{"url": "https://…", "events": ["child_failed", "group_complete"]}``: events that
            are posted there, signed (docs/webhooks.md); without ``events`` the ends of the jobs and
            of the group.
        submitter: Who submits it, up to 150 characters: a filter of the list of groups.
        name: What the group is called, up to 200 characters; else its metadata or its prompt names
            it.
        visibility: ``private`` (default), or ``shared``: where people see their own work alone,
            every account sees it.
        priority: 0 to 100 (default 50): of waiting groups, a higher one is first.
        max_running: Prompts that the group has at backends at most.
        start_after: Nothing of it is sent before this time, with a time zone.
        idempotency_key: Submissions with one key within 24 h make one group. A new key for each
            call if left out.
    """

    jobs: Sequence[Mapping[str, Any]] | None
    sweep: Mapping[str, Any] | None
    parameters: Mapping[str, Any] | None
    seed_strategy: str | None
    base_seed: int | None
    metadata: Mapping[str, Any] | None
    timeout_seconds: int | None
    stall_seconds: int | None
    retention_days: int | None
    required_capabilities: Sequence[str] | None
    max_attempts: int | None
    retry_elsewhere: bool | str | None
    retry_on: Sequence[str] | None
    partial_outputs: str | None
    stop_when: Mapping[str, int] | None
    webhook: Mapping[str, Any] | None
    submitter: str | None
    name: str | None
    visibility: str | None
    priority: int | None
    max_running: int | None
    start_after: datetime | None
    idempotency_key: str | None


class ListFilters(TypedDict, total=False):
    """Filters of ``list``.

    Attributes:
        status: A group status.
        backend: Groups with a job on this backend.
        submitter: Groups that were submitted under exactly this name.
        text: Groups of which each word is in the name, the metadata, the prompt, the id or the
            submitter, or is the seed of a job.
        archived: ``no`` (default), ``yes``: archived groups only, or ``any``.
        metadata: ``{"scene": "shot_001"}``: groups with these values in their metadata.
        created_after: Datetime with a time zone; likewise ``created_before``.
        limit: Groups per request, at most 200. All pages are read during the iteration.
    """

    status: str | None
    backend: str | None
    submitter: str | None
    text: str | None
    archived: str | None
    metadata: Mapping[str, Any] | None
    created_after: datetime | None
    created_before: datetime | None
    limit: int | None


class OutputFilters(TypedDict, total=False):
    """Filters of ``outputs``.

    Attributes:
        text: Outputs of groups that ``list`` finds by these words.
        model: Outputs of groups whose summary has exactly this model.
        kind: ``image`` or ``video``.
        size: Width and height in pixels: ``1024x768``.
        starred: ``yes``: outputs of jobs with a star; ``no``: of the others.
        group: Outputs of this group.
        submitter: Outputs of groups that were submitted under exactly this name.
        backend: Outputs that this backend made.
        completed_after: Datetime with a time zone, from which on the jobs completed; likewise
            ``completed_before``.
        limit: Outputs per request, at most 200. All pages are read during the iteration.
    """

    text: str | None
    model: str | None
    kind: str | None
    size: str | None
    starred: str | None
    group: str | None
    submitter: str | None
    backend: str | None
    completed_after: datetime | None
    completed_before: datetime | None
    limit: int | None


class RetryOptions(TypedDict, total=False):
    """Options of a retry.

    Jobs of the pool wait in the pool again, unless ``where`` is ``same`` or ``other``, or
    ``backend_id`` is set.

    Attributes:
        where: ``"same"``: on the job's own backend; ``"other"``: on another one that is online and
            has what the group requires; ``"auto"``: on another one if one can accept the job and
            the failure may not repeat there (out of memory, a missing model or node, a lost
            backend).
        backend_id: On this backend, instead of ``where``.
        retry_elsewhere: ``True`` or ``"group"``: a job may move to another backend of the group if
            necessary; ``"any"``: to any that accepts it; ``False``: to none. The group's policy, if
            none of the three is given.
        run: The run that the caller saw; a group that was retried since then is refused.
        by: The user's name, for the events.
    """

    where: str | None
    backend_id: str | None
    retry_elsewhere: bool | str | None
    run: int | None
    by: str | None


class SubmitterFields(TypedDict, total=False):
    """Fields of a submitter that an operator sets; those that are left out stay.

    Attributes:
        weight: 0.01 to 100; its share of a busy farm is in proportion.
        max_running: Prompts that its groups have at backends at most; None: any number.
        max_queued: Jobs of its groups that are queued at most; None: any number.
        paused: ``True``, ``False`` to resume, or ``{"reason", "until"}``.
    """

    weight: float
    max_running: int | None
    max_queued: int | None
    paused: bool | Mapping[str, Any]


class BackendFields(TypedDict, total=False):
    """Fields of a backend that a user sets.

    Attributes:
        name: Display name; the server derives one from the address if left out.
        tags: For ``required_capabilities``.
        enabled: False: no new jobs; running jobs finish.
        headers: Sent to this ComfyUI with every request (basic auth of a proxy …); never shown
            again.
        partner_nodes_allowed: It may get the Director's API key of Comfy.org, with workflows that
            have partner nodes.
        extensions_allowed: Scripts of its custom nodes may act as the users of ComfyUI's editor.
        hours: When it takes jobs, as ``mon-fri 19:00-07:00; sat-sun``; empty: always.
        time_zone: Of its hours, as ``Europe/Berlin``; empty: UTC.
    """

    name: str | None
    tags: Sequence[str] | None
    enabled: bool | None
    headers: Mapping[str, str] | None
    partner_nodes_allowed: bool | None
    extensions_allowed: bool | None
    hours: str | None
    time_zone: str | None


#: Fields of a body that are lists of strings.
_LISTS: Final = {"backend_ids", "job_ids", "jobs", "required_capabilities", "retry_on", "tags"}


def _path(*segments: str) -> str:
    """Return ``/api/…`` with each segment encoded.

    An empty segment would be the path of the collection, and HTTP clients and proxies would resolve
    a segment of dots.
    """
    if not all(segments):
        raise ValueError("An id is never empty.")
    encoded = (quote(segment, safe="", errors="replace") for segment in segments)
    return "/api/" + "/".join(s.replace(".", "%2E") if s in {".", ".."} else s for s in encoded)


def get(*segments: str, **params: Any) -> Request:
    """Return a request that reads ``/api/…``, with those ``params`` that are not None."""
    texts = (
        (name, moment(value) if isinstance(value, datetime) else str(value))
        for name, value in params.items()
        if value is not None
    )
    return Request("GET", _path(*segments), params=tuple(texts), repeatable=True)


def delete(*segments: str) -> Request:
    """Return a request that cancels or removes.

    It is not repeated after a lost answer: the second answer to a cancellation would not count the
    jobs that the first one cancelled.
    """
    return Request("DELETE", _path(*segments))


def check_options(allowed: type, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``options``; raise ``TypeError`` if one is not allowed."""
    if unknown := options.keys() - allowed.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    return options


def post(
    *segments: str,
    method: str = "POST",
    repeatable: bool = True,
    nullable: Collection[str] = (),
    **fields: Any,
) -> Request:
    """Return a request whose body has all ``fields`` that are not None, and the ``nullable`` ones.

    Raises ``TypeError`` if one string is given for a list of strings, and ``ValueError`` for a NaN
    or an infinity, which JSON does not have.
    """
    fields = {k: v for k, v in fields.items() if v is not None or k in nullable}
    for name in _LISTS & fields.keys():
        # A string is a sequence of strings, too: "localhost_8188" would mean 14 backends.
        if isinstance(fields[name], str):
            raise TypeError(f"{name} is a list of strings, not one string.")
        fields[name] = list(fields[name])
    body = _dump(fields).encode("ascii")
    return Request(method, _path(*segments), body=body, repeatable=repeatable)


def _dump(value: Any) -> str:
    """Return ``value`` as JSON text in ASCII.

    A lone surrogate then reaches the server, whose 400 names it, and causes no encoding error here.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_text_of_time)


def _text_of_time(value: object) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    raise TypeError(f"{value!r} has no form in JSON; a time needs a time zone.")


def submit(
    workflow: Mapping[str, Any],
    backend_ids: Sequence[str] | None,
    *,
    count: int | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> Request:
    """Return the submission of a group; safe to repeat, since it has an idempotency key.

    Without ``backend_ids`` its jobs go to the pool of all backends; one job without ``count``,
    ``jobs`` and ``sweep``.
    """
    if backend_ids is None:
        backend_ids = ["*"]
        if options.get("jobs") is None and options.get("sweep") is None:
            count = 1 if count is None else count
    fields: dict[str, Any] = {"workflow_json": workflow, "backend_ids": backend_ids, "count": count}
    key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    request = post("job-group", **fields, **check_options(SubmitOptions, options))
    return replace(request, headers={"Idempotency-Key": key})


def plan(workflow: Mapping[str, Any], backend_ids: Sequence[str] | None, **options: Any) -> Request:
    """Return the request for the plan of a submission; arguments as of :func:`submit`."""
    return replace(
        submit(workflow, backend_ids, **options), path=_path("job-groups", "plan"), headers={}
    )


def moment(value: datetime) -> str:
    """Return a time as the API takes it. Raises ``ValueError`` without a time zone."""
    if value.tzinfo is None:
        raise ValueError("A datetime without a time zone could be any of 24 moments.")
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def list_groups(*, cursor: str | None = None, **filters: Any) -> Request:
    """Return the request for one page of groups, newest first; ``filters`` as in ``ListFilters``."""
    params = {**check_options(ListFilters, filters), "cursor": cursor}
    for name, value in (params.pop("metadata", None) or {}).items():
        params[f"metadata.{name}"] = value if isinstance(value, str) else _dump(value)
    return get("job-groups", **params)


def list_outputs(*, cursor: str | None = None, **filters: Any) -> Request:
    """Return the request for one page of outputs, newest first; ``filters`` as in
    ``OutputFilters``.
    """
    return get("outputs", **check_options(OutputFilters, filters), cursor=cursor)


def stream_path(group_id: str, since: int | None) -> str:
    """Return the path of a group's event stream, resumed after event ``since`` if given."""
    path = _path("job-groups", group_id).replace("/api/", "/ws/", 1)
    return path if since is None else f"{path}?since={since}"
