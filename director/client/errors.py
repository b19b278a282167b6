"""The errors of the client, one class per condition.

    DirectorError
    ├── BadRequest            400, with ``errors`` for single fields
    │   ├── NoOnlineBackends  none of the named backends can take work; ``skipped_backends`` says why
    │   └── TooManyChildren   more backend ids than one group may have
    ├── NotAllowed            401, 403
    ├── NotFound              404
    │   ├── GroupNotFound
    │   ├── JobNotFound
    │   └── BackendNotFound
    ├── Conflict              409
    │   ├── IdempotencyConflict  the key was used with another body
    │   ├── BackendInUse
    │   ├── GroupNotFinished     a retry of a group that has not ended
    │   ├── RunPassed            the group was retried since then
    │   ├── NothingToRetry       no job in it failed
    │   ├── JobCompleted         a job that is to be retried has its result
    │   ├── JobNotFailed         a retry of a job that has not failed, while its group runs
    │   ├── JobNotWaiting        a move of a job that runs or has ended
    │   ├── NoOtherBackend       a retry on another backend, and there is none
    │   └── BackendUnavailable   its backend accepts no work, and the job may not move
    ├── PayloadTooLarge       413
    ├── TooManyRequests       429
    ├── ServerFault           500 and every other 5xx but 503
    ├── Unavailable           503
    │   └── RunnerAbsent      no runner is alive; nothing was stored
    ├── UnexpectedAnswer      an answer that is not the Director's (a proxy's page)
    ├── Unreachable           no answer: refused, timed out, connection lost
    │   └── StreamClosed      the event stream ended before the group did
    └── WaitTimeout           ``wait`` ran out of time; also a ``TimeoutError``

The class depends on the ``code`` of the error body, and on the status if this version does not have the
code. ``detail`` is always the server's sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class FieldError:
    """The error of one field of a request."""

    field: str
    message: str


class DirectorError(Exception):
    """Base class of the client's errors.

    Attributes:
        detail: One sentence for a user.
        status: HTTP status, None without an HTTP answer.
        code: Stable name from the error body, None without one.
        errors: The errors of single fields.
        body: The whole error body, ``{}`` if it was no JSON object.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.errors = tuple(errors)
        self.body: dict[str, Any] = dict(body or {})

    @property
    def transient(self) -> bool:
        """Return whether the same call may succeed later without a change."""
        return self.status is not None and (self.status >= 500 or self.status == 429)

    def __str__(self) -> str:
        said = [_ended(f"{error.field}: {error.message}") for error in self.errors]
        # The server's own sentence begins with its first field error.
        repeated = bool(said) and _ended(self.detail).startswith(said[0])
        return " ".join(dict.fromkeys(said if repeated else [_ended(self.detail), *said]))


def _ended(sentence: str) -> str:
    """Return a sentence with its full stop, so that another can follow."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


class BadRequest(DirectorError):
    """The request is wrong; nothing was stored."""


class NoOnlineBackends(BadRequest):
    """None of the named backends can accept a job now."""

    @property
    def skipped_backends(self) -> tuple[tuple[str, str], ...]:
        """Return ``(backend_id, reason)`` of every backend that was named."""
        skipped = self.body.get("skipped_backends")
        entries = skipped if isinstance(skipped, list) else []
        objects = [entry for entry in entries if isinstance(entry, dict)]
        return tuple((str(e.get("backend_id")), str(e.get("reason"))) for e in objects)

    def __str__(self) -> str:
        reasons = [_ended(f"{name}: {reason}") for name, reason in self.skipped_backends]
        return " ".join([super().__str__(), *dict.fromkeys(reasons)])


class TooManyChildren(BadRequest):
    """More backend ids than one group may have."""


class NotAllowed(DirectorError):
    """The token is missing, wrong, or not sufficient."""


class NotFound(DirectorError):
    """The named object does not exist."""


class GroupNotFound(NotFound):
    """No group has this id."""


class JobNotFound(NotFound):
    """The group has no job with this id."""


class BackendNotFound(NotFound):
    """No backend has this id."""


class Conflict(DirectorError):
    """The request is valid, but not in the current state."""


class IdempotencyConflict(Conflict):
    """The idempotency key was used within 24 h with another body."""


class BackendInUse(Conflict):
    """The backend has jobs that are not final."""


class GroupNotFinished(Conflict):
    """The group has not ended: wait for its end, or cancel it."""


class RunPassed(Conflict):
    """The group is not in the run that the caller saw: it was retried since then."""


class NothingToRetry(Conflict):
    """No job in the group failed or timed out."""


class JobCompleted(Conflict):
    """A job that is to be retried has its result."""


class JobNotFailed(Conflict):
    """The group has not ended: until then only a job that failed or timed out can be retried."""


class JobNotWaiting(Conflict):
    """The job runs or has ended: only a queued job can be moved."""


class NoOtherBackend(Conflict):
    """A job is to be retried on another backend, and none can accept it now."""


class BackendUnavailable(Conflict):
    """A job's backend accepts no work now, and the job may not move, or no other backend is online."""


class PayloadTooLarge(DirectorError):
    """The request's body is above the server's limit."""


class TooManyRequests(DirectorError):
    """Too many requests; try again later."""


class ServerFault(DirectorError):
    """An error of the server that the caller did not cause."""


class Unavailable(DirectorError):
    """The server cannot do this now."""


class RunnerAbsent(Unavailable):
    """No runner is alive; nothing was stored."""


class UnexpectedAnswer(DirectorError):
    """The answer is not a Director's; is this its address?"""


class Unreachable(DirectorError):
    """There was no answer.

    Attributes:
        maybe_received: Whether the server may have acted on the request. False only if there was no
            connection.
    """

    def __init__(self, detail: str, *, maybe_received: bool = True) -> None:
        super().__init__(detail)
        self.maybe_received = maybe_received

    @property
    def transient(self) -> bool:
        """Return True: the server may come back."""
        return True


class StreamClosed(Unreachable):
    """The event stream ended before the group did.

    Attributes:
        close_code: The WebSocket's close code: 4012 the server shuts down, 4008 this client read
            too slowly, 1006 the connection was lost.
    """

    def __init__(self, close_code: int) -> None:
        super().__init__(f"The event stream was closed ({close_code}).")
        self.close_code = close_code


class WaitTimeout(DirectorError, TimeoutError):
    """The group had not ended in time. It continues; wait again, or cancel it."""


_BY_CODE: Final[dict[str, type[DirectorError]]] = {
    "no_online_backends": NoOnlineBackends,
    "too_many_children": TooManyChildren,
    "group_not_found": GroupNotFound,
    "job_not_found": JobNotFound,
    "backend_not_found": BackendNotFound,
    "idempotency_conflict": IdempotencyConflict,
    "backend_in_use": BackendInUse,
    "group_not_finished": GroupNotFinished,
    "run_passed": RunPassed,
    "nothing_to_retry": NothingToRetry,
    "job_completed": JobCompleted,
    "job_not_failed": JobNotFailed,
    "job_not_waiting": JobNotWaiting,
    "no_other_backend": NoOtherBackend,
    "backend_unavailable": BackendUnavailable,
    "runner_absent": RunnerAbsent,
}

_BY_STATUS: Final[dict[int, type[DirectorError]]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    413: PayloadTooLarge,
    429: TooManyRequests,
    503: Unavailable,
}


def _class_for(status: int | None, code: str | None) -> type[DirectorError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status is None or 400 <= status < 500:
        return DirectorError
    return ServerFault if status >= 500 else UnexpectedAnswer


def _field_errors(body: Mapping[str, Any]) -> list[FieldError]:
    listed = body.get("errors")
    entries = listed if isinstance(listed, list) else []
    return [
        FieldError(str(entry.get("field", "")), str(entry.get("message", "")))
        for entry in entries
        if isinstance(entry, dict)
    ]


def error_from_body(body: Mapping[str, Any], *, status: int | None) -> DirectorError:
    """Return the error that a JSON body ``{"detail", "code", "errors"?}`` describes.

    Args:
        body: An HTTP error body, or an ``error`` frame of the event stream.
        status: HTTP status; None for a frame.
    """
    code = body.get("code")
    code = code if isinstance(code, str) else None
    detail = body.get("detail")
    if not isinstance(detail, str):
        detail = f"The server answered {status} without a reason."
    kind = _class_for(status, code)
    return kind(detail, status=status, code=code, errors=_field_errors(body), body=body)


def error_from_answer(status: int, content: bytes) -> DirectorError:
    """Return the error that an HTTP answer other than a success describes; never raises."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    return error_from_body(body if isinstance(body, dict) else {}, status=status)
