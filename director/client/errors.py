"""The errors of the client, one class per condition.

The class depends on the ``code`` of the error body, and on the status if this version does not have the
code.
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


_BY_CODE: Final[dict[str, type[DirectorError]]] = {}
_BY_STATUS: Final[dict[int, type[DirectorError]]] = {}


class DirectorError(Exception):
    """Base class of the client's errors.

    Attributes:
        detail: One sentence for a user.
        status: HTTP status, None without an HTTP answer.
        code: Stable name from the error body, None without one.
        errors: The errors of single fields.
        body: The whole error body, ``{}`` if it was no JSON object.
    """

    _is_transient = False

    def __init_subclass__(cls, code: str | None = None, statuses: Sequence[int] = ()) -> None:
        if code is not None:
            _BY_CODE[code] = cls
        _BY_STATUS.update(dict.fromkeys(statuses, cls))

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
        status = self.status or 0
        return self._is_transient or status >= 500 or status == 429

    def __str__(self) -> str:
        said = [_ended(f"{error.field}: {error.message}") for error in self.errors]
        # The server's own sentence begins with its first field error.
        repeated = bool(said) and _ended(self.detail).startswith(said[0])
        return " ".join(dict.fromkeys(said if repeated else [_ended(self.detail), *said]))


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


class BadRequest(DirectorError, statuses=(400,)):
    """The request is wrong; nothing was stored."""


class NoOnlineBackends(BadRequest, code="no_online_backends"):
    """None of the named backends can accept a job now."""

    @property
    def skipped_backends(self) -> tuple[tuple[str, str], ...]:
        """Return ``(backend_id, reason)`` of every backend that was named."""
        entries = _objects(self.body, "skipped_backends")
        return tuple((str(e.get("backend_id")), str(e.get("reason"))) for e in entries)

    def __str__(self) -> str:
        reasons = [_ended(f"{name}: {reason}") for name, reason in self.skipped_backends]
        return " ".join([super().__str__(), *dict.fromkeys(reasons)])


class TooManyChildren(BadRequest, code="too_many_children"):
    """More backend ids than one group may have."""


class NotAllowed(DirectorError, statuses=(401, 403)):
    """The token is missing, wrong, or not sufficient."""


class NotFound(DirectorError, statuses=(404, 410)):
    """The named object does not exist."""


class GroupNotFound(NotFound, code="group_not_found"):
    """No group has this id."""


class JobNotFound(NotFound, code="job_not_found"):
    """The group has no job with this id."""


class BackendNotFound(NotFound, code="backend_not_found"):
    """No backend has this id."""


class Conflict(DirectorError, statuses=(409,)):
    """The request is valid, but not in the current state."""


class IdempotencyConflict(Conflict, code="idempotency_conflict"):
    """The idempotency key was used within 24 h with another body."""


class BackendInUse(Conflict, code="backend_in_use"):
    """The backend has jobs that are not final."""


class GroupNotFinished(Conflict, code="group_not_finished"):
    """The group has not ended: wait for its end, or cancel it."""


class RunPassed(Conflict, code="run_passed"):
    """The group is not in the run that the caller saw: it was retried since then."""


class NothingToRetry(Conflict, code="nothing_to_retry"):
    """No job in the group failed or timed out."""


class JobCompleted(Conflict, code="job_completed"):
    """A job that is to be retried has its result."""


class JobNotFailed(Conflict, code="job_not_failed"):
    """The group has not ended: until then only a job that failed or timed out can be retried."""


class JobNotWaiting(Conflict, code="job_not_waiting"):
    """The job runs or has ended: only a queued job can be moved."""


class NoOtherBackend(Conflict, code="no_other_backend"):
    """A job is to be retried on another backend, and none can accept it now."""


class BackendUnavailable(Conflict, code="backend_unavailable"):
    """A job's backend accepts no work now, and the job may not move, or no other backend is online."""


class PayloadTooLarge(DirectorError, statuses=(413,)):
    """The request's body is above the server's limit."""


class TooManyRequests(DirectorError, statuses=(429,)):
    """Too many requests; try again later."""


class ServerFault(DirectorError):
    """An error of the server that the caller did not cause."""


class Unavailable(DirectorError, statuses=(503,)):
    """The server cannot do this now."""


class RunnerAbsent(Unavailable, code="runner_absent"):
    """No runner is alive; nothing was stored."""


class UnexpectedAnswer(DirectorError):
    """The answer is not a Director's; is this its address?"""


class Unreachable(DirectorError):
    """There was no answer.

    Attributes:
        maybe_received: Whether the server may have acted on the request. False only if there was no
            connection.
    """

    _is_transient = True

    def __init__(self, detail: str, *, maybe_received: bool = True) -> None:
        super().__init__(detail)
        self.maybe_received = maybe_received


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


def _class_for(status: int | None, code: str | None) -> type[DirectorError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status is None or 400 <= status < 500:
        return DirectorError
    return ServerFault if status >= 500 else UnexpectedAnswer


def _objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects in an array of an error body; of another form, none."""
    entries = body.get(name)
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def error_from_body(body: Mapping[str, Any], *, status: int | None) -> DirectorError:
    """Return the error that a JSON body ``{"detail", "code", "errors"?}`` describes.

    ``body`` is an HTTP error body, or an ``error`` frame of the event stream, which has no ``status``.
    """
    code = body.get("code")
    code = code if isinstance(code, str) else None
    detail = body.get("detail")
    if not isinstance(detail, str):
        detail = f"The server answered {status} without a reason."
    errors = [
        FieldError(str(entry.get("field", "")), str(entry.get("message", ""))) for entry in _objects(body, "errors")
    ]
    return _class_for(status, code)(detail, status=status, code=code, errors=errors, body=body)


def error_from_answer(status: int, content: bytes | bytearray) -> DirectorError:
    """Return the error that an HTTP answer other than a success describes; never raises."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    return error_from_body(body if isinstance(body, dict) else {}, status=status)
