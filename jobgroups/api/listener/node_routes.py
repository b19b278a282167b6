"""Routes of custom nodes, which an operator lists with the machine that answers each of them.

A route gets what the editor sends, without anything that stands for the user, and its answer
reaches the editor without anything that a browser would keep or execute.
"""

import logging
from typing import ClassVar, Final
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Answer, Timeouts
from backends.models import Backend
from backends.node_paths import route_of
from jobgroups.api.listener.base import ListenerView
from jobgroups.api.listener.extensions import confirmed_backends
from jobgroups.database.pools import read
from jobgroups.domain.access import Right
from jobgroups.domain.media_types import GUARD_HEADERS
from jobgroups.errors import RouteUnavailable

logger = logging.getLogger(__name__)

_TIMEOUTS: Final = Timeouts(connect_s=3.0, silence_s=30.0, total_s=30.0)
_MAX_BYTES: Final = 16 * 2**20  #: Of an answer.
_AT_ONCE: Final = 16  #: Requests to routes in a process.
#: What a route gets of the headers of a request: neither cookies nor credentials.
_SENT: Final = ("Accept", "Content-Type")
_IN_QUERY: Final = "%/:?@!$&'()*+,;=-._~[]"


class NodeRoute:
    """A converter of paths: those that are below a route of the setting."""

    regex = ".+"

    def to_python(self, value: str) -> str:
        if route_of(value, settings.DIRECTOR_COMFYUI_ROUTES) is None:
            raise ValueError
        return value

    def to_url(self, value: str) -> str:
        return value


class NodeRouteView(ListenerView):
    """A path below a route of custom nodes."""

    reads: ClassVar[Right] = Right.SUBMIT  #: A GET may change something, too.
    _open: ClassVar[int] = 0

    async def get(self, request: HttpRequest, path: str) -> HttpResponse:
        """Send the request to the machine of the route, and its answer back."""
        backend_id, at_machine = route_of(path, settings.DIRECTOR_COMFYUI_ROUTES) or ("", "")
        backend = {row.id: row for row in await read(confirmed_backends)}.get(backend_id)
        if backend is None:
            raise RouteUnavailable(
                f"The backend {backend_id} of this route does not answer, or is not confirmed for "
                "extensions of the editor."
            )
        if NodeRouteView._open >= _AT_ONCE:
            raise RouteUnavailable("Too many requests to routes of custom nodes; try again later.")
        NodeRouteView._open += 1
        try:
            answer = await _ask(backend, request, at_machine)
        except (BackendError, ValueError) as error:
            logger.info("%s: a route of custom nodes gave no answer (%s)", backend.id, error)
            raise RouteUnavailable(
                f"The backend {backend.name} of this route gave no usable answer."
            ) from error
        finally:
            NodeRouteView._open -= 1
        if 300 <= answer.status < 400:
            raise RouteUnavailable(f"The backend {backend.name} of this route redirects elsewhere.")
        headers = {**GUARD_HEADERS, "Content-Type": answer.content_type or "text/plain"}
        return HttpResponse(answer.body, status=answer.status, headers=headers)

    head = post = put = patch = delete = get


async def _ask(backend: Backend, request: HttpRequest, path: str) -> Answer:
    query = quote(request.META.get("QUERY_STRING", ""), safe=_IN_QUERY)
    headers = {name: request.headers[name] for name in _SENT if request.headers.get(name)}
    content = None if request.method in ("GET", "HEAD") else request.read()
    async with ComfyClient(
        backend.url, headers=backend.headers, timeouts=_TIMEOUTS, max_answer_bytes=_MAX_BYTES
    ) as client:
        return await client.node_route(
            str(request.method),
            f"{path}?{query}" if query else path,
            content=content,
            headers=headers,
        )
