"""Content-Security-Policy of every HTML response: nothing inline, nothing from other hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def _with_policy(response: HttpResponseBase) -> HttpResponseBase:
    """Add the policy to a page without one."""
    if response.headers.get("Content-Type", "").startswith("text/html"):
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


def csp_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Add the policy to every page."""
    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> HttpResponseBase:
            return _with_policy(await cast(Awaitable[HttpResponseBase], get_response(request)))

        return in_loop

    return lambda request: _with_policy(get_response(request))


#: The name in the settings.
CspMiddleware = sync_and_async_middleware(csp_middleware)
