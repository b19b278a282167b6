"""Sends one request, again where that is safe, and reads the answer; delays during an outage."""

import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx

from director.client import requests
from director.client.decode import as_object, as_objects, load, parser
from director.client.errors import DirectorError, Unreachable, error_from_answer
from director.client.events import parse_event
from director.client.requests import Request
from director.client.wire import Wire
from jobgroups.domain.shapes.backends import Health
from jobgroups.domain.shapes.events import Event

T = TypeVar("T")

#: Seconds between the attempts of a request without an answer; then ``Unreachable`` is raised.
RETRY_DELAYS_S: Final = (0.2, 0.5, 1.0)
#: Seconds between the connections of a stream or a wait.
FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
#: The longest time for which a token is refused that has sent too many requests
#: (``DIRECTOR_REQUESTS_PER_MINUTE``).
LONGEST_LIMIT_S: Final = 60.0
#: Random, so that the clients of a restarted server do not reconnect at the same moment.
_jitter: Final = secrets.SystemRandom()


class Outage:
    """Consecutive failures, until the first success.

    After ``give_up_seconds`` (None: never) the error is raised. ``clock`` returns monotonic
    seconds.
    """

    def __init__(
        self, give_up_seconds: float | None = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._give_up_seconds = give_up_seconds
        self._clock = clock
        self._since: float | None = None
        self._delay = FIRST_DELAY_S

    def delay(self, error: DirectorError) -> float:
        """Record a failure; return the seconds to wait before the next connection: doubled each
        time, with jitter.

        Raises the error after ``give_up_seconds``.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
        if self._give_up_seconds is not None and now - self._since >= self._give_up_seconds:
            raise error
        delay = self._delay
        self._delay = min(delay * 2, LONGEST_DELAY_S)
        return delay * _jitter.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Record a success."""
        self._since = None
        self._delay = FIRST_DELAY_S


async def call(wire: Wire, request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
    """Send ``request`` and return what ``parse`` makes of the JSON object in a 2xx answer.

    Raises the ``DirectorError`` of any other answer, by its code; ``Unreachable`` if there is none.
    """
    return parse(load((await send_accepted(wire, request)).content))


class Endpoints:
    """Base class of the objects whose methods send requests."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def _call(self, request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
        return await call(self._wire, request, parse)

    async def _read(self, kind: type[T], request: Request) -> T:
        return await self._call(request, parser(kind))

    async def _read_all(self, kind: type[T], name: str, request: Request) -> tuple[T, ...]:
        parse = parser(kind)
        return await self._call(
            request, lambda answer: tuple(parse(entry) for entry in as_objects(answer.get(name)))
        )


async def send_accepted(wire: Wire, request: Request) -> httpx.Response:
    """Send ``request`` and return a 2xx answer; see ``call``."""

    async def send() -> httpx.Response:
        return success(await wire.send(request))

    return await repeat(wire, send, anyway=request.repeatable)


def success(answer: httpx.Response) -> httpx.Response:
    """Return a 2xx answer; raise the ``DirectorError`` of any other, by its code."""
    if not answer.is_success:
        raise error_from_answer(answer.status_code, answer.content, answer.headers)
    return answer


async def repeat(wire: Wire, send: Callable[[], Awaitable[T]], *, anyway: bool = True) -> T:
    """Return the result of ``send``, as ``repeat_unreachable``; it is also called again after a
    refusal that ends by itself.
    """
    for _ in RETRY_DELAYS_S:
        try:
            return await repeat_unreachable(wire, send, anyway=anyway)
        except DirectorError as refused:
            delay = _retry_after(refused, anyway=anyway)
            if delay is None:
                raise
            await wire.sleep(delay)
    return await repeat_unreachable(wire, send, anyway=anyway)


def _retry_after(refused: DirectorError, *, anyway: bool) -> float | None:
    """Return the seconds after which a request is sent again that the Director cannot do now; None:
    it is not.

    ``anyway`` as of ``repeat_unreachable``: an overloaded Director, or one that has refused the
    token for a while, has not begun it.
    """
    is_limited = refused.status == 429 and refused.code == "too_many_requests"
    if refused.status != 503 and not is_limited:
        return None
    longest = LONGEST_LIMIT_S if is_limited else LONGEST_DELAY_S
    if refused.retry_after is None or refused.retry_after > longest:
        return None
    return refused.retry_after if anyway or is_limited or refused.code == "overloaded" else None


async def repeat_unreachable(
    wire: Wire, send: Callable[[], Awaitable[T]], *, anyway: bool = True
) -> T:
    """Return the result of ``send``, which is called again after ``Unreachable``: four times in
    all.

    ``anyway`` False: not if the server may have acted on the request, which would then do a thing
    twice.
    """
    for delay in RETRY_DELAYS_S:
        try:
            return await send()
        except Unreachable as lost:
            if lost.maybe_received and not anyway:
                raise
            await wire.sleep(delay)
    return await send()


async def pages(
    wire: Wire,
    request: Callable[..., Request],
    parse: Callable[[Any], T],
    *,
    rows: str = "results",
    link: str = "next",
    cursor: str = "cursor",
    after: str | None = None,
) -> AsyncGenerator[T]:
    """Yield the entries of a list, those after ``after``. The next page is requested after the last
    entry of a page.

    ``rows`` and ``link`` are the fields of an answer with its entries and the URL of the next page,
    ``cursor`` is the parameter of that URL. The URL itself is not followed: behind a proxy its host
    may be unknown on this host.
    """
    while True:
        page = await call(wire, request(**{cursor: after}), as_object)
        for row in as_objects(page.get(rows)):
            yield parse(row)
        following = page.get(link)
        if not isinstance(following, str) or not following:
            return
        after = parse_qs(urlsplit(following).query).get(cursor, [following])[0]


def children(
    wire: Wire, group_id: str, parse: Callable[[Any], T], limit: int = 200
) -> AsyncGenerator[T]:
    """Yield the jobs of a group, ``limit`` in a request."""
    request = partial(requests.get, "job-groups", group_id, limit=limit)
    return pages(
        wire, request, parse, rows="child_jobs", link="children_next", cursor="children_after"
    )


async def whole(wire: Wire, group: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON object of a group with all its jobs: those of a large group are read page by
    page.
    """
    if not group.get("children_next"):
        return group
    jobs = [job async for job in children(wire, str(group.get("job_group_id")), as_object)]
    return {**group, "child_jobs": jobs, "children_next": None}


def events(wire: Wire, group_id: str, since: int) -> AsyncGenerator[Event]:
    """Yield the stored events after ``since``."""
    request = partial(requests.get, "job-groups", group_id, "events")
    return pages(wire, request, parse_event, rows="events", cursor="since", after=str(since))


async def health(wire: Wire) -> Health:
    """Return the health; a 503 with the checks is an answer, not an error."""

    async def send() -> httpx.Response:
        answer = await wire.send(requests.get("health"))
        has_checks = answer.status_code in {200, 503} and b'"checks"' in answer.content
        if not has_checks:
            raise error_from_answer(answer.status_code, answer.content, answer.headers)
        return answer

    answer = await repeat(wire, send)
    return parser(Health)(load(answer.content))
