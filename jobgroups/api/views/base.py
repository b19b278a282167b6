"""Base of the views: the methods of a path, and its errors. The ``Accept`` header is ignored."""

from collections.abc import Awaitable, Mapping
from inspect import isawaitable
from typing import Any, ClassVar, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from rest_framework.permissions import SAFE_METHODS
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from jobgroups.api.permissions import principal_of, refusal_text
from jobgroups.api.requests.path_params import check_id
from jobgroups.database.pools import read, read_threads, write_threads
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.access import Owned, Principal, Right, may, sees
from jobgroups.errors import MethodNotAllowed, NotAllowed
from jobgroups.queries.owners import not_found, object_name, owned_of
from jobgroups.serializers import to_json

_compression: Final = GZipMiddleware(lambda _request: HttpResponse())


class ApiView(APIView):
    """A path of the API. Its methods run in a thread, or are coroutines, all of them, and run in
    the event loop.

    Their docstrings are the summaries of the OpenAPI document.
    """

    reads: ClassVar[Right] = Right.SEE  #: What GET and HEAD need.
    #: What the other methods need, unless the object of the path is the principal's own.
    changes: ClassVar[Right] = Right.OPERATE
    reads_in: ClassVar[DatabaseThreads] = read_threads  #: The threads of GET and HEAD.
    changes_in: ClassVar[DatabaseThreads] = write_threads  #: The threads of the other methods.
    #: Whether POST starts jobs: its write begins by ``begin_write``, or not at all.
    starts_jobs: ClassVar[bool] = False

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Call the handler of the method; DRF has no event loop, so coroutines are called here,
        with Django's request.
        """
        if not self.view_is_async:
            return super().dispatch(request, *args, **kwargs)
        return self._dispatch_in_loop(request, *args, **kwargs)

    async def _dispatch_in_loop(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        try:
            self._check(request, kwargs)
            await self.permit(request, kwargs)
            handler = getattr(self, str(request.method).lower())
            answer: HttpResponseBase | Awaitable[HttpResponseBase] = handler(
                request, *args, **kwargs
            )
            return await answer if isawaitable(answer) else answer
        except Exception as error:
            response: HttpResponseBase | None = self.get_exception_handler()(
                error, self.get_exception_handler_context()
            )
            if response is None:
                raise
            return response

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the method and the ids of the path before the handler is called."""
        super().initial(request, *args, **kwargs)
        self._check(request, kwargs)
        if not self._is_permitted(request, kwargs):
            self._decide(request, kwargs, owned_of(kwargs))

    def _right(self, request: HttpRequest | Request) -> Right:
        return self.reads if request.method in SAFE_METHODS else self.changes

    async def permit(self, request: HttpRequest, ids: Mapping[str, Any]) -> None:
        """Raise ``NotAllowed``, or the error of an object that does not exist, unless the request
        is permitted now.
        """
        if not self._is_permitted(request, ids):
            self._decide(request, ids, await read(owned_of, ids))

    def _is_permitted(self, request: HttpRequest | Request, ids: Mapping[str, Any]) -> bool:
        """Return whether the request is permitted, as far as that is known without the database."""
        principal, right = principal_of(request), self._right(request)
        if _is_own(principal, ids):
            return may(principal, min(right, Right.SUBMIT))
        return may(principal, right) and (principal.sees_all or object_name(ids) is None)

    def _decide(
        self, request: HttpRequest | Request, ids: Mapping[str, Any], owned: Owned | None
    ) -> None:
        principal, right = principal_of(request), self._right(request)
        # What does not exist is not found, either where a principal sees its own alone.
        is_unseen = owned is None or not sees(principal, owned)
        if is_unseen and not principal.sees_all and object_name(ids) is not None:
            raise not_found(ids)
        if not may(principal, right, owned):
            raise NotAllowed(refusal_text(principal, right))
        if owned is not None and principal.user_id in owned.owner_ids:
            _keep_own(principal, ids)

    def _check(self, request: HttpRequest | Request, ids: Mapping[str, Any]) -> None:
        if request.method not in self.allowed_methods:
            raise MethodNotAllowed(self.allowed_methods)
        if request.method != "OPTIONS":
            for name, text in ids.items():
                check_id(name, text)

    def perform_content_negotiation(
        self, request: Request, force: bool = False
    ) -> tuple[JSONRenderer, str]:
        """Respond in JSON: the ``Accept`` header of a browser and ``?format=`` cause no error."""
        return JSONRenderer(), "application/json"

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Compress JSON for those who accept it, in the thread of the view.

        An answer with an ``ETag`` would have other bytes under the same one, and the middleware
        reads errors.
        """
        response = super().finalize_response(request, response, *args, **kwargs)
        is_json = response.headers.get("Content-Type") == "application/json"
        if is_json and response.status_code < 400 and not response.has_header("ETag"):
            return _compression.process_response(request, response)
        return response

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        return no_content({"Allow": ", ".join(self.allowed_methods)})


#: Accounts with the groups that were found to be theirs, which never changes: a status needs no
#: query for it.
_own: Final[set[tuple[int | None, str]]] = set()
_MAX_OWN: Final = 50_000


def _is_own(principal: Principal, ids: Mapping[str, Any]) -> bool:
    return principal.user_id is not None and (principal.user_id, _group_of(ids)) in _own


def _keep_own(principal: Principal, ids: Mapping[str, Any]) -> None:
    if group_id := _group_of(ids):
        if len(_own) >= _MAX_OWN:
            _own.clear()
        _own.add((principal.user_id, group_id))


def _group_of(ids: Mapping[str, Any]) -> str:
    return str(ids.get("group_id") or ids.get("job_id") or "")


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    return HttpResponse(
        to_json(value), content_type="application/json", status=status, headers=headers
    )


def no_content(headers: Mapping[str, str] | None = None) -> HttpResponse:
    response = HttpResponse(status=204, headers=headers)
    del response.headers["Content-Type"]
    return response
