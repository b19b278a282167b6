"""Handlers of the API's requests: each in one thread, from the first middleware to the view, or in
the event loop.

Django's handler switches to a thread and back about twelve times for a request, which costs more
than the work itself, and starts a thread with a new database connection. Here a request switches
once, to one of the threads that its view declares (``jobgroups.database.pools``); requests of
asynchronous views stay in the event loop. The API's chain omits the middleware for pages.
"""

import asyncio
import contextlib
import functools
import io
import logging
import time
from typing import IO, Any, Final, cast

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from director.web.errors import error_response
from director.web.middleware import api_chain
from jobgroups.database import pools
from jobgroups.database.threads import DatabaseThreads
from jobgroups.errors import Overloaded
from jobgroups.services.write_start import WriteStart

logger = logging.getLogger(__name__)

MATCH_KEY: Final = "director.match"  #: The key of a scope that holds the match of its URL.
#: The key of a scope that holds when the last byte of its request came, by ``time.monotonic``.
RECEIVED_KEY: Final = "director.received_at"

#: A body above this many bytes is large. Only workflows with embedded images are.
LARGE_BYTES: Final = 256 * 2**10
#: The number of probes that may wait for a thread.
PROBES_WAITING: Final = 16
_PROBE_AGAIN: Final = "5"  #: Seconds until a refused probe may be sent again.


def _view_of(request: Any) -> object:
    """Return the class of the view of a request, or its function; None for an unknown path."""
    match = request.scope.get(MATCH_KEY)
    if match is None:
        with contextlib.suppress(Resolver404):
            match = resolve(request.path_info)
    return match and getattr(match.func, "view_class", match.func)


def _threads_for(view: object, method: str, body_bytes: int) -> DatabaseThreads:
    """Return the threads that a view declares for a method, or those for large bodies."""
    threads: DatabaseThreads = (
        getattr(view, "reads_in", pools.read_threads)
        if method in ("GET", "HEAD")
        else getattr(view, "changes_in", pools.write_threads)
    )
    if body_bytes > LARGE_BYTES and threads is not pools.probe_threads:
        return pools.large_threads
    return threads


def _refused_probe(body_bytes: int) -> HttpResponse | None:
    """Return the refusal of a probe with a large body, or if too many probes wait; None to accept."""
    if body_bytes > LARGE_BYTES:
        detail = f"The body must have at most {LARGE_BYTES} bytes."
        return error_response(413, detail, "payload_too_large")
    if pools.probe_threads.load >= pools.PROBE_THREADS + PROBES_WAITING:
        detail = "Too many addresses are being probed; try again in a few seconds."
        headers = {"Retry-After": _PROBE_AGAIN}
        return error_response(429, detail, "too_many_requests", headers=headers)
    return None


class LenientRequest(ASGIRequest):
    """A request that treats an invalid content type as none: Django raises for some of them."""

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        try:
            super()._set_content_type_params(meta)  # type: ignore[misc]  # the stubs lack it
        except ValueError:
            self.content_type, self.content_params = "", {}


class ApiHandler(ASGIHandler):
    """Django's handler with the API's middleware, of which only ``__call__`` is used: other hooks
    are for pages.
    """

    request_class = LenientRequest
    _view_middleware: Any = ()
    _template_response_middleware: Any = ()
    _exception_middleware: Any = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        request, refusal = self.create_request(scope, body)
        if refusal is not None:
            body.close()
            await self.send_response(refusal, send)
        else:
            await self.answer(request, body, receive, send)

    async def answer(self, request: Any, body: IO[bytes], receive: Any, send: Any) -> None:
        """Answer a request whose body has been read, and close the body."""
        raise NotImplementedError

    def resolve_request(self, request: Any) -> Any:
        """Return the match of the URL by which this handler was chosen."""
        match = request.scope.get(MATCH_KEY)
        if match is None:
            return super().resolve_request(request)
        request.resolver_match = match
        return match


class ThreadedHandler(ApiHandler):
    """A handler with the middleware chain and the view in one thread."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._middleware_chain = api_chain(self._get_response)

    async def answer(self, request: Any, body: IO[bytes], receive: Any, send: Any) -> None:
        """Answer a request whose body has been read. A disconnected client cancels nothing but jobs
        that do not begin.
        """
        body_bytes = body.seek(0, io.SEEK_END)
        body.seek(0)
        view = _view_of(request)
        threads = _threads_for(view, request.method, body_bytes)
        if threads is pools.probe_threads and (refused := _refused_probe(body_bytes)):
            request.refused = refused
            threads = pools.read_threads
        response: Any
        if getattr(view, "starts_jobs", False) and request.method == "POST":
            response = await self._begun_response(request, body, threads, receive)
        else:
            with body:
                response = await threads.run(self.get_response, request)
        if response is not None:
            await self.send_response(response, send)
            response.close()

    async def _begun_response(
        self, request: Any, body: IO[bytes], threads: DatabaseThreads, receive: Any
    ) -> Any:
        """Return the response to a request that starts jobs; None if its client has gone before
        they begin.
        """
        body_bytes = body.seek(0, io.SEEK_END)
        body.seek(0)
        write_start = WriteStart(request.scope.get(RECEIVED_KEY, time.monotonic()), body_bytes)
        with write_start.of_request():
            job = threads.submit(functools.partial(self.get_response, request))
        # A thread may read the body of a request that has given up.
        job.add_done_callback(lambda _: body.close())
        answering = asyncio.wrap_future(job)
        leaving = asyncio.get_running_loop().create_task(receive())
        try:
            await asyncio.wait(
                (answering, leaving),
                timeout=write_start.seconds_left(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answering.done() or not write_start.give_up():
                return await answering
            is_gone = leaving.done()
        finally:
            leaving.cancel()
            # Without a thread it never gets one; a thread that has it finds that it has given up.
            write_start.give_up()
            answering.cancel()
        logger.info(
            "%s: not begun (%s)", request.path, "the client has gone" if is_gone else "too busy"
        )
        if is_gone:
            return None
        refusal: Any = self.create_request(request.scope, io.BytesIO())[0]
        error = Overloaded()
        refusal.refused = error_response(
            error.status, error.detail, error.code, headers=error.headers
        )
        return self.get_response(refusal)

    def _get_response(self, request: Any) -> HttpResponseBase:
        # Instead of the view, so that the middleware adds its headers to a refusal too.
        if hasattr(request, "refused"):
            return cast(HttpResponse, request.refused)
        view: Any = super()
        return cast(HttpResponseBase, view._get_response(request))


class LoopHandler(ApiHandler):
    """A handler with the middleware chain and the view in the event loop, where no view uses
    Django's connections.
    """

    chunk_size = 2**26  #: A status is in memory as a whole; smaller chunks are copies of its parts.

    def load_middleware(self, is_async: bool = True) -> None:
        plain: Any = self
        self._middleware_chain = api_chain(plain._get_response_async)

    async def answer(self, request: Any, body: IO[bytes], receive: Any, send: Any) -> None:
        """Answer a request whose body has been read. A client that disconnects ends its view."""
        with body:
            await self._answer_or_end(request, receive, send)

    async def _answer_or_end(self, request: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        answering = loop.create_task(self._answer(request, send))
        disconnecting = loop.create_task(receive())
        try:
            await asyncio.wait((answering, disconnecting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnecting.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait((answering,))
        if not answering.cancelled():
            answering.result()

    async def _answer(self, request: Any, send: Any) -> None:
        response: Any = await self.run_get_response(request)
        try:
            await self.send_response(response, send)
        finally:
            # Other responses hold nothing to release, nor does a request without uploaded files.
            # The signal at the end of a request, which closes Django's connections of this thread,
            # is a tenth of a status's CPU.
            if response.streaming:
                response.close()
