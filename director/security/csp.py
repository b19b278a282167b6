"""Content-Security-Policy of every HTML response: nothing inline, nothing from other hosts."""

from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from director.web.middleware import middleware

POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def _with_policy(_request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if response.headers.get("Content-Type", "").startswith("text/html"):
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


CspMiddleware = middleware(lambda _request: None, _with_policy)
