"""Views that wait for a backend: in the loop, so that no thread is held while one waits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.settings import api_settings

from jobgroups.database.threads import DatabaseThreads
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.files import output_replaced

logger = logging.getLogger(__name__)
Handler: TypeAlias = Callable[..., Awaitable[HttpResponseBase]]

#: Where these views read rows: they must not leave their loop for the process's shared thread.
_database = DatabaseThreads(threads=2, name="async-views")
read = _database.run


async def note_replaced(file: OutputFile) -> None:
    """Mark an output whose file turned out to be a later job's, so that JSON and pages show it."""
    if file.replaced:
        return
    try:
        await read(output_replaced, job_id=file.job_id, digest=file.digest)
    except DatabaseError:
        # The answer does not depend on it, and the next request for the file finds it again.
        logger.warning("The replaced output %s was not marked.", file.filename, exc_info=True)


def close_reading() -> None:
    """Close the threads and their connections. For the end of the process: nothing is read after."""
    _database.close()


class AsyncApiView(View):
    """A path of the API whose methods are coroutines; its errors are as those of every other path."""

    async def dispatch(  # type: ignore[override]  # async here, as Django does it for async methods
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Call the method's handler; turn what it raises into the API's answer."""
        try:
            if request.method not in self.allowed_methods:
                raise MethodNotAllowed(request.method or "")
            handler: Handler = getattr(self, request.method.lower())
            return await handler(request, *args, **kwargs)
        except Exception as error:
            # The stubs give the setting's text, where it is the function that the text names.
            shaped: Any = api_settings.EXCEPTION_HANDLER
            answer: HttpResponse | None = shaped(error, {"view": self})
            if answer is None:
                raise
            if answer.status_code == 405:
                answer.headers["Allow"] = ", ".join(self.allowed_methods)
            return answer

    @property
    def allowed_methods(self) -> list[str]:
        """The methods that it has."""
        return [name.upper() for name in self.http_method_names if hasattr(self, name)]

    async def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """Answer with the allowed methods alone, in ``Allow``."""
        return HttpResponse(status=204, headers={"Allow": ", ".join(self.allowed_methods)})


def both(route: str, view: type[AsyncApiView]) -> list[URLPattern]:
    """Serve a path with and without a slash at its end."""
    served = csrf_exempt(view.as_view())
    return [path(route, served), path(f"{route}/", served)]
