"""One flow for each plain call: send, send again where that is safe, and read the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, Unpack
from urllib.parse import parse_qs, urlsplit

from director.client import requests
from director.client.backends import (
    Backend,
    Found,
    Health,
    parse_backend,
    parse_found,
    parse_health,
)
from director.client.decode import as_object, as_objects, load
from director.client.errors import Unreachable, error_from_answer
from director.client.events import Event, parse_event
from director.client.failures import Failures, parse_failures
from director.client.groups import (
    CancelResult,
    Child,
    Group,
    MoveResult,
    RetryResult,
    parse_cancel,
    parse_child,
    parse_group,
    parse_move,
    parse_retry,
)
from director.client.requests import BackendFields, ListFilters, RetryOptions, SubmitOptions
from director.client.steps import Answer, Emit, Flow, Pause, Request, Send

T = TypeVar("T")

#: Seconds between the tries of a request that got no answer; then the caller is told.
RETRY_DELAYS_S: Final = (0.2, 0.5, 1.0)


def call(
    request: Request,
    parse: Callable[[Answer], T],
    *,
    timeout: float | None = None,
    delays: Sequence[float] = RETRY_DELAYS_S,
) -> Flow[T]:
    """Send ``request`` and return what ``parse`` makes of a 2xx answer.

    Raises:
        DirectorError: Any other answer, by its code; ``Unreachable`` where none came.
    """
    answer = yield from _answered(request, timeout, delays)
    if not 200 <= answer.status < 300:
        raise error_from_answer(answer.status, answer.content)
    return parse(answer)


def _answered(request: Request, timeout: float | None, delays: Sequence[float]) -> Flow[Answer]:
    """Try until an answer comes, as long as trying again cannot do a thing twice."""
    for delay in delays:
        try:
            answer: Answer = yield Send(request, timeout)
        except Unreachable as lost:
            if lost.maybe_received and not request.repeatable:
                raise
            yield Pause(delay)
        else:
            return answer
    last: Answer = yield Send(request, timeout)
    return last


def _json(parse: Callable[[Any], T]) -> Callable[[Answer], T]:
    return lambda answer: parse(load(answer.content))


def submit(
    workflow: Mapping[str, Any], backend_ids: Sequence[str], **options: Unpack[SubmitOptions]
) -> Flow[Group]:
    """Submit a group; a lost answer is asked for again under the same key."""
    return call(requests.submit(workflow, backend_ids, **options), _submitted)


def _submitted(answer: Answer) -> Group:
    replayed = answer.headers.get("idempotency-replayed", "").lower() == "true"
    return parse_group(load(answer.content), replayed=replayed)


def status(
    group_id: str, *, timeout: float | None = None, delays: Sequence[float] = RETRY_DELAYS_S
) -> Flow[Group]:
    """Read a group with its children."""
    request = requests.status(group_id)
    return call(request, _json(parse_group), timeout=timeout, delays=delays)


def list_groups(**filters: Unpack[ListFilters]) -> Flow[None]:
    """Emit groups, newest first, asking for the next page when the last one is used up."""
    cursor: str | None = None
    while True:
        page = yield from call(requests.list_groups(**filters, cursor=cursor), _json(as_object))
        for row in as_objects(page.get("results")):
            yield Emit(parse_group(row))
        cursor = _cursor(page.get("next"))
        if cursor is None:
            return


def _cursor(link: Any) -> str | None:
    """Return the cursor of a ``next`` link.

    The link itself is not followed: behind a proxy its host need not be the one we know.
    """
    if not isinstance(link, str) or not link:
        return None
    return parse_qs(urlsplit(link).query).get("cursor", [link])[0]


def workflow(group_id: str) -> Flow[dict[str, Any]]:
    """Read the workflow as it was submitted."""
    return call(requests.workflow(group_id), _json(_graph))


def _graph(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the graph, whether the answer is it or wraps it as a submission does."""
    wrapped = answer.get("workflow_json")
    return wrapped if isinstance(wrapped, dict) and "class_type" not in wrapped else answer


def events(group_id: str, since: int) -> Flow[tuple[Event, ...]]:
    """Read the stored events after ``since``, over as many pages as there are."""
    found: list[Event] = []
    while True:
        page = yield from call(requests.events(group_id, since), _json(as_object))
        batch = [parse_event(frame) for frame in as_objects(page.get("events", []))]
        found += batch
        if not batch or not page.get("next"):
            return tuple(found)
        since = max((event.seq for event in batch if event.seq is not None), default=since)


def job(group_id: str, job_id: str) -> Flow[Child]:
    """Read one child with its attempts."""
    return call(requests.job(group_id, job_id), _json(parse_child))


def cancel(group_id: str) -> Flow[CancelResult]:
    """Cancel what is not final in a group."""
    return call(requests.cancel(group_id), _json(parse_cancel))


def cancel_job(group_id: str, job_id: str) -> Flow[CancelResult]:
    """Cancel one child."""
    return call(requests.cancel_job(group_id, job_id), _json(parse_cancel))


def retry(
    group_id: str, job_ids: Sequence[str] | None, **options: Unpack[RetryOptions]
) -> Flow[RetryResult]:
    """Open the next run of a group that has ended."""
    request = requests.retry(group_id, job_ids=job_ids, **options)
    return call(request, _json(parse_retry))


def retry_job(group_id: str, job_id: str, **options: Unpack[RetryOptions]) -> Flow[RetryResult]:
    """Queue one child again, within its group's run or in the next one."""
    return call(requests.retry_job(group_id, job_id, **options), _json(parse_retry))


def move(group_id: str, job_id: str, backend_id: str, *, by: str | None) -> Flow[MoveResult]:
    """Bind a child that waits to another backend."""
    return call(requests.move(group_id, job_id, backend_id, by=by), _json(parse_move))


def backends() -> Flow[tuple[Backend, ...]]:
    """Read all backends."""
    return call(requests.backends(), _json(_backend_list))


def _backend_list(answer: dict[str, Any]) -> tuple[Backend, ...]:
    return tuple(parse_backend(entry) for entry in as_objects(answer.get("backends")))


def backend(backend_id: str) -> Flow[Backend]:
    """Read one backend."""
    return call(requests.backend(backend_id), _json(parse_backend))


def add_backend(
    url: str, *, backend_id: str | None = None, **fields: Unpack[BackendFields]
) -> Flow[Backend]:
    """Register a ComfyUI."""
    return call(requests.add_backend(url, backend_id=backend_id, **fields), _json(parse_backend))


def update_backend(
    backend_id: str, *, url: str | None = None, **fields: Unpack[BackendFields]
) -> Flow[Backend]:
    """Change a backend."""
    return call(requests.update_backend(backend_id, url=url, **fields), _json(parse_backend))


def delete_backend(backend_id: str) -> Flow[None]:
    """Remove a backend."""
    return call(requests.delete_backend(backend_id), lambda _answer: None)


def tell_backend(
    backend_id: str,
    word: str,
    *,
    now: bool | None = None,
    reason: str | None = None,
    by: str | None = None,
    minutes: int | None = None,
) -> Flow[Backend]:
    """Pause, drain, resume, quarantine or release a backend."""
    request = requests.tell_backend(
        backend_id, word, now=now, reason=reason, by=by, minutes=minutes
    )
    return call(request, _json(parse_backend))


def find_backends() -> Flow[tuple[Found, ...]]:
    """Look for ComfyUIs on the Director's machine."""
    return call(requests.find_backends(), _json(_found_list))


def _found_list(answer: dict[str, Any]) -> tuple[Found, ...]:
    return tuple(parse_found(entry) for entry in as_objects(answer.get("found")))


def found_backends() -> Flow[tuple[Found, ...]]:
    """Read the ComfyUIs that discovery found."""
    return call(requests.found_backends(), _json(_found_list))


def add_found_backend(url: str) -> Flow[Backend]:
    """Register a ComfyUI that discovery found."""
    return call(requests.decide_found(url, "add"), _json(parse_backend))


def ignore_backend(url: str, *, ignored: bool) -> Flow[Found]:
    """Ignore a ComfyUI that discovery found, or no longer."""
    decision = "ignore" if ignored else "unignore"
    return call(requests.decide_found(url, decision), _json(parse_found))


def test_backend(url: str, headers: Mapping[str, str] | None) -> Flow[Found]:
    """Ask an address whether a ComfyUI answers there."""
    return call(requests.test_backend(url, headers), _json(parse_found))


def failures(window: str) -> Flow[Failures]:
    """Read the failures within a window."""
    return call(requests.failures(window), _json(parse_failures))


def workflow_from_png(content: bytes) -> Flow[dict[str, Any]]:
    """Read the workflow that ComfyUI left in a PNG."""
    return call(requests.workflow_from_png(content), _json(_graph))


def health() -> Flow[Health]:
    """Read the health; a 503 that carries the checks is an answer, not an error."""
    answer = yield from _answered(requests.health(), None, RETRY_DELAYS_S)
    if answer.status not in {200, 503} or b'"checks"' not in answer.content:
        raise error_from_answer(answer.status, answer.content)
    return parse_health(load(answer.content))
