"""Sends one request, again where that is safe, and reads the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, TypeVar, Unpack
from urllib.parse import parse_qs, urlsplit

from director.client import requests
from director.client.backends import Health
from director.client.decode import as_object, as_objects, load, parser
from director.client.errors import Unreachable, error_from_answer
from director.client.events import Event, parse_event
from director.client.groups import Group, parse_group
from director.client.requests import ListFilters
from director.client.wire import Answer, Request, Wire

T = TypeVar("T")

#: Seconds between the attempts of a request without an answer; then ``Unreachable`` is raised.
RETRY_DELAYS_S: Final = (0.2, 0.5, 1.0)


async def call(
    wire: Wire,
    request: Request,
    parse: Callable[[dict[str, Any]], T],
    *,
    timeout: float | None = None,
    delays: Sequence[float] | None = None,
) -> T:
    """Send ``request`` and return what ``parse`` makes of the JSON object in a 2xx answer.

    Raises:
        DirectorError: Any other answer, by its code; ``Unreachable`` if there is none.
    """
    return parse(load((await accepted(wire, request, timeout, delays)).content))


async def accepted(
    wire: Wire, request: Request, timeout: float | None = None, delays: Sequence[float] | None = None
) -> Answer:
    """Send ``request`` and return a 2xx answer.

    Raises:
        DirectorError: As ``call``.
    """
    answer = await _answered(wire, request, timeout, delays)
    if not 200 <= answer.status < 300:
        raise error_from_answer(answer.status, answer.content)
    return answer


async def _answered(wire: Wire, request: Request, timeout: float | None, delays: Sequence[float] | None) -> Answer:
    """Send a request until it is answered, as long as a repetition cannot do a thing twice."""
    for delay in RETRY_DELAYS_S if delays is None else delays:
        try:
            return await wire.send(request, timeout)
        except Unreachable as lost:
            if lost.maybe_received and not request.repeatable:
                raise
            await wire.sleep(delay)
    return await wire.send(request, timeout)


async def list_groups(wire: Wire, **filters: Unpack[ListFilters]) -> AsyncGenerator[Group]:
    """Yield groups, newest first. The next page is requested after the last group of a page."""
    cursor: str | None = None
    while True:
        page = await call(wire, requests.list_groups(**filters, cursor=cursor), as_object)
        for row in as_objects(page.get("results")):
            yield parse_group(row)
        cursor = _cursor(page.get("next"))
        if cursor is None:
            return


def _cursor(link: Any) -> str | None:
    """Return the cursor of a ``next`` link.

    The link itself is not followed: behind a proxy its host may be unknown on this host.
    """
    if not isinstance(link, str) or not link:
        return None
    return parse_qs(urlsplit(link).query).get("cursor", [link])[0]


async def events(wire: Wire, group_id: str, since: int) -> tuple[Event, ...]:
    """Return the stored events after ``since``, of all pages."""
    found: list[Event] = []
    while True:
        request = requests.get("job-groups", group_id, "events", since=str(since))
        page = await call(wire, request, as_object)
        batch = [parse_event(frame) for frame in as_objects(page.get("events", []))]
        found += batch
        if not batch or not page.get("next"):
            return tuple(found)
        since = max((event.seq for event in batch if event.seq is not None), default=since)


async def health(wire: Wire) -> Health:
    """Return the health; a 503 with the checks is an answer, not an error."""
    answer = await _answered(wire, requests.get("health"), None, None)
    if answer.status not in {200, 503} or b'"checks"' not in answer.content:
        raise error_from_answer(answer.status, answer.content)
    return parser(Health)(load(answer.content))


def listed(name: str, parse: Callable[[Any], T]) -> Callable[[dict[str, Any]], tuple[T, ...]]:
    """Return a parser of the objects in the array ``name`` of an answer."""
    return lambda answer: tuple(parse(entry) for entry in as_objects(answer.get(name)))


def graph(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the graph of an answer that is the graph, or wraps it as a submission does."""
    wrapped = answer.get("workflow_json")
    return wrapped if isinstance(wrapped, dict) and "class_type" not in wrapped else answer
