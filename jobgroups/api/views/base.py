"""Base of the views: the methods of a path, and its errors. The ``Accept`` header is ignored."""

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from jobgroups.api.requests.path_params import check_id
from jobgroups.errors import MethodNotAllowed
from jobgroups.serializers import to_json


class ApiView(View):
    """A path of the API. Its methods run in a thread, or are coroutines, all of them, and run in the event loop."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Require no CSRF token: the API reads no cookie."""
        return csrf_exempt(super().as_view(**initkwargs))

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Call the handler of the method; turn an exception into the API's error response."""
        if self.view_is_async:
            return self._dispatch_in_loop(request, *args, **kwargs)
        try:
            return self._handle(request, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 an unexpected one is raised again
            return self._error_response(error)

    async def _dispatch_in_loop(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            answer = self._handle(request, *args, **kwargs)
            return await answer if isawaitable(answer) else answer
        except Exception as error:  # noqa: BLE001 an unexpected one is raised again
            return self._error_response(error)

    def _handle(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if request.method not in self.allowed_methods:
            raise MethodNotAllowed(self.allowed_methods)
        if request.method != "OPTIONS":
            for name, text in kwargs.items():
                check_id(name, text)
        answer: HttpResponseBase = getattr(self, request.method.lower())(request, *args, **kwargs)
        return answer

    def _error_response(self, error: Exception) -> HttpResponseBase:
        answer: HttpResponseBase | None = import_string(settings.API_EXCEPTION_HANDLER)(error)
        if answer is None:
            raise error
        return answer

    @property
    def allowed_methods(self) -> list[str]:
        """The methods that the view has."""
        return [name.upper() for name in self.http_method_names if hasattr(self, name)]

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Return the allowed methods in ``Allow``, and no body."""
        return no_content({"Allow": ", ".join(self.allowed_methods)})


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a value as JSON."""
    return HttpResponse(to_json(value), content_type="application/json", status=status, headers=headers)


def no_content(headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a response without a body."""
    response = HttpResponse(status=204, headers=headers)
    del response.headers["Content-Type"]
    return response
