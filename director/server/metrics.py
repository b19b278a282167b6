"""A runner's own address for its metrics: for one whose data folder has no web."""

import socket
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from django.http.request import HttpHeaders
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from director.accounts.principals import principal_of
from director.security.sign_in import is_token, sent_token
from director.server.listen import CannotListen
from jobgroups.metrics import ProcessesCollector


class _Handler(WSGIRequestHandler):
    timeout = 5.0  #: Seconds: a connection that sends no request for so long is closed.

    def log_message(self, *_: Any) -> None:
        """Log no requests."""


def _is_permitted(token: str) -> bool:
    if settings.DIRECTOR_ACCOUNTS:
        principal = principal_of(token, None)
        return principal is not None and principal.sees_all
    return not settings.DIRECTOR_TOKEN or is_token(token)


def serve_metrics(host: str, port: int) -> None:
    """Serve what happened in the processes of this data folder, in threads. Raises
    ``CannotListen``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProcessesCollector())
    ProcessCollector(registry=registry)
    app: Any = make_wsgi_app(registry)

    def guarded(environ: Any, start_response: Any) -> Iterable[bytes]:
        token = sent_token(HttpHeaders(environ)) or ""
        if _is_permitted(token.strip()):
            body: Iterable[bytes] = app(environ, start_response)
            return body
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="Director"')])
        return [b""]

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = make_server(host, port, guarded, Server, _Handler)
    except OSError as error:
        text = (
            f"Cannot listen on {host} port {port} ({error.strerror}); change "
            "DIRECTOR_METRICS_LISTEN."
        )
        raise CannotListen(text) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
