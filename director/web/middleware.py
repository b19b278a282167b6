"""Middleware for the event loop and for threads, and the chain of the API."""

from collections.abc import Callable
from functools import cache
from inspect import iscoroutinefunction
from typing import Any, cast

from django.conf import settings
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.utils.module_loading import import_string


def middleware(
    early: Callable[[HttpRequest], HttpResponseBase | None],
    finish: Callable[[HttpRequest, HttpResponseBase], HttpResponseBase],
) -> Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]]:
    """Return middleware that Django can use.

    ``early`` returns the response to a request that is not passed on; None if it is. ``finish``
    returns the response to send.
    """

    @sync_and_async_middleware
    def made(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        if iscoroutinefunction(get_response):

            async def in_loop(request: HttpRequest) -> HttpResponseBase:
                return finish(request, early(request) or await get_response(request))

            return in_loop
        return lambda request: finish(request, early(request) or get_response(request))

    return made


def api_chain(respond: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Return the API's middleware around a function that responds; of each only ``__call__`` is
    used.
    """
    chain: Any = convert_exception_to_response(respond)
    for name in reversed(settings.DIRECTOR_API_MIDDLEWARE):
        made: Any = import_string(name)
        chain = convert_exception_to_response(
            (_in_loop(made) if isinstance(made, type) else made)(chain)
        )
    return chain  # type: ignore[no-any-return]


@cache
def _in_loop(kind: type[Any]) -> type[Any]:
    """Return one of Django's middleware that stays in the event loop.

    Django would switch to a thread before and after each of them, which takes 0.1 ms; the API's
    only read headers.
    """

    class InLoop(kind):  # type: ignore[misc]  # one of several classes
        async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
            early = self.process_request(request) if hasattr(self, "process_request") else None
            response = early or await self.get_response(request)
            return cast(HttpResponseBase, self.process_response(request, response))

    return InLoop
