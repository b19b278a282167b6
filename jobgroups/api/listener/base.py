"""Base of the views of the ComfyUI listener: ComfyUI's shape of errors, and its bodies, which need
no media type.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from backends.errors import FieldInvalid, RequestError
from jobgroups.api.listener.errors import error_body
from jobgroups.api.requests.body import PayloadTooLarge, parse
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.domain.access import Right
from jobgroups.domain.listener_records import is_prompt_id
from jobgroups.domain.prompt_sizes import MAX_PROMPT_BYTES

#: Values of a body. Python needs up to 40 bytes for a byte of short ones, and few bytes for a
#: picture as a text.
_MAX_VALUES: Final = 8_000_000


def error_response(
    status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None, **fields: Any
) -> HttpResponse:
    """Return an error in ComfyUI's shape; ``fields`` as of :func:`error_body`."""
    return json_response(error_body(kind, message, **fields), status=status, headers=headers)


class TooManyValues(RequestError, code="payload_too_large", status=413):
    text = "The body must have at most {} values."


class PromptRefused(Exception):
    """A prompt is refused as ComfyUI would refuse it; ``response`` is the answer."""

    def __init__(self, kind: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.response = error_response(400, kind, message, **fields)


class ListenerView(ApiView):
    """A path of the ComfyUI listener."""

    changes: ClassVar[Right] = Right.SUBMIT

    def get_exception_handler(self) -> Callable[[Exception, Any], HttpResponseBase | None]:
        """Return the handler that answers errors in ComfyUI's shape."""
        own: Callable[[Exception, Any], HttpResponseBase | None] = super().get_exception_handler()

        def handler(error: Exception, context: Any) -> HttpResponseBase | None:
            if isinstance(error, PromptRefused):
                return error.response
            if isinstance(error, RequestError):
                return self.refusal(error)
            return own(error, context)

        return handler

    def refusal(self, error: RequestError) -> HttpResponse:
        """Return the answer to a request with an error."""
        return error_response(error.status, error.code, error.detail, headers=error.headers)


def body_of(request: HttpRequest | Request) -> dict[str, Any]:
    """Return the JSON object in a body with any media type; ``{}`` without a body.

    Raises ``PayloadTooLarge``, ``TooManyValues``, ``InvalidJSON`` or ``InvalidRequest``.
    """
    content = request.read(MAX_PROMPT_BYTES + 1)
    if len(content) > MAX_PROMPT_BYTES:
        raise PayloadTooLarge(MAX_PROMPT_BYTES)
    if content.count(b",") > _MAX_VALUES:
        raise TooManyValues(_MAX_VALUES)
    return parse(content) if content.strip() else {}


def id_list(body: Mapping[str, Any], field: str) -> list[str]:
    """Return the ids of prompts in a field of a body, without values that are no such ids; without
    the field an empty list.

    Raises ``FieldInvalid``.
    """
    given = body.get(field) or []
    if not isinstance(given, list):
        raise FieldInvalid(field, "Must be a list of prompt ids.")
    return list(filter(is_prompt_id, given))


def encoded_response(value: object) -> HttpResponse:
    """Return an answer whose parts may be stored JSON (``msgspec.Raw``)."""
    return HttpResponse(msgspec.json.encode(value), content_type="application/json")


def empty_response() -> HttpResponse:
    """Return ComfyUI's answer to a completed request."""
    response = HttpResponse()
    del response.headers["Content-Type"]
    return response


def not_found(path: str = "") -> HttpResponse:
    """Return ComfyUI's answer for an unknown path, as a style sheet if that was requested: a browser
    logs an error for another type.
    """
    kind = "text/css" if path.endswith(".css") else "text/plain"
    return HttpResponse("404: Not Found", status=404, content_type=kind)


class UnknownPathView(ListenerView):
    """Any path that ComfyUI has and the listener has not."""

    def get(self, _request: Request, **_: Any) -> HttpResponse:
        return not_found()

    post = put = patch = delete = get
