"""Builds middleware for the event loop and for threads from two synchronous functions."""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware


def middleware(
    early: Callable[[HttpRequest], HttpResponseBase | None],
    finish: Callable[[HttpRequest, HttpResponseBase], HttpResponseBase],
) -> Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]]:
    """Return middleware that Django can use.

    ``early`` returns the response to a request that is not passed on; None if it is. ``finish`` returns the response to
    send.
    """

    @sync_and_async_middleware
    def made(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        if iscoroutinefunction(get_response):

            async def in_loop(request: HttpRequest) -> HttpResponseBase:
                return finish(request, early(request) or await get_response(request))

            return in_loop
        return lambda request: finish(request, early(request) or get_response(request))

    return made
