"""One shape for every error under ``/api/``: ``{"detail": "a sentence", "code": "stable_name"}``.

Below ``/api/v2/``, and at the ComfyUI listener, it is translated at last. No error repeats what the client sent.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import psycopg
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import split_domain_port
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template import loader
from django.utils.decorators import sync_and_async_middleware
from django.views import defaults
from psycopg_pool import PoolTimeout

from backends.errors import RequestError
from director.web.listener import is_listener
from director.web.middleware import middleware
from jobgroups.api.listener.errors import comfyui_error
from jobgroups.api.v2.errors import comfy_api_error, is_comfy_api
from jobgroups.database.threads import TRANSIENT

logger = logging.getLogger(__name__)

#: Seconds after which a client may retry when the database was unavailable.
_RETRY_AFTER: Final = "2"
_OUTCOME_UNKNOWN: Final = (
    "The change may or may not be stored: check it, or send the request again with the same "
    "Idempotency-Key."
)
_SILENT: Final = "The database does not answer"
#: Errors without further details: status → (code, sentence).
_PLAIN: Final[Mapping[int, tuple[str, str]]] = {
    400: ("bad_request", "The request is malformed, or its Host is not allowed here."),
    403: ("not_allowed", "The request is not allowed."),
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This path does not take this method."),
    412: ("precondition_failed", "If-Match or If-Unmodified-Since does not fit the answer."),
    413: ("payload_too_large", "The body is too long."),
    414: (
        "uri_too_long",
        "The URL is too long: with its headers, a request has at most 16 KiB before its body.",
    ),
    429: ("too_many_requests", "Too many requests; try again later."),
    431: ("headers_too_large", "The headers are too long: they have at most 16 KiB with the URL."),
    500: ("internal_error", "Internal error. The Director's log has the traceback."),
    503: ("unavailable", "The Director cannot do this now."),
}
_WRONG_HOST: Final = "This Host is not allowed; add it to DIRECTOR_ALLOWED_HOSTS."

_LONGEST_NAME: Final = 253  #: Maximum length of a DNS name.


def error_response(
    status: int,
    detail: str,
    code: str,
    *,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JsonResponse:
    """Return an error in the one shape; ``extra`` are more keys of its body."""
    body = {"detail": detail, "code": code, **(extra or {})}
    return JsonResponse(body, status=status, headers=headers)


def plain_error(status: int) -> JsonResponse:
    """Return the error of a status without further details."""
    known = status if status in _PLAIN else 500 if status >= 500 else 400
    code, detail = _PLAIN[known]
    return error_response(status, detail, code)


def exception_handler(exc: Exception, _context: Mapping[str, Any]) -> HttpResponse | None:
    """Return the response to an exception of a view; None for others: Django answers them, and logs
    unexpected ones.
    """
    if isinstance(exc, RequestError):
        return error_response(
            exc.status, exc.detail, exc.code, extra=exc.extra, headers=exc.headers
        )
    if isinstance(exc, TRANSIENT):
        return _database_unavailable(exc)
    return plain_error(413) if isinstance(exc, RequestDataTooBig) else None


def _database_unavailable(exc: Exception) -> JsonResponse:
    # The driver's message may contain hosts and users: it goes to the log only.
    logger.warning("request: database unavailable (%s)", exc)
    detail = f"{_cause_of(str(exc))}; nothing was stored. Try again."
    if _is_outcome_unknown(exc):
        # A restart of the server broke the idle connections too. Without them only one request
        # fails.
        connection.pool.drain()  # type: ignore[attr-defined]  # PostgreSQL's
        detail = f"The database connection was lost during the request. {_OUTCOME_UNKNOWN}"
    headers = {"Retry-After": _RETRY_AFTER}
    return error_response(503, detail, "database_unavailable", headers=headers)


def _is_outcome_unknown(exc: Exception) -> bool:
    """Return whether the connection broke without an error of the server: a commit may have
    succeeded.
    """
    cause = exc.__cause__
    if not isinstance(cause, psycopg.OperationalError) or isinstance(cause, PoolTimeout):
        return False
    return cause.sqlstate in (None, "57P02")  # 57P02: the server crashed


def _cause_of(message: str) -> str:
    if "disk is full" in message:
        return "The disk with the data folder is full"
    if "No space left" in message:
        return "The disk of the database server is full"
    if "read-only transaction" in message:
        return "The database refuses writes"
    if "readonly database" in message:
        return "The data folder cannot be written"
    return _SILENT


def is_api(request: HttpRequest) -> bool:
    """Return whether a request is for the API, the metrics or the ComfyUI listener, whose errors
    are JSON.
    """
    if is_listener(request):
        return True
    return request.path in ("/api", "/metrics") or (
        request.path.startswith("/api/") and request.path != "/api/docs"
    )


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """``handler400``: a Host, URL or body that Django refused. An unknown Host is named with its
    remedy.
    """
    if not isinstance(exception, DisallowedHost):
        return defaults.bad_request(request, exception)
    if is_api(request):
        return error_response(400, _WRONG_HOST, _PLAIN[400][0])
    host, _ = split_domain_port(request.headers.get("Host", ""))
    name = host if len(host) <= _LONGEST_NAME else ""
    context = {"name": name, "port": request.META.get("SERVER_PORT", "")}
    return render(request, "director/strange_host.html", context, status=400)


def as_json_error(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return the response, or for an error page of the API the same error as JSON."""
    if response.status_code < 400 or not is_api(request):
        return response
    kind = response.headers.get("Content-Type", "")
    # ComfyUI's editor expects no JSON where a style sheet is not there.
    if kind.startswith("application/json") or (is_listener(request) and "html" not in kind):
        return response
    error = plain_error(response.status_code)
    for name in ("Allow", "Retry-After", "WWW-Authenticate"):
        if name in response.headers:
            error.headers[name] = response.headers[name]
    response.close()
    return error


def _page_error(request: HttpRequest, exc: Exception) -> HttpResponse | None:
    """Answer a page, or a part of one, whose row is gone or whose database is unavailable; the API
    has its own handler.
    """
    if isinstance(exc, RequestError):
        return HttpResponse(status=exc.status)
    if not isinstance(exc, TRANSIENT):
        return None
    logger.warning("page %s: database unavailable (%s)", request.path, exc)
    return _unavailable_page(_cause_of(str(exc)))


def _unavailable_page(cause: str) -> HttpResponse:
    # Without the request: its user would be read from the database.
    page = loader.render_to_string("503.html", {"what": cause})
    return HttpResponse(page, status=503, headers={"Retry-After": _RETRY_AFTER})


def silent_database(request: HttpRequest) -> HttpResponseBase:
    """Return the response to a request that has waited for a database which does not answer."""
    if not is_api(request):
        return _unavailable_page(_SILENT)
    todo = "Try again." if request.method in ("GET", "HEAD") else _OUTCOME_UNKNOWN
    headers = {"Retry-After": _RETRY_AFTER}
    answer = error_response(503, f"{_SILENT}. {todo}", "database_unavailable", headers=headers)
    return in_its_shape(answer, request.path, at_listener=is_listener(request))


def in_its_shape(response: HttpResponseBase, path: str, *, at_listener: bool) -> HttpResponseBase:
    """Return a response, our own error at the ComfyUI listener or of the Comfy API v2 in its shape;
    headers stay.

    Our own are ``JsonResponse``: an error that a machine answered stays as it is.
    """
    if not (at_listener or is_comfy_api(path)):
        return response
    if response.status_code < 400 or not isinstance(response, JsonResponse):
        return response
    body = json.loads(response.content)
    if "error" not in body:
        translate = comfyui_error if at_listener else comfy_api_error
        response.status_code, error = translate(response.status_code, body)
        response.content = msgspec.json.encode(error)
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(len(response.content))
    return response


#: The outermost: every other one may refuse a request.
EnvelopeMiddleware = middleware(
    lambda _request: None,
    lambda request, response: in_its_shape(
        response, request.path, at_listener=is_listener(request)
    ),
)


@sync_and_async_middleware
def JsonErrorMiddleware(get_response: Callable[[HttpRequest], Any]) -> Any:  # noqa: N802 as Django's
    """Replace an error of the API that is not JSON; keep its headers. Answer errors of pages."""
    answer: Any = middleware(lambda _request: None, as_json_error)(get_response)
    answer.process_exception = _page_error
    return answer
