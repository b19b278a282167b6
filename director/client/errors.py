"""The errors of the client: one class for each status, whose ``code`` names the condition
(docs/api.md, "Error codes").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
        skipped_backends: ``(backend_id, reason)`` of each backend that cannot take a job
            (``no_online_backends``).
        body: The whole error body, ``{}`` if it was no JSON object.
        retry_after: Seconds after which the same call may succeed, None if the answer names none.
    """

    _is_transient = False
    retry_after: float | None = None

    def __init__(
        self, detail: str, *, status: int | None = None, body: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.body: dict[str, Any] = dict(body or {})
        code = self.body.get("code")
        self.code = code if isinstance(code, str) else None
        self.errors = tuple(
            FieldError(str(entry.get("field", "")), str(entry.get("message", "")))
            for entry in self._objects("errors")
        )
        self.skipped_backends = tuple(
            (str(entry.get("backend_id")), str(entry.get("reason")))
            for entry in self._objects("skipped_backends")
        )

    def _objects(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in an array of the body; of another form, none."""
        entries = self.body.get(name)
        entries = entries if isinstance(entries, list) else []
        return [entry for entry in entries if isinstance(entry, dict)]

    @property
    def transient(self) -> bool:
        """Return whether the same call may succeed later without a change."""
        status = self.status or 0
        return self._is_transient or status >= 500 or status == 429

    def __str__(self) -> str:
        sentences = [_with_period(f"{error.field}: {error.message}") for error in self.errors]
        # The server's own sentence begins with its first field error.
        repeated = bool(sentences) and _with_period(self.detail).startswith(sentences[0])
        reasons = [_with_period(f"{name}: {reason}") for name, reason in self.skipped_backends]
        return " ".join(
            dict.fromkeys(
                [*(() if repeated else (_with_period(self.detail),)), *sentences, *reasons]
            )
        )


def _with_period(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


class BadRequest(DirectorError):
    """The request is wrong; nothing was stored."""


class NotAllowed(DirectorError):
    """The token is missing, wrong, or not sufficient."""


class NotFound(DirectorError):
    """The named object does not exist."""


class Conflict(DirectorError):
    """The request is valid, but not in the current state."""


class PayloadTooLarge(DirectorError):
    """The request's body is above the server's limit."""


class TooManyRequests(DirectorError):
    """Too many requests; try again later."""


class ServerFault(DirectorError):
    """An error of the server that the caller did not cause."""


class Unavailable(DirectorError):
    """The server cannot do this now."""


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


_BY_STATUS: Final = {
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


def _class_for(status: int | None) -> type[DirectorError]:
    if status is None or 400 <= status < 500:
        return _BY_STATUS.get(status or 0, DirectorError)
    return _BY_STATUS.get(status, ServerFault if status >= 500 else UnexpectedAnswer)


def error_from_body(body: Mapping[str, Any], *, status: int | None) -> DirectorError:
    """Return the error that a JSON body ``{"detail", "code", "errors"?}`` describes.

    ``body`` is an HTTP error body, or an ``error`` frame of the event stream, which has no
    ``status``.
    """
    detail = body.get("detail")
    if not isinstance(detail, str):
        detail = f"The server answered {status} without a reason."
    return _class_for(status)(detail, status=status, body=body)


def error_from_answer(
    status: int, content: bytes | bytearray, headers: Mapping[str, str] = MappingProxyType({})
) -> DirectorError:
    """Return the error that an HTTP answer other than a success describes; never raises."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    error = error_from_body(body if isinstance(body, dict) else {}, status=status)
    seconds = headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", seconds):
        error.retry_after = float(seconds)
    return error
