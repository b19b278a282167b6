"""Parse the body of a request as a JSON object.

Refused is also what Python's parser accepts and would store as something else: a repeated key,
``NaN``, NUL, lone surrogates, numbers that no double can hold, and nesting without a bound.
"""

import json
from collections import Counter
from typing import Any, Final, NoReturn

from django.conf import settings
from django.http import HttpRequest, UnreadablePostError
from django.utils.http import parse_header_parameters

from backends.errors import InvalidRequest, RequestError
from jobgroups.workflow import check_text
from jobgroups.workflow.validation import shown_key

_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class UnsupportedMediaType(RequestError, code="unsupported_media_type", status=415):
    """The body is not declared as what the path takes, mostly JSON in UTF-8."""

    def __init__(
        self, detail: str = "The body must be sent as Content-Type: application/json, in UTF-8."
    ) -> None:
        super().__init__(detail)


class PayloadTooLarge(RequestError, code="payload_too_large", status=413):
    text = "The body must have at most {} bytes."


class TooManyObjects(RequestError, code="payload_too_large", status=413):
    text = "The body must have at most {} objects and lists."


#: Objects and lists of a body: each takes 5 µs, and 16 MiB may have 5 million.
_MAX_OBJECTS: Final = 1_000_000


class InvalidJSON(RequestError, code="invalid_json"):
    """The body is not JSON."""


class _Refused(ValueError):
    """JSON that only Python's parser accepts; the text is the clause for the client."""


def json_body(request: HttpRequest) -> dict[str, Any]:
    """Return the request's body, which must be a JSON object.

    Raises ``UnsupportedMediaType``, ``PayloadTooLarge``, ``TooManyObjects``, ``InvalidJSON``,
    ``InvalidRequest``, or ``TextInvalid`` for what cannot be stored.
    """
    _check_media_type(request)
    try:
        return parse(read_body(request))
    except UnreadablePostError:
        raise InvalidJSON("The body is incomplete.") from None


def optional_json_body(request: HttpRequest) -> dict[str, Any]:
    """Return the request's body as :func:`json_body` does, and ``{}`` for a request without a body.

    ``curl -X POST`` sends neither a body nor a media type.
    """
    headers = request.headers
    if headers.get("Content-Length", "0") == "0" and "Transfer-Encoding" not in headers:
        return {}
    return json_body(request)


def read_body(request: HttpRequest) -> bytes:
    """Return the body, of which at most one byte more than the limit is read: it may have no
    length.

    Raises ``PayloadTooLarge``, or ``UnreadablePostError`` if it is incomplete.
    """
    limit: int = settings.DIRECTOR_MAX_BODY_BYTES
    content = request.read(limit + 1)
    if len(content) > limit:
        raise PayloadTooLarge(limit)
    return content


def media_type(request: HttpRequest) -> tuple[str, dict[str, str]]:
    """Return the declared media type of the body in lower case, and its parameters; of an
    unreadable header, none.
    """
    try:
        declared, parameters = parse_header_parameters(request.headers.get("Content-Type", ""))
    except ValueError:
        return "", {}
    return declared, parameters


def parse(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, or raise as :func:`json_body` does."""
    body = _decode(content)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    for key, field in body.items():
        check_text({key: None}, field="body")
        check_text(field, field=shown_key(key), outer=1)
    return body


def parse_value(content: bytes) -> object:
    """Return the JSON value in a body of any kind, or raise as :func:`json_body` does."""
    value = _decode(content)
    check_text(value, field="body")
    return value


def _check_media_type(request: HttpRequest) -> None:
    declared, parameters = media_type(request)
    charset = parameters.get("charset", "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if declared != "application/json" or charset not in _CHARSETS:
        raise UnsupportedMediaType
    if encoding != "identity":
        raise UnsupportedMediaType(
            "The body must be sent uncompressed, without a Content-Encoding."
        )


def _decode(content: bytes) -> object:
    if content.count(b"{") + content.count(b"[") > _MAX_OBJECTS:
        raise TooManyObjects(_MAX_OBJECTS)
    try:
        # Some editors write a byte order mark.
        return json.loads(
            content.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
    except UnicodeDecodeError:
        raise InvalidJSON("The body is not UTF-8.") from None
    except RecursionError:
        raise InvalidJSON("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: {_at(error)}.") from None
    except _Refused as refused:
        raise InvalidJSON(f"The body is not JSON: {refused}.") from None
    except ValueError:
        # Python parses at most 4300 digits, since the time grows with their square.
        raise InvalidJSON("The body is not JSON: a number has too many digits.") from None


def _at(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "it is empty"
    # Some of Python's messages end in " at" or ":", to be followed by a position.
    reason = error.msg.rstrip(": ").removesuffix(" at")
    return f"{reason[:1].lower()}{reason[1:]} at line {error.lineno}, column {error.colno}"


def _no_constant(_name: str) -> NoReturn:
    raise _Refused("NaN and Infinity are not numbers of JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        counted = Counter(key for key, _ in pairs)
        key = next(key for key, count in counted.items() if count > 1)
        raise _Refused(f'an object has the key "{shown_key(key)}" more than once')
    return body
