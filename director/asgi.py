"""The ASGI application: HTTP by Django, WebSockets by ``jobgroups.consumers.routing``.

``serve`` runs it; other ASGI servers can run it too.
"""

import asyncio
import os
from contextlib import suppress
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")  # noqa: TID251 Django's own way
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.urls import Resolver404, get_resolver, resolve  # noqa: E402

from director.security.origins import handshake  # noqa: E402
from director.security.revocations import serve_request  # noqa: E402
from director.security.sign_in import ENDED, find_principal, guard_sockets  # noqa: E402
from director.web import probes  # noqa: E402
from director.web.asgi_types import Receive, Scope, Send  # noqa: E402
from director.web.handlers import MATCH_KEY, LenientRequest, LoopHandler, ThreadedHandler  # noqa: E402
from director.web.listener import LISTENER_URLS, at_listener  # noqa: E402
from director.web.request_id import with_request_id  # noqa: E402
from director.web.silence import answered_in_silence  # noqa: E402
from jobgroups.api.listener.owner import owner_of  # noqa: E402
from jobgroups.api.requests.upload import upload_limit  # noqa: E402
from jobgroups.consumers.listener import FEATURES_KEY, OWNER_KEY  # noqa: E402
from jobgroups.consumers.routing import listener_urlpatterns, websocket_urlpatterns  # noqa: E402
from jobgroups.domain.access import PRINCIPAL_KEY  # noqa: E402
from jobgroups.events.hub import hub  # noqa: E402
from jobgroups.queries.listener_machine import features  # noqa: E402
from jobgroups.streams.reads import read_seqs  # noqa: E402

get_resolver().url_patterns  # noqa: B018 the views are imported now, not by the first request

# Any: the stubs require the exact type of each frame; these are plain dictionaries.
_streams: Any = URLRouter(websocket_urlpatterns)  # type: ignore[arg-type]  # they take plain routes
_pages: Any = ASGIHandler()
_pages.request_class = LenientRequest
_in_loop: Any = LoopHandler()
_in_thread: Any = ThreadedHandler()
#: A client polls the same paths; to match one takes longer than to read its kept answer.
_match: Any = lru_cache(1_024)(resolve)


_listener_router: Any = URLRouter(listener_urlpatterns)  # type: ignore[arg-type]


async def _owned(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a socket of the ComfyUI listener, whose owner is that of its requests."""
    request: Any = handshake(scope)
    request.principal = scope.get(PRINCIPAL_KEY)
    known = {OWNER_KEY: owner_of(request), FEATURES_KEY: features(upload_limit())}
    await _listener_router({**scope, **known}, receive, send)


#: The sockets of the ComfyUI listener.
_listener_sockets: Any = guard_sockets(_owned)


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request: the API's views have handlers for the loop and for threads, all else has
    Django's.
    """
    if (moved := at_listener(scope)) is not None:
        await _serve_listener(moved, receive, send)
        return
    handler = _pages
    if scope["path"] in probes.PATHS:
        await probes.answer(scope, receive, send)
        return
    await find_principal(scope)
    if scope["path"].startswith(("/api/", "/metrics")):
        with suppress(Resolver404):
            match = scope[MATCH_KEY] = _match(scope["path"])
            if iscoroutinefunction(match.func):
                await serve_request(_in_loop, scope, receive, send, ended=ENDED)
                return
            handler = _in_thread
    await handler(scope, receive, send)


async def _serve_listener(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request at the ComfyUI listener, whose last route takes every path."""
    await find_principal(scope)
    match = scope[MATCH_KEY] = _match(scope["path"], LISTENER_URLS)
    if iscoroutinefunction(match.func):
        await serve_request(_in_loop, scope, receive, send, ended=ENDED)
    else:
        await _in_thread(scope, receive, send)


_sockets: Any = guard_sockets(_streams)


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    if (moved := at_listener(scope)) is not None:
        await _listener_sockets(moved, receive, send)
    else:
        await _sockets(scope, receive, send)


_protocols: Any = ProtocolTypeRouter({"http": answered_in_silence(_http), "websocket": _websocket})
_router = with_request_id(_protocols)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection.

    The first connection binds the process's hub to the event loop of the server, for every ASGI
    server.
    """
    hub.bind(asyncio.get_running_loop(), read_seqs=read_seqs)
    await _router(scope, receive, send)
