"""A runner's own address for its metrics: for one whose data folder has no web."""

import logging
import socket
import threading
from collections.abc import Iterable
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from django.http.request import HttpHeaders
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from director.accounts.principals import principal_of
from director.security import sign_in
from director.server.listen import CannotListen
from jobgroups.metrics import ProcessesCollector

logger = logging.getLogger(__name__)

#: Connections that are open at once: more would take files and threads that the runner needs.
_MOST: Final = 16


class _Handler(WSGIRequestHandler):
    timeout = 5.0  #: Seconds: a connection that sends no request for so long is closed.

    def log_message(self, *_: Any) -> None:
        """Log no requests."""


def _is_permitted(token: str, address: str) -> bool:
    if settings.DIRECTOR_ACCOUNTS:
        principal = principal_of(token, None)
        return principal is not None and principal.sees_all
    if not settings.DIRECTOR_TOKEN:
        return True
    if sign_in.throttle.retry_after(address):
        return False
    is_right = sign_in.is_token(token)
    if token and not is_right:
        sign_in.throttle.record_failure(address)
    return is_right


def serve_metrics(host: str, port: int) -> None:
    """Serve what happened in the processes of this data folder, in threads. Raises
    ``CannotListen``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProcessesCollector())
    ProcessCollector(registry=registry)
    app: Any = make_wsgi_app(registry)

    def guarded(environ: Any, start_response: Any) -> Iterable[bytes]:
        token = sign_in.sent_token(HttpHeaders(environ)) or ""
        if _is_permitted(token.strip(), environ["REMOTE_ADDR"]):
            body: Iterable[bytes] = app(environ, start_response)
            return body
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="Director"')])
        return [b""]

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        slots = threading.BoundedSemaphore(_MOST)

        def process_request(self, request: Any, client_address: Any) -> None:
            if self.slots.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.slots.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Log a connection that broke off without a traceback."""
            logger.debug("metrics: %s not answered", client_address)

    try:
        server = make_server(host, port, guarded, Server, _Handler)
    except OSError as error:
        text = (
            f"Cannot listen on {host} port {port} ({error.strerror}); change "
            "DIRECTOR_METRICS_LISTEN."
        )
        raise CannotListen(text) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
