"""Base of the views that run in the event loop: they wait for a backend or an event, or are answered from memory."""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.settings import api_settings

from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.queries.outputs import OutputFile
from jobgroups.serializers import to_json
from jobgroups.services.files import output_replaced

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

#: Threads for requests that change rows. A submission may wait 1.7 s for probes and must answer within 2 s, so many may
#: wait at once. Threads are started on demand.
WRITE_THREADS: Final = 32

#: Not those of lists: with 20 lists at once, a changed status would take 3.5 times as long (p50).
_reading = DatabaseThreads(threads=2, name="async-reading")
acting: Final = DatabaseThreads(threads=WRITE_THREADS, name="api-acting", keeps_connections=False)


async def read(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that only reads; once more if a restart of the server broke the connection that its thread keeps."""
    return await _reading.run(_read, functools.partial(work, *args, **kwargs))


def _read(work: Callable[[], R]) -> R:
    try:
        return work()
    except TRANSIENT:
        if connection.is_usable():
            raise
        connection.close()
        return work()


async def act(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that changes rows, also if the client disconnects meanwhile."""
    return await asyncio.shield(acting.run(work, *args, **kwargs))


def json_response(value: object) -> HttpResponse:
    """Return a value as JSON."""
    return HttpResponse(to_json(value), content_type="application/json")


async def note_replaced(file: OutputFile) -> None:
    """Mark an output whose file a later job has written, so that JSON and pages show it."""
    if file.replaced:
        return
    try:
        await act(output_replaced, job_id=file.job_id, digest=file.digest)
    except DatabaseError:
        # The response does not depend on the mark, and the next request for the file sets it.
        logger.warning("Replaced output %s: not marked", file.filename, exc_info=True)


def close_threads() -> None:
    """Close the threads and their connections at the end of the process."""
    _reading.close()
    acting.close()


class AsyncApiView(View):
    """A path of the API whose methods are coroutines; its errors are those of every other path."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Require no CSRF token, as DRF's views do: the API reads no cookie."""
        return csrf_exempt(super().as_view(**initkwargs))

    async def dispatch(  # type: ignore[override]  # async here, as Django does it for async methods
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Call the handler of the method; turn an exception into the API's error response."""
        try:
            if request.method not in self.allowed_methods:
                raise MethodNotAllowed(request.method or "")
            response: HttpResponseBase = await getattr(self, request.method.lower())(request, *args, **kwargs)
        except Exception as error:
            # The stubs have the setting's text here, not the function that the text names.
            handler: Any = api_settings.EXCEPTION_HANDLER
            answer: HttpResponse | None = handler(error, {"view": self})
            if answer is None:
                raise
            if answer.status_code == 405:
                answer.headers["Allow"] = ", ".join(self.allowed_methods)
            return answer
        return response

    @property
    def allowed_methods(self) -> list[str]:
        """The methods that the view has."""
        return [name.upper() for name in self.http_method_names if hasattr(self, name)]

    async def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """Return the allowed methods in ``Allow``, and no body."""
        return HttpResponse(status=204, headers={"Allow": ", ".join(self.allowed_methods)})
